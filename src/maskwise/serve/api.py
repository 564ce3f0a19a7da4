"""The routes of the HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, File, Form, HTTPException, Request, Response, UploadFile
from pydantic import BeforeValidator, Json

from maskwise import __version__
from maskwise.data.masks import Mask
from maskwise.errors import InputError
from maskwise.model.prediction import Prediction
from maskwise.serve.openapi import form_fields
from maskwise.serve.reading import GivenRegion
from maskwise.serve.schemas import (
    EmbeddedRegion,
    Embeddings,
    Health,
    KeptImage,
    KnownClass,
    Model,
    Models,
    NamedRegion,
    Outline,
    Predictions,
    Problem,
    Prompts,
    Regions,
    Rle,
    Segment,
    Segments,
    Things,
)
from maskwise.serve.services import ONE_PHOTO, Question, Services
from maskwise.tasks.naming import MIN_SCORE, Thing, things_of

WHY = {
    400: "The request is no form that can be read.",
    401: "The token is missing or wrong.",
    403: "The page or the host name may not use this server.",
    404: "The photograph is no longer kept.",
    408: "The request came too slowly.",
    413: "The request, the photograph or the regions are too large.",
    422: "Something in the request cannot be used.",
    503: "Too much is waiting; the header Retry-After says when to come back.",
}
"""What the statuses of refusals mean."""
ImageFile = Annotated[
    UploadFile | None, File(description="The photograph: JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, JPEG 2000 or AVIF.")
]
ImageId = Annotated[
    str | None,
    Form(
        pattern="^([0-9a-f]{32})?$",
        description="Instead of the photograph: the id that /v1/images gave it. An empty one is none.",
    ),
]


async def known_fields(request: Request) -> None:
    """Refuse forms with fields that the route does not have: they are misspelt.

    Raises:
        InputError: there is such a field, or two photographs.
    """
    if request.method != "POST":
        return
    given, known = set(await request.form()), form_fields(request.app, request.scope["route"].path)
    if unknown := sorted(given - known):
        raise InputError(f"the form has a field {unknown[0][:50]!r}; accepted are {', '.join(sorted(known))}")
    if {"image", "image_id"} <= given:
        raise InputError(ONE_PHOTO)


router = APIRouter(dependencies=[Depends(known_fields)])


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI document says of refusals."""
    return {status: {"model": Problem, "description": WHY[status]} for status in statuses}


READING = refusals(401, 403)
"""Refusals of routes without a body."""
ASKING = refusals(*WHY)
"""Refusals of routes that read a photograph."""


def flag(value: Any) -> bool:
    """Return what a form's field says, true or false; pydantic alone takes a dozen other words.

    Raises:
        ValueError: it is something else.
    """
    words = {"true": True, "false": False, True: True, False: False}
    if not isinstance(value, (str, bool)) or value not in words:
        raise ValueError("give true or false")
    return words[value]


def services_of(request: Request) -> Services:
    """Return what the requests of this server share."""
    return cast(Services, request.app.state.services)


def question(
    image: ImageFile = None,
    image_id: ImageId = None,
    masks: Annotated[
        list[UploadFile] | None, File(description="Mask pictures of the photograph's size, white on black.")
    ] = None,
    regions: Annotated[
        Json[Regions] | None,
        Form(description="JSON list of regions, each a box, polygons, run lengths, or a prompt for the segmenter."),
    ] = None,
    segments: Annotated[
        UploadFile | None, File(description="COCO file, or what SAM writes; its segments of this photograph.")
    ] = None,
) -> Question:
    """Return a request's photograph and regions."""
    return Question(image, image_id, masks or (), regions.root if regions else (), segments)


def photo_question(image: ImageFile = None, image_id: ImageId = None) -> Question:
    """Return a request's photograph."""
    return Question(image, image_id)


def in_order(pairs: Sequence[tuple[GivenRegion, Mask]], *, segmentation: bool) -> list[dict[str, Any]]:
    """Return what the answer says of each region besides its names."""
    outlines = []
    for region, mask in pairs:
        rle = Rle(**mask.to_rle()) if segmentation else None
        box, iou = [int(value) for value in mask.box_xywh], region.predicted_iou
        outline = Outline(region=region.name, bbox=box, area=mask.area, segmentation=rle, predicted_iou=iou)
        outlines.append(outline.model_dump())
    return outlines


def named_regions(
    pairs: Sequence[tuple[GivenRegion, Mask]], predictions: Sequence[Prediction], *, segmentation: bool
) -> list[NamedRegion]:
    """Return what the answer says of each region."""
    regions = []
    outlines = in_order(pairs, segmentation=segmentation)
    for (region, _), outline, prediction in zip(pairs, outlines, predictions, strict=True):
        record: dict[str, Any] = {**outline, **prediction.to_dict()}
        regions.append(NamedRegion(**record, given=region.given))
    return regions


Asked = Annotated[Question, Depends(question)]
Shared = Annotated[Services, Depends(services_of)]
Flag = Annotated[bool, BeforeValidator(flag)]
Outlines = Annotated[Flag, Form(description="Whether the answer has each region's run lengths.")]

Top = Annotated[int, Form(ge=1, le=1000, description="Number of names for each region.")]
Score = Annotated[float, Form(ge=0, le=1, description="Things of a lower score are left out; 0 shows all.")]
Points = Annotated[
    int,
    Form(ge=1, le=64, description="Where everything is outlined: points of the grid in each direction."),
]


