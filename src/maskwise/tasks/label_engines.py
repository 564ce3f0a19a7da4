"""The engines that name the images of a COCO file: this process, or Ray Data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from maskwise.concurrency import prefetch
from maskwise.data.coco_file import CocoFile
from maskwise.data.coco_index import Id
from maskwise.data.images import Pixels, load_image
from maskwise.data.masks import Mask
from maskwise.extras import needs_extra
from maskwise.model.prediction import TopClasses
from maskwise.model.predictor import Predictor

Engine = Literal["local", "ray"]


@dataclass(frozen=True, eq=False, slots=True)
class Task:
    """One image of a COCO file, and the rows of its annotations in the file."""

    image_id: Id
    path: str
    rows: Int64[np.ndarray, " annotations"]


def read_task(coco: CocoFile, task: Task) -> tuple[Pixels, list[Mask]]:
    """Return an image and the masks of its annotations.

    Raises:
        ImageError: the image cannot be read.
        MaskError: a segment is malformed, empty, or of another size than the image; the message names the annotation.
    """
    image = load_image(task.path)
    return image, [coco.mask(row, image.shape[:2]) for row in task.rows.tolist()]


def label_locally(
    coco: CocoFile, tasks: Sequence[Task], predictor: Predictor, top: int
) -> Iterator[tuple[Task, TopClasses]]:
    """Name images in this process, in order; the next image is read while one is named."""
    outputs = predictor.run_many(prefetch(read_task(coco, task) for task in tasks))
    for task, of_image in zip(tasks, outputs, strict=True):
        yield task, of_image.top_classes(top)


def label_with_ray(
    coco: CocoFile, tasks: Sequence[Task], predictor: Predictor, top: int
) -> Iterator[tuple[Task, TopClasses]]:
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
    shared = ray.put((coco, tasks, predictor))

    class Worker:
        def __init__(self) -> None:
            self.coco, self.tasks, self.predictor = ray.get(shared)

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            number = int(row["number"])
            image, masks = read_task(self.coco, self.tasks[number])
            top_classes = self.predictor.run(image, masks).top_classes(top)
            return {"number": number, "classes": top_classes.indices, "scores": top_classes.probabilities}

    numbers = ray.data.from_items([{"number": number} for number in range(len(tasks))])
    cores = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
    workers = ray.data.ActorPoolStrategy(min_size=1, max_size=max(int(cores), 1))
    for row in numbers.map(Worker, compute=workers).iter_rows():  # type: ignore[arg-type]
        yield tasks[int(row["number"])], TopClasses(row["classes"], row["scores"])


ENGINES: Mapping[Engine, Callable[[CocoFile, Sequence[Task], Predictor, int], Iterator[tuple[Task, TopClasses]]]] = {
    "local": label_locally,
    "ray": label_with_ray,
}
