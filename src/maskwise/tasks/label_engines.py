"""The engines that name the images of a COCO file: this process, or Ray Data."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64

from maskwise.concurrency import prefetch
from maskwise.data.coco_file import CocoFile
from maskwise.data.images import Pixels, load_image
from maskwise.data.masks import Mask
from maskwise.data.problems import Id, OnError, Problem
from maskwise.errors import AnnotationError, ImageError, MaskError
from maskwise.model.prediction import ImageOutputs, TopClasses
from maskwise.model.predictor import Predictor
from maskwise.tasks.journal import ImageResult
from maskwise.tasks.ray_pool import answers_of_workers

Engine = Literal["local", "ray"]
RAY_BATCH = 16
"""Images that a worker of Ray names at a time: what is done twice when it dies."""
SCORE_DIGITS = 6
"""Digits after the decimal point of a score."""


@dataclass(frozen=True, eq=False, slots=True)
class Task:
    """One image of a COCO file, the rows of its annotations in the file, and the key of its result."""

    image_id: Id
    path: str
    rows: Int64[np.ndarray, " annotations"]
    key: str


@dataclass(frozen=True)
class Work:
    """What every engine needs.

    Attributes:
        coco: the segments.
        tasks: the images.
        predictor: the model.
        top: number of classes per annotation.
        on_error: what to do about faults.
    """

    coco: CocoFile
    tasks: Sequence[Task]
    predictor: Predictor
    top: int
    on_error: OnError


@dataclass(frozen=True, eq=False)
class TaskImage:
    """An image and the masks of its annotations, as far as they can be read.

    Attributes:
        task: the image.
        pixels: the image; one black pixel if it cannot be read.
        masks: of the annotations, None where there is a problem.
        problems: the faults, with `row` as the place in the task.
    """

    task: Task
    pixels: Pixels
    masks: list[Mask | None]
    problems: list[Problem]

    @property
    def usable(self) -> list[Mask]:
        """The masks that can be named."""
        return [mask for mask in self.masks if mask is not None]


def read_task(coco: CocoFile, task: Task, on_error: OnError) -> TaskImage:
    """Read an image and the masks of its annotations; faults become problems.

    Raises:
        AnnotationError, ImageError, MaskError: a fault, if `on_error` is `stop`; the message names the record.
    """
    rows = task.rows.tolist()
    ids = [coco.ids(row)[1] for row in rows]
    try:
        pixels = load_image(task.path)
    except ImageError as error:
        if on_error == "stop":
            raise
        problems = [Problem(str(error), task.image_id, one, place) for place, one in enumerate(ids)]
        return TaskImage(task, np.zeros((1, 1, 3), dtype=np.uint8), [None] * len(rows), problems)
    masks: list[Mask | None] = []
    problems = []
    for place, row in enumerate(rows):
        try:
            masks.append(coco.mask(row, (pixels.shape[0], pixels.shape[1])))
        except (MaskError, AnnotationError) as error:
            if on_error == "stop":
                raise
            masks.append(None)
            problems.append(Problem(str(error), task.image_id, ids[place], place))
    return TaskImage(task, pixels, masks, problems)


def result_of(image: TaskImage, top_classes: TopClasses) -> ImageResult:
    """Return the result of an image.

    Args:
        image: the image.
        top_classes: of its usable masks.
    """
    indices = iter(top_classes.indices.tolist())
    scores = iter(np.round(top_classes.probabilities, SCORE_DIGITS).tolist())
    known = iter(None if np.isnan(one) else round(one, SCORE_DIGITS) for one in top_classes.known.tolist())
    return ImageResult(
        key=image.task.key,
        image_hw=(image.pixels.shape[0], image.pixels.shape[1]) if image.usable else None,
        classes=[None if mask is None else next(indices) for mask in image.masks],
        scores=[None if mask is None else next(scores) for mask in image.masks],
        known=[None if mask is None else next(known) for mask in image.masks],
        boxes=[None if mask is None else mask.box_xywh for mask in image.masks],
        areas=[None if mask is None else mask.area for mask in image.masks],
        problems=image.problems,
    )


def label_locally(work: Work) -> Iterator[ImageResult]:
    """Name images in this process, in order; the next image is read while one is named."""
    return _label(work, work.tasks)


def _label(work: Work, tasks: Iterable[Task]) -> Iterator[ImageResult]:
    for image, outputs in outputs_of_images(work, tasks):
        yield result_of(image, outputs.top_classes(work.top))


def outputs_of_images(
    work: Work, tasks: Iterable[Task], *, logits: bool = True, embeddings: bool = False
) -> Iterator[tuple[TaskImage, ImageOutputs]]:
    """Yield images and what the network makes of their usable masks; the next image is read while one is in work.

    Args:
        work: has the file, the model and what to do about faults.
        tasks: the images.
        logits: see `Predictor.run`.
        embeddings: see `Predictor.run`.

    Raises:
        AnnotationError, ImageError, MaskError: see `read_task`.
    """
    reading: deque[TaskImage] = deque()

    def shown() -> Iterator[tuple[Pixels, list[Mask]]]:
        for image in prefetch(read_task(work.coco, task, work.on_error) for task in tasks):
            reading.append(image)
            yield image.pixels, image.usable

    for outputs in work.predictor.run_many(shown(), logits=logits, embeddings=embeddings):
        yield reading.popleft(), outputs


def label_with_ray(work: Work) -> Iterator[ImageResult]:
    """Name images with Ray Data, in any order; each worker opens the model once and names a batch of images at a time.

    Raises:
        MissingExtraError: Ray is not installed.
        MaskwiseError: what a worker raised.
    """
    count, predictor = len(work.tasks), work.predictor
    answers = answers_of_workers(
        work,
        _label_as_text,
        count=count,
        batch=RAY_BATCH,
        blocks=None,
        threads=predictor.threads,
        device=predictor.device,
    )
    yield from map(ImageResult.from_json, answers)


def _label_as_text(work: Work, numbers: list[int]) -> list[str]:
    return [result.to_json() for result in _label(work, [work.tasks[number] for number in numbers])]


ENGINES: Mapping[Engine, Callable[[Work], Iterator[ImageResult]]] = {"local": label_locally, "ray": label_with_ray}
