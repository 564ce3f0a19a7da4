"""Read a Label Studio project's labelling configuration: where names go, and which there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from maskwise.data.label_studio_regions import KINDS, Kind
from maskwise.errors import InputError

Key = Literal["brushlabels", "polygonlabels", "rectanglelabels", "labels", "choices"]
"""What results call names."""
LABELS: dict[Kind, Key] = {"brush": "brushlabels", "polygon": "polygonlabels", "rectangle": "rectanglelabels"}
"""What results call the labels of a shape."""
MAX_CONFIG = 1_000_000
"""Maximum length of a configuration, characters."""


@dataclass(frozen=True)
class Control:
    """A tag that takes regions or names.

    Attributes:
        name: its name, `from_name` in results.
        kind: the shape of its regions; None if it takes names of regions only.
        options: its names, as (name of the model in lower case, name in the configuration); without any, regions only.
        key: what results call its names.
    """

    name: str
    kind: Kind | None
    options: tuple[tuple[str, str], ...] = ()
    key: Key = "choices"


@dataclass(frozen=True)
class Labelling:
    """What of a configuration concerns one image.

    Attributes:
        image: name of the image's tag, `to_name` in results.
        key: the image's key in the tasks' data.
        shapes: tags that draw regions, those with labels first.
        choices: the tag that names regions one by one; None if there is none.
    """

    image: str
    key: str
    shapes: tuple[Control, ...]
    choices: Control | None

    def shape_for(self, kind: Kind | None) -> Control | None:
        """Return the tag that takes regions of a shape; for None the one that takes new regions."""
        wanted = KINDS if kind is None else (kind,)
        usable = [control for control in self.shapes if control.kind in wanted]
        return min(usable, key=lambda one: (not one.options, KINDS.index(one.kind or "brush")), default=None)

    @property
    def options(self) -> dict[str, str]:
        """The names of all tags: name of the model in lower case to name in the configuration."""
        controls = (*self.shapes, *([] if self.choices is None else [self.choices]))
        return {name: option for control in controls for name, option in control.options}


def read_labelling(config: str) -> Labelling:
    """Return what a labelling configuration asks for.

    A model's name belongs to an option if the option's `predicted_values` has it, or else its `value` or `alias`, in
    capitals or not.

    Raises:
        InputError: no XML, too long, with entities of its own, without an image, or without a tag for regions.
    """
    if len(config) > MAX_CONFIG or "<!" in config.replace("<!--", ""):
        raise InputError("the labelling configuration is too long or declares entities; give plain XML tags")
    try:
        root = ElementTree.fromstring(config)
    except ElementTree.ParseError as error:
        raise InputError(f"the labelling configuration is not XML ({error}); copy it from the project") from error
    image = next((tag for tag in root.iter("Image") if tag.get("value", "").startswith("$")), None)
    if image is None:
        raise InputError('the labelling configuration has no <Image value="$...">; Maskwise names regions of images')
    name = image.get("name", "image")
    shapes, choices = [], None
    for tag in root.iter():
        if name not in tag.get("toName", "").split(","):
            continue
        kind = next((kind for kind in KINDS if tag.tag.lower() in (kind, f"{kind}labels")), None)
        if kind is not None:
            shapes.append(Control(tag.get("name", ""), kind, _options(tag), LABELS[kind]))
        elif choices is None and tag.tag == "Choices" and tag.get("perRegion", "").lower() == "true":
            choices = Control(tag.get("name", ""), None, _options(tag), "choices")
        elif choices is None and tag.tag == "Labels":
            choices = Control(tag.get("name", ""), None, _options(tag), "labels")
    if not shapes:
        raise InputError(
            "the labelling configuration has no tag for regions; add BrushLabels, PolygonLabels or RectangleLabels"
        )
    return Labelling(name, image.get("value", "")[1:], tuple(shapes), choices)


def _options(tag: ElementTree.Element) -> tuple[tuple[str, str], ...]:
    pairs = []
    for option in tag.iter():
        value = option.get("value")
        if option.tag in ("Label", "Choice") and value:
            given = [one.strip() for one in option.get("predicted_values", "").split(",")]
            names = [one for one in given if one] or [value, option.get("alias", value)]
            pairs += [(one.lower(), value) for one in names]
    return tuple(dict(pairs).items())
