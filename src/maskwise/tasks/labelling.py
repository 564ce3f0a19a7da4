"""Name every annotation of a COCO file; everything else in the file stays."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from maskwise.data.atomic_files import remove_leftovers
from maskwise.data.coco_file import CocoFile
from maskwise.data.coco_index import value_of
from maskwise.data.coco_writer import NamedAnnotations, NoneMode, write_named_coco
from maskwise.data.image_paths import find_each_image
from maskwise.data.named_regions import NamedRegions
from maskwise.data.problems import OnError, Problem, write_problems
from maskwise.data.regions import grouped
from maskwise.data.segment_files import read_segments
from maskwise.data.writers.formats import Format, FormatName, check_output_of, format_of, write_named
from maskwise.data.writers.records import DEFAULT_IMAGE_URL, WriteOptions
from maskwise.errors import AnnotationError, InputError
from maskwise.model.prediction import Limits, check_top
from maskwise.model.predictor import Predictor
from maskwise.progress import Progress
from maskwise.tasks.journal import ImageResult, Journal, image_key, run_key
from maskwise.tasks.label_engines import ENGINES, Engine, Task, Work


@dataclass(frozen=True)
class Labelling:
    """The result of `label_coco`.

    Attributes:
        annotations: number of annotations in the file.
        named: how many have a name in the output, or are "none of these".
        none: how many of these are "none of these".
        named_now: how many of these this run named; the others were in the journal.
        problems: why the others have none.
        kept: how many keep the name that the file has.
    """

    annotations: int
    named: int
    none: int
    named_now: int
    problems: tuple[Problem, ...]
    kept: int = 0


def label_coco(
    segments: str | os.PathLike[str] | CocoFile,
    images_dir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    predictor: Predictor | None = None,
    *,
    top: int = 5,
    engine: Engine = "local",
    on_error: OnError = "skip",
    allow_outside: bool = False,
    images_of: str | os.PathLike[str] | None = None,
    none: NoneMode = "category",
    keep: bool = False,
    form: FormatName | None = None,
    polygons: bool = False,
    image_url: str = DEFAULT_IMAGE_URL,
) -> Labelling:
    """Name every annotation of a COCO file and write them, as a COCO file or in another format.

    Faulty records and images stay unnamed and are listed in `OUTPUT.problems.json`. Finished images are kept in a
    journal beside the output, `OUTPUT.partial`: an interrupted run resumes when you repeat the call, also after you
    mended some records. The journal is deleted once the output is written.

    Args:
        segments: COCO file or another form of segments, see `read_segments`; the categories of its annotations, if any,
            are ignored.
        images_dir: folder of the images, or a single photograph.
        output: the file or folder to write, whole or not at all.
        predictor: the model (default: the built-in one; with `ray` on one thread per worker).
        top: how many classes each annotation gets, at least 1.
        engine: `local` runs in this process, `ray` with Ray Data on this machine or a cluster.
        on_error: `skip` leaves faulty records unnamed; `stop` raises the first fault.
        allow_outside: whether file names may leave the folder of images.
        images_of: COCO file that names the images of a results list.
        none: what becomes of annotations that are "none of these" by the predictor's limits: `category` gives them a
            category of that name, `keep` leaves out their `category_id`, `drop` leaves out the annotations.
        keep: name only annotations that have no category that the file lists.
        form: the format to write (default: by the output's suffix, `.json` for COCO); see `formats.FORMATS`.
        polygons: write outlines as polygons in place of run lengths.
        image_url: what stands before the file names in Label Studio's tasks.

    Raises:
        AnnotationError: the file is not COCO's as a whole, `OUTPUT.partial` is not a journal, the file changed during
            the run, or no annotation could be named; with `stop` also a faulty record.
        ImageError, MaskError: with `stop`, an image or a segment cannot be used; the message names it.
        InputError: top is below 1, an unknown engine, suffix or format, another run writes this output, or the output
            cannot be written or is the input.
        MissingExtraError: the engine is not installed.

    Example:
        label_coco("segments.json", "photos", "named.json")
    """
    check_top(top)
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r}; accepted are {', '.join(ENGINES)}")
    output = Path(output)
    chosen = format_of(output, form, polygons=polygons)
    coco = segments
    if not isinstance(coco, CocoFile):
        coco = read_segments(coco, images_dir, images_of=images_of, on_error=on_error)
    check_output_of(chosen, output, inputs=[coco.path])
    if predictor is None:
        predictor = Predictor(threads=1 if engine == "ray" else None)
    state = coco.file_state()
    with Journal(output.with_name(output.name + ".partial")) as journal:
        remove_leftovers(output)
        rows = np.flatnonzero(coco.index.category < 0 if keep else np.ones(len(coco.index.start), dtype=bool))
        run = run_key(predictor, top)
        tasks, problems = image_tasks(coco, rows, images_dir, run, on_error=on_error, allow_outside=allow_outside)
        results = _Results(coco, min(top, len(predictor.chosen)), problems, predictor.limits)
        by_key: dict[str, list[Task]] = {}  # Copies of an image with the same outlines share a key and a result.
        for task in tasks:
            by_key.setdefault(task.key, []).append(task)
        for result in journal.results():
            for task in by_key.pop(result.key, ()):
                results.put(task, result)
        done = results.named
        work = Work(coco, [copies[0] for copies in by_key.values()], predictor, top, on_error)
        finished = len(tasks) - sum(map(len, by_key.values()))
        try:
            with Progress(len(tasks), "label", "images", initial=finished) as progress:
                for result in ENGINES[engine](work):
                    journal.append(result)
                    for task in by_key[result.key]:
                        results.put(task, result)
                    finished += len(by_key[result.key])
                    progress.update(len(by_key[result.key]))
        except KeyboardInterrupt as error:
            error.add_note(f"{finished} of {len(tasks)} images are done and kept; repeat the command to go on")
            raise
        if coco.file_state() != state:
            raise AnnotationError(f"{coco.path}: changed during the run; repeat the command")
        categories = [predictor.info.categories[place] for place in predictor.chosen]
        options = WriteOptions(
            categories=tuple(categories), model=predictor.info.name, polygons=polygons, image_url=image_url
        )
        _write(coco, results.named_annotations(predictor.chosen), output, (chosen, none), options)
        write_problems(output.with_name(output.name + ".problems.json"), results.problems)
        journal.delete()
    if results.problems and not results.named:
        raise AnnotationError(
            f"no annotation could be named; {output} and {output.name}.problems.json are written; the first problem:"
            f" {results.problems[0].message}"
        )
    annotations = len(coco.index.start)
    return Labelling(
        annotations=annotations,
        named=results.named,
        none=int(results.none.sum()),
        named_now=results.named - done,
        problems=tuple(results.problems),
        kept=annotations - len(rows),
    )


def _write(
    coco: CocoFile, named: NamedAnnotations, output: Path, how: tuple[Format, NoneMode], options: WriteOptions
) -> None:
    form, none = how
    if form.name == "coco":
        write_named_coco(coco, options.categories, named, output, none=none, polygons=options.polygons)
    else:
        regions = NamedRegions(coco, options.categories, named, none=none)
        write_named(form, regions, output, replace(options, categories=regions.categories))


def image_tasks(
    coco: CocoFile,
    chosen: Int64[np.ndarray, " rows"],
    images: str | os.PathLike[str],
    run: str,
    *,
    on_error: OnError,
    allow_outside: bool = False,
) -> tuple[list[Task], list[Problem]]:
    """Return an image to name for each that has annotations, and the faults that are known before any is read.

    Args:
        coco: the segments.
        chosen: rows of the annotations to name, ascending.
        images: folder of the images, or a single photograph.
        run: see `run_key`.
        on_error: `stop` raises the first fault.
        allow_outside: whether file names may leave the folder.

    Raises:
        AnnotationError: there is no such folder; with `stop` also an image that is not there.
    """
    folder = Path(images)
    folder = folder.parent if folder.is_file() else folder
    problems = list(coco.problems)
    groups = [chosen[places] for places in grouped(coco.index.image[chosen])]
    groups = [rows for rows in groups if coco.index.image[rows[0]] >= 0]
    numbers = [int(coco.index.image[rows[0]]) for rows in groups]
    tasks = []
    paths = find_each_image(coco, folder, numbers, allow_outside=allow_outside)
    for image, rows, path in zip(numbers, groups, paths, strict=True):
        image_id = value_of(coco.index.image_id, image)
        try:
            if isinstance(path, AnnotationError):
                raise path
            tasks.append(Task(image_id, path, rows, image_key(run, coco, path, rows.tolist())))
        except (AnnotationError, OSError) as error:
            fault = error if isinstance(error, AnnotationError) else AnnotationError(f"{path}: {error.strerror}")
            if on_error == "stop":
                raise fault from error
            problems += [Problem(str(fault), image_id, coco.ids(row)[1], row) for row in rows.tolist()]
    return tasks, problems


class _Results:
    """The results of a file's annotations in columns: a sixtieth of the memory that objects take."""

    def __init__(self, coco: CocoFile, top: int, problems: list[Problem], limits: Limits) -> None:
        annotations = len(coco.index.start)
        self.classes = np.full((annotations, top), -1, dtype=np.int32)
        self.scores = np.zeros((annotations, top))
        self.known = np.full(annotations, np.nan)
        self.boxes = np.zeros((annotations, 4), dtype=np.int32)
        self.areas = np.zeros(annotations, dtype=np.int64)
        self.image_hw = np.zeros((len(coco.index.file_name), 2), dtype=np.int32)
        self.problems = problems
        self._limits = limits
        self._coco, self._image = coco, coco.index.image

    @property
    def named(self) -> int:
        """Number of annotations that have a name."""
        return int((self.classes[:, 0] >= 0).sum())

    @property
    def none(self) -> Bool[np.ndarray, " annotations"]:
        """Which annotations are "none of these"."""
        return (self.classes[:, 0] >= 0) & self._limits.are_none(self.scores[:, 0], self.known)

    def put(self, task: Task, result: ImageResult) -> None:
        rows = task.rows.tolist()
        for place, row in enumerate(rows):
            classes, scores = result.classes[place], result.scores[place]
            box, area = result.boxes[place], result.areas[place]
            if classes is not None and scores is not None and box is not None and area is not None:
                self.classes[row], self.scores[row] = classes, scores
                self.known[row] = np.nan if result.known[place] is None else result.known[place]
                self.boxes[row], self.areas[row] = box, area
        if result.image_hw is not None:
            self.image_hw[self._image[rows[0]]] = result.image_hw
        for problem in result.problems:
            row = None if problem.row is None else rows[problem.row]
            annotation_id = problem.annotation_id if row is None else self._coco.ids(row)[1]
            self.problems.append(replace(problem, row=row, image_id=task.image_id, annotation_id=annotation_id))

    def named_annotations(self, chosen: tuple[int, ...]) -> NamedAnnotations:
        """Return the results with classes as places in a list of chosen ones.

        Args:
            chosen: class indices, ascending.
        """
        places = np.full(max(chosen) + 2, -1, dtype=np.int32)  # The last is for -1, no class.
        places[list(chosen)] = np.arange(len(chosen))
        classes = places[self.classes]
        return NamedAnnotations(classes, self.scores, self.known, self.none, self.boxes, self.areas, self.image_hw)
