"""Name every annotation of a COCO file; everything else in the file stays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from maskwise.data.atomic_files import check_output
from maskwise.data.coco_file import CocoFile, read_coco
from maskwise.data.coco_writer import write_named_coco
from maskwise.data.image_paths import find_images
from maskwise.data.regions import grouped
from maskwise.errors import AnnotationError, InputError
from maskwise.model.prediction import TopClasses, check_top
from maskwise.model.predictor import Predictor
from maskwise.tasks.journal import Journal, run_key
from maskwise.tasks.label_engines import ENGINES, Engine, Task

SCORE_DIGITS = 6
"""Digits after the decimal point of a score in the output."""


def label_coco(
    segments: str | os.PathLike[str] | CocoFile,
    images_dir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    predictor: Predictor | None = None,
    *,
    top: int = 5,
    engine: Engine = "local",
) -> int:
    """Write a COCO file with every annotation named.

    Finished images are kept in a journal beside the output, `OUTPUT.partial`: an interrupted run resumes when you
    repeat the call. The journal is deleted once the output is written.

    Args:
        segments: COCO file; the categories of its annotations, if any, are ignored.
        images_dir: folder of the images.
        output: the file to write, whole or not at all.
        predictor: the model (default: the built-in one; with `ray` on one thread per worker).
        top: how many classes each annotation gets, at least 1.
        engine: `local` runs in this process, `ray` with Ray Data on this machine or a cluster.

    Returns:
        Number of annotations that this run named; those taken from the journal are not counted.

    Raises:
        AnnotationError: the file is not COCO's, an image is not in the folder, the journal belongs to a different run,
            or the file changed during the run.
        ImageError, MaskError: an image or a segment cannot be used; the message names it.
        InputError: top is below 1, an unknown engine, or the output cannot be written or is the input.
        MissingExtraError: the engine is not installed.
    """
    check_top(top)
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r}; accepted are {', '.join(ENGINES)}")
    output = Path(output)
    coco = segments if isinstance(segments, CocoFile) else read_coco(segments, labelled=False)
    check_output(output, inputs=[coco.path])
    tasks = _tasks(coco, Path(images_dir))
    if predictor is None:
        predictor = Predictor(threads=1 if engine == "ray" else None)
    results = _Results(len(coco.index.start), min(top, len(predictor.classes)))
    key = run_key(coco, predictor, top)
    journal = Journal(output.with_name(output.name + ".partial"), key)
    open_tasks = _open_tasks(tasks, journal, results)
    done = len(tasks) - len(open_tasks)
    with (
        journal.appending() as append,
        tqdm(total=len(tasks), initial=done, unit=" images", desc="label", disable=None) as progress,
    ):
        for task, top_classes in ENGINES[engine](coco, open_tasks, predictor, top):
            rounded = TopClasses(top_classes.indices, np.round(top_classes.probabilities, SCORE_DIGITS))
            append(task.image_id, rounded)
            results.put(task, rounded)
            progress.update()
    if run_key(coco, predictor, top) != key:
        raise AnnotationError(f"{coco.path}: changed during the run; start again")
    write_named_coco(coco, predictor.info.categories, results.classes, results.scores, output)
    journal.delete()
    return sum(len(task.rows) for task in open_tasks)


class _Results:
    """The classes and scores of a file's annotations in columns: a sixtieth of the memory that objects take."""

    def __init__(self, annotations: int, top: int) -> None:
        self.classes = np.zeros((annotations, top), dtype=np.int32)
        self.scores = np.zeros((annotations, top))

    def put(self, task: Task, top_classes: TopClasses) -> None:
        self.classes[task.rows] = top_classes.indices
        self.scores[task.rows] = top_classes.probabilities


def _tasks(coco: CocoFile, images_dir: Path) -> list[Task]:
    rows = list(grouped(coco.index.image))
    paths = find_images(coco, images_dir, [int(coco.index.image[of_image[0]]) for of_image in rows])
    return [Task(coco.ids(int(of_image[0]))[0], path, of_image) for of_image, path in zip(rows, paths, strict=True)]


def _open_tasks(tasks: list[Task], journal: Journal, results: _Results) -> list[Task]:
    """Put the journal's results with the others and return the tasks that it does not hold."""
    by_id, done = {task.image_id: task for task in tasks}, set()
    for image_id, top_classes in journal.read():
        results.put(by_id[image_id], top_classes)
        done.add(image_id)
    return [task for task in tasks if task.image_id not in done]
