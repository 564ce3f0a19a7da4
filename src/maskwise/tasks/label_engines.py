"""The engines that name the images of a COCO file: this process, or Ray Data."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from maskwise.concurrency import prefetch
from maskwise.data.coco_file import CocoFile
from maskwise.data.images import Pixels, load_image
from maskwise.data.masks import Mask
from maskwise.data.problems import Id, OnError, Problem
from maskwise.errors import AnnotationError, ImageError, MaskError
from maskwise.extras import needs_extra
from maskwise.model.prediction import TopClasses
from maskwise.model.predictor import Predictor
from maskwise.tasks.journal import ImageResult

Engine = Literal["local", "ray"]
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
    reading: deque[TaskImage] = deque()

    def shown() -> Iterator[tuple[Pixels, list[Mask]]]:
        for image in prefetch(read_task(work.coco, task, work.on_error) for task in work.tasks):
            reading.append(image)
            yield image.pixels, image.usable

    for outputs in work.predictor.run_many(shown()):
        yield result_of(reading.popleft(), outputs.top_classes(work.top))


def label_with_ray(work: Work) -> Iterator[ImageResult]:
    """Name images with Ray Data, in any order; each worker opens the model once.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    with needs_extra("ray"):
        import ray
        import ray.data
    if not ray.is_initialized():
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    shared = ray.put(work)

    class Worker:
        def __init__(self) -> None:
            self.work = ray.get(shared)

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            image = read_task(self.work.coco, self.work.tasks[int(row["number"])], self.work.on_error)
            outputs = self.work.predictor.run(image.pixels, image.usable)
            return {"result": result_of(image, outputs.top_classes(self.work.top)).to_json()}

    numbers = ray.data.from_items([{"number": number} for number in range(len(work.tasks))])
    cores = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
    workers = ray.data.ActorPoolStrategy(min_size=1, max_size=max(int(cores), 1))
    for row in numbers.map(Worker, compute=workers).iter_rows():  # type: ignore[arg-type]
        yield ImageResult.from_json(row["result"])


ENGINES: Mapping[Engine, Callable[[Work], Iterator[ImageResult]]] = {"local": label_locally, "ray": label_with_ray}