@router.get("/healthz", tags=["server"], responses=refusals(403, 503))
async def health(services: Shared) -> Health:
    """Say whether the server works."""
    if not services.batching.alive:
        raise HTTPException(503, "the batching thread has ended; start the server again")
    return Health(status="ok")


@router.get(
    "/metrics",
    tags=["server"],
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Numbers for Prometheus."},
        **READING,
    },
)
async def metrics(services: Shared) -> Response:
    """Return numbers for Prometheus."""
    return Response(services.metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/v1/models", tags=["API"], responses=READING)
async def models(services: Shared) -> Models:
    """Say which models there are, and what they know."""
    info = services.predictor.info
    classes = [KnownClass(id=category.id, name=category.name) for category in info.categories]
    model = Model(name=info.name, mode=services.predictor.mode, classes=classes)
    return Models(models=[model], segmenter=True, version=__version__)


@router.post("/v1/images", tags=["API"], responses=refusals(400, 401, 403, 408, 413, 422, 503))
async def images(
    services: Shared,
    image: Annotated[UploadFile, File(description="The photograph.")],
    prepare: Annotated[Flag, Form(description="Whether to encode it for the segmenter at once.")] = False,
) -> KeptImage:
    """Keep a photograph for further requests, until newer ones need its room."""
    async with services.photo(Question(image, None)) as photo:
        kept = services.store.keep(photo.name, photo.pixels)
    if prepare:
        services.outliner.encode(kept)
    height, width = kept.pixels.shape[:2]
    return KeptImage(image_id=kept.image_id, width=width, height=height)


@router.post("/v1/predict", tags=["API"], responses=ASKING, response_model_exclude_none=True)
async def predict(
    request: Request,
    services: Shared,
    asked: Asked,
    top: Top = 5,
    segmentation: Outlines = False,
) -> Predictions:
    """Name regions of a photograph: mask pictures first, then `regions`, then `segments`."""
    async with services.regions(asked) as (image, given):
        pairs = await services.outlined(request, image, given)
        outputs = await services.named(request, image, [mask for _, mask in pairs])
    regions = named_regions(pairs, outputs.predictions(top), segmentation=segmentation)
    height, width = image.pixels.shape[:2]
    model, shared = services.predictor.info.name, outputs.shared
    return Predictions(width=width, height=height, model=model, shared_crops=shared, regions=regions)


@router.post("/v1/embed", tags=["API"], responses=ASKING, response_model_exclude_none=True)
async def embed(request: Request, services: Shared, asked: Asked, segmentation: Outlines = False) -> Embeddings:
    """Return the features of regions that the model's last layer classifies."""
    async with services.regions(asked) as (image, given):
        pairs = await services.outlined(request, image, given)
        outputs = await services.named(request, image, [mask for _, mask in pairs])
    assert outputs.embeddings is not None, "the batching thread asks for them"
    vectors, outlines = outputs.embeddings.tolist(), in_order(pairs, segmentation=segmentation)
    regions = [EmbeddedRegion(**outline, embedding=row) for outline, row in zip(outlines, vectors, strict=True)]
    height, width = image.pixels.shape[:2]
    return Embeddings(width=width, height=height, model=services.predictor.info.name, regions=regions)


@router.post("/v1/name", tags=["API"], responses=ASKING, response_model_exclude_none=True)
async def name(
    *,
    request: Request,
    services: Shared,
    photo_asked: Annotated[Question, Depends(photo_question)],
    top: Top = 5,
    points_per_side: Points = 24,
    min_score: Score = MIN_SCORE,
    segmentation: Outlines = False,
) -> Things:
    """Find and name the things in a photograph, as `maskwise name` does."""
    async with services.photo(photo_asked, masks=services.limits.max_masks) as photo:
        found = await services.everything(request, photo, points_per_side)
        outputs = await services.named(request, photo, [one.mask for one in found])
    pairs = zip(found, outputs.predictions(top), strict=True)
    things = things_of([Thing(segment, one) for segment, one in pairs], min_score)
    outlines = [
        (GivenRegion(str(number), predicted_iou=thing.segment.score), thing.segment.mask)
        for number, thing in enumerate(things, start=1)
    ]
    regions = named_regions(outlines, [thing.prediction for thing in things], segmentation=segmentation)
    height, width = photo.pixels.shape[:2]
    return Things(width=width, height=height, model=services.predictor.info.name, outlines=len(found), things=regions)


@router.post("/v1/segment", tags=["API"], responses=ASKING)
async def segment(
    request: Request,
    services: Shared,
    photo_asked: Annotated[Question, Depends(photo_question)],
    prompts: Annotated[
        Json[Prompts] | None, Form(description="JSON list of prompts, a thing each; default: everything.")
    ] = None,
    points_per_side: Points = 24,
) -> Segments:
    """Outline things in a photograph, without naming them."""
    masks = services.limits.max_masks if prompts is None else len(prompts.root)
    async with services.photo(photo_asked, masks=masks) as photo:
        if prompts is None:
            found = await services.everything(request, photo, points_per_side)
        else:
            found = await services.prompted(request, photo, prompts.root)
    segments = [
        Segment(
            segmentation=Rle(**one.mask.to_rle()),
            bbox=[int(value) for value in one.mask.box_xywh],
            area=one.mask.area,
            predicted_iou=one.score,
            stability_score=one.stability,
        )
        for one in found
    ]
    height, width = photo.pixels.shape[:2]
    return Segments(width=width, height=height, segments=segments)
