"""Outline the things in photographs, and write them as a COCO file of segments without names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from maskwise.data.atomic_files import check_output, remove_leftovers, whole_file
from maskwise.data.images import IMAGE_SUFFIXES, Pixels, load_image
from maskwise.data.problems import OnError, Problem, write_problems
from maskwise.data.segmentations import outline_fields
from maskwise.errors import ImageError, InputError
from maskwise.model.segmenter import Segment, Segmenter
from maskwise.progress import Progress


@dataclass(frozen=True)
class Segmenting:
    """The result of `segment_photos`.

    Attributes:
        images: number of photographs in the output.
        segments: number of segments in it.
        problems: photographs that could not be used, and why.
    """

    images: int
    segments: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What to outline in a photograph; without any, everything.

    Attributes:
        clicks: for each thing its points: x and y, pixels.
        boxes: for each thing a box around it: left, top, width and height, pixels.
    """

    clicks: tuple[tuple[tuple[float, float], ...], ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.clicks or self.boxes)


def segment_photos(
    photos: str | os.PathLike[str],
    output: str | os.PathLike[str],
    segmenter: Segmenter | None = None,
    *,
    prompts: Prompts | None = None,
    points_per_side: int = 24,
    on_error: OnError = "skip",
) -> Segmenting:
    """Write the segments of a photograph, or of all photographs in a folder, as a COCO file.

    An annotation has `segmentation` (run lengths), `bbox`, `area`, `iscrowd`, `predicted_iou` and `stability_score`,
    and no category. A photograph in a folder that cannot be read is left out and listed in `OUTPUT.problems.json`.

    Args:
        photos: an image file, or a folder; its sub-folders are read too, hidden files are not.
        output: the file to write, whole or not at all.
        segmenter: the network (default: the built-in one).
        prompts: what to outline in a single photograph (default: everything).
        points_per_side: points of the grid in each direction, 1 to 128.
        on_error: `skip` leaves unreadable photographs of a folder out; `stop` raises the first fault.

    Raises:
        ImageError: the photograph cannot be read, or none of the folder's; with `stop` also a single one of them.
        InputError: there is no such file or folder, the folder has no images, prompts for a folder, a prompt or
            number outside its range, or the output cannot be written.

    Example:
        segment_photos("photos", "segments.json")
    """
    photos, output = Path(photos), Path(output)
    one = not photos.is_dir()
    if prompts and not one:
        raise InputError(f"{photos}: is a folder; points and boxes belong to one photograph")
    files = [photos] if one else list(photos_in(photos))
    if not files:
        raise InputError(f"{photos}: no image in this folder; accepted are {', '.join(IMAGE_SUFFIXES)}")
    check_output(output, inputs=files if one else [])
    segmenter = segmenter if segmenter is not None else Segmenter()
    remove_leftovers(output)
    problems: list[Problem] = []
    with whole_file(output) as temporary, open(temporary, "w", encoding="utf-8", errors="surrogatepass") as file:
        writer = _Writer(file)
        with Progress(len(files), "segment", "images") as progress:
            for number, path in enumerate(files, start=1):
                name = path.name if one else path.relative_to(photos).as_posix()
                try:
                    image = load_image(path)
                except ImageError as error:
                    if one or on_error == "stop":
                        raise
                    problems.append(Problem(str(error)))
                else:
                    writer.add(number, name, image, _segments(segmenter, image, prompts, points_per_side))
                progress.update()
        if not writer.images:
            raise ImageError(f"none of the {len(files)} images can be read; the first: {problems[0].message}")
        writer.finish()
    write_problems(output.with_name(output.name + ".problems.json"), problems)
    return Segmenting(len(writer.images), writer.segments, tuple(problems))


def photos_in(folder: Path) -> Iterator[Path]:
    """Yield the image files of a folder and its sub-folders, by name. Links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(parent) / name


def _segments(segmenter: Segmenter, image: Pixels, prompts: Prompts | None, points_per_side: int) -> Sequence[Segment]:
    if not prompts:
        return segmenter.segment(image, points_per_side=points_per_side)
    encoded = segmenter.encode(image)
    clicked = [segmenter.prompt(encoded, points=points) for points in prompts.clicks]
    return clicked + [segmenter.prompt(encoded, box_xywh=box) for box in prompts.boxes]


class _Writer:
    """Writes annotations one by one: a folder of photographs may have millions."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.images: list[dict[str, Any]] = []
        self.segments = 0
        file.write('{"annotations": [')

    def add(self, image_id: int, name: str, image: Pixels, segments: Sequence[Segment]) -> None:
        self.images.append({"id": image_id, "file_name": name, "width": image.shape[1], "height": image.shape[0]})
        for segment in segments:
            self._file.write(",\n" if self.segments else "\n")
            self.segments += 1
            self._file.write(json.dumps(record_of(segment, self.segments, image_id)))

    def finish(self) -> None:
        images = json.dumps(self.images, ensure_ascii=False)
        self._file.write(f'\n], "categories": [], "images": {images}}}\n')


def record_of(segment: Segment, annotation_id: int, image_id: int) -> dict[str, Any]:
    """Return a segment as an annotation of a COCO file, without a category.

    Args:
        segment: the segment.
        annotation_id: its id.
        image_id: its photograph's id.
    """
    return {
        "id": annotation_id,
        "image_id": image_id,
        **outline_fields(segment.mask),
        "predicted_iou": round(segment.score, 4),
        "stability_score": round(segment.stability, 4),
    }
