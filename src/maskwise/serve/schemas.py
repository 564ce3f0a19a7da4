"""The forms of requests and answers; the OpenAPI document is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, FiniteFloat, RootModel, Tag

MAX_NAME = 200
"""Maximum number of characters of a region's name."""
MAX_POINTS = 256
"""Maximum number of points of a prompt."""
MAX_PATH = 200_000
"""Maximum number of coordinates of a polygon."""

Side = Annotated[int, Field(ge=1, le=65_535)]
Length = Annotated[int, Field(ge=0, le=2**31 - 1)]
Point = Annotated[list[FiniteFloat], Field(min_length=2, max_length=2, description="x and y, pixels")]
BoxXywh = Annotated[
    list[FiniteFloat], Field(min_length=4, max_length=4, description="left, top, width and height, pixels")
]


class Rle(BaseModel):
    """COCO's run lengths: `counts` compressed (text) or not (numbers), down the image's columns."""

    model_config = ConfigDict(extra="forbid", strict=True)
    size: Annotated[list[Side], Field(min_length=2, max_length=2, description="height and width, pixels")]
    counts: Annotated[str, Field(max_length=20_000_000)] | Annotated[list[Length], Field(max_length=5_000_000)]


class Prompt(BaseModel):
    """What shows the segmenter a thing: points on it or beside it, a box around it, or both."""

    model_config = ConfigDict(extra="forbid", strict=True)
    points: Annotated[list[Point], Field(max_length=MAX_POINTS)] = []
    labels: Annotated[
        list[Annotated[int, Field(ge=0, le=1)]] | None,
        Field(max_length=MAX_POINTS, description="for each point 1 (part of the thing) or 0 (not); default: all 1"),
    ] = None
    box: BoxXywh | None = None


class _Region(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    id: Annotated[str | None, Field(max_length=MAX_NAME, description="comes back in the answer")] = None


class BoxRegion(_Region):
    """All pixels of a box."""

    box: BoxXywh


class PolygonRegion(_Region):
    """The union of polygons, each x1, y1, x2, y2, x3, y3, ... in pixels."""

    polygons: Annotated[
        list[Annotated[list[FiniteFloat], Field(min_length=6, max_length=MAX_PATH)]],
        Field(min_length=1, max_length=1000),
    ]


class RleRegion(_Region):
    """A mask of the image's size."""

    rle: Rle


class PromptRegion(_Region):
    """What the segmenter outlines."""

    prompt: Prompt


def _form_of(region: Any) -> str | None:
    """Return which form a region has, by its keys."""
    keys = region if isinstance(region, dict) else getattr(region, "__dict__", {})
    return next((form for form in ("box", "polygons", "rle", "prompt") if form in keys), None)


Region = Annotated[
    Annotated[BoxRegion, Tag("box")]
    | Annotated[PolygonRegion, Tag("polygons")]
    | Annotated[RleRegion, Tag("rle")]
    | Annotated[PromptRegion, Tag("prompt")],
    Discriminator(
        _form_of,
        custom_error_type="region",
        custom_error_message="give each region as one of box, polygons, rle and prompt",
    ),
]


class Regions(RootModel[list[Region]]):
    """Regions of one photograph."""


class Prompts(RootModel[list[Prompt]]):
    """What shows the segmenter things of one photograph, a thing each."""


class Problem(BaseModel):
    """Why there is no answer."""

    detail: Annotated[str, Field(description="what is wrong, and what to do")]


class Health(BaseModel):
    """That the server works."""

    status: Literal["ok"]


class KnownClass(BaseModel):
    """A class that the model knows."""

    id: int | float | str
    name: str


class Model(BaseModel):
    """A model of the server."""

    name: str
    mode: Annotated[str, Field(description="how the model looks at regions: auto, exact or shared")]
    classes: list[KnownClass]


class Models(BaseModel):
    """What the server has."""

    models: list[Model]
    segmenter: Annotated[bool, Field(description="whether prompts and /v1/segment work")]
    version: str


class KeptImage(BaseModel):
    """A photograph that the server keeps for further requests, until newer ones need its room."""

    image_id: str
    width: int
    height: int


class Name(BaseModel):
    """One possible name of a region."""

    name: str
    category_id: int | float | str
    probability: Annotated[float, Field(ge=0, le=1)]


class Outline(BaseModel):
    """A region's place."""

    region: Annotated[str, Field(description="the region's id or file name, or its number")]
    bbox: Annotated[list[int], Field(description="left, top, width and height, pixels")]
    area: Annotated[int, Field(description="pixels")]
    segmentation: Rle | None = None
    predicted_iou: Annotated[float | None, Field(description="of an outline of the segmenter")] = None


class NamedRegion(Outline):
    """A region and its names, the most probable first."""

    names: list[Name]
    is_none: Annotated[bool, Field(description='whether the region counts as "none of these" classes')]
    known: Annotated[
        float | None,
        Field(description="probability of being one of the classes at all, if the model can tell"),
    ] = None
    given: Annotated[str | None, Field(description="the name that the file of segments gives to the region")] = None


class _Answer(BaseModel):
    width: int
    height: int


class Predictions(_Answer):
    """Names of regions."""

    model: str
    shared_crops: Annotated[bool, Field(description="whether regions shared crops (mode auto or shared)")]
    regions: list[NamedRegion]


class Things(_Answer):
    """What `/v1/name` finds, the surest first."""

    model: str
    outlines: Annotated[int, Field(description="number of outlines that were named")]
    things: list[NamedRegion]


class EmbeddedRegion(Outline):
    """A region and its embedding."""

    embedding: list[float]


class Embeddings(_Answer):
    """Embeddings of regions."""

    model: str
    regions: list[EmbeddedRegion]


class Segments(_Answer):
    """Outlines of things, the best first; of prompts, in their order."""

    segments: list[Segment]


class Segment(BaseModel):
    """An outline; the names are those of SAM's mask generator."""

    segmentation: Rle
    bbox: list[int]
    area: int
    predicted_iou: float
    stability_score: float
