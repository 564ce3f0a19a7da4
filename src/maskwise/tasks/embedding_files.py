"""Write the embeddings of a COCO file's annotations, with their ids."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from maskwise.data.atomic_files import check_output, remove_leftovers
from maskwise.data.coco_file import CocoFile
from maskwise.data.problems import OnError, Problem, write_problems
from maskwise.data.segment_files import read_segments
from maskwise.data.vector_records import VectorRecords
from maskwise.data.vector_writers import Vectors, check_suffix, write_vectors
from maskwise.errors import AnnotationError
from maskwise.model.predictor import Predictor
from maskwise.progress import Progress
from maskwise.tasks.journal import run_key
from maskwise.tasks.label_engines import Task, Work, outputs_of_images
from maskwise.tasks.labelling import image_tasks


@dataclass(frozen=True)
class Embedding:
    """The result of `embed_coco`.

    Attributes:
        annotations: number of annotations in the file.
        embedded: how many have a vector in the output.
        embedded_now: how many of these this run embedded; the others were kept from an interrupted run.
        features: numbers in a vector.
        problems: why the others have none.
    """

    annotations: int
    embedded: int
    embedded_now: int
    features: int
    problems: tuple[Problem, ...]


def embed_coco(
    segments: str | os.PathLike[str] | CocoFile,
    images_dir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    predictor: Predictor | None = None,
    *,
    on_error: OnError = "skip",
    allow_outside: bool = False,
    images_of: str | os.PathLike[str] | None = None,
) -> Embedding:
    """Write the embedding of every annotation of a COCO file, with ids; see `write_vectors` for the formats.

    Rows are in the file's order; faulty records and images have none and are listed in `OUTPUT.problems.json`. Finished
    images are kept in `OUTPUT.partial`: an interrupted run resumes when you repeat the call. For masks and images in
    memory, see `Predictor.embed`.

    Args:
        segments: COCO file or another form of segments, see `read_segments`; categories are not needed.
        images_dir: folder of the images, or a single photograph.
        output: the file to write: .npy, .npz or .parquet.
        predictor: the model (default: the built-in one).
        on_error: `skip` leaves faulty records out; `stop` raises the first fault.
        allow_outside: whether file names may leave the folder of images.
        images_of: COCO file that names the images of a results list.

    Raises:
        AnnotationError: the file is not COCO's as a whole, it changed during the run, or nothing could be embedded;
            with `stop` also a faulty record.
        ImageError, MaskError: with `stop`, an image or a segment cannot be used; the message names it.
        InputError: an unknown suffix, another run writes this output, or it cannot be written or is the input.
        MissingExtraError: the output is Parquet, and pyarrow is not installed.

    Example:
        embed_coco("segments.json", "photos", "vectors.npz")
    """
    output = Path(output)
    check_suffix(output)
    coco = segments
    if not isinstance(coco, CocoFile):
        coco = read_segments(coco, images_dir, images_of=images_of, on_error=on_error)
    check_output(output, inputs=[coco.path])
    predictor = predictor or Predictor()
    state, count = coco.file_state(), len(coco.index.start)
    partial = output.with_name(output.name + ".partial")
    with VectorRecords(partial, count, predictor.features) as records:
        remove_leftovers(output)
        tasks, problems = image_tasks(
            coco, np.arange(count), images_dir, run_key(predictor, 0), on_error=on_error, allow_outside=allow_outside
        )
        left = [task for task in tasks if not all([records.recall(row, _key(task, row)) for row in task.rows.tolist()])]
        work = Work(coco, left, predictor, 1, on_error)
        _embed(work, records, problems)  # Faults are found again: images with one are left.
        if coco.file_state() != state:
            raise AnnotationError(f"{coco.path}: changed during the run; repeat the command")
        rows = np.flatnonzero(records.valid)
        write_vectors(Vectors(coco, rows, predictor.features, records.chunks()), output)
        write_problems(output.with_name(output.name + ".problems.json"), problems)
        records.delete()
    if problems and not len(rows):
        raise AnnotationError(f"no annotation could be embedded; the first problem: {problems[0].message}")
    now = sum(int(records.valid[task.rows].sum()) for task in left)
    return Embedding(count, len(rows), now, predictor.features, tuple(problems))


def _key(task: Task, row: int) -> str:
    """Return what the vector of a row depends on: image, outlines, model and mode, and which outline it is of."""
    return f"{task.key} {int(np.searchsorted(task.rows, row))}"


def _embed(work: Work, records: VectorRecords, problems: list[Problem]) -> None:
    """Embed images; the next one is read while one is embedded."""
    finished = 0
    try:
        with Progress(len(work.tasks), "embed", "images") as progress:
            for image, outputs in outputs_of_images(work, work.tasks, logits=False, embeddings=True):
                assert outputs.embeddings is not None
                rows = [
                    row for row, mask in zip(image.task.rows.tolist(), image.masks, strict=True) if mask is not None
                ]
                for row, vector in zip(rows, outputs.embeddings, strict=True):
                    records.put(row, _key(image.task, row), vector)
                records.flush()
                for problem in image.problems:
                    assert problem.row is not None
                    problems.append(replace(problem, row=int(image.task.rows[problem.row])))
                finished += 1
                progress.update()
    except KeyboardInterrupt as error:
        error.add_note(f"{finished} of {len(work.tasks)} images are done and kept; repeat the command to go on")
        raise
