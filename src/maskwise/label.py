"""Naming every annotation of a COCO file, without losing anything else in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import msgspec
import numpy as np
from jaxtyping import Float64, Int32, Int64
from msgspec import Raw
from tqdm import tqdm

from maskwise.ahead import ahead
from maskwise.coco import CocoFile, image_paths
from maskwise.cocoindex import Id, Text, json_text
from maskwise.errors import AnnotationError, MissingExtraError
from maskwise.files import check_output, whole_file, write_json
from maskwise.images import Pixels, load_image
from maskwise.masks import Mask
from maskwise.predictor import Predictor, check_top
from maskwise.regions import Category, grouped

Answer = dict[str, Any]
"""What is found for one annotation: names and scores, the most probable first."""


@dataclass(frozen=True, eq=False, slots=True)
class Task:
    """One image of a COCO file and its annotations' rows in the file."""

    image_id: Id
    path: str
    rows: Int64[np.ndarray, " annotations"]


@dataclass(frozen=True, eq=False)
class Answers:
    """What is found for the annotations of a file, by their rows; in columns, a sixtieth of what objects would take.

    Attributes:
        known: the model's classes.
        classes: the most probable ones of each annotation, the most probable first, by their place in `known`.
        scores: their probabilities, 0 to 1.
    """

    known: tuple[Category, ...]
    classes: Int32[np.ndarray, "annotations top"]
    scores: Float64[np.ndarray, "annotations top"]

    @classmethod
    def none_yet(cls, annotations: int, known: tuple[Category, ...], top: int) -> Answers:
        """Room for so many annotations, and for as many classes of each as there are."""
        shape = (annotations, min(top, len(known)))
        return cls(known, np.zeros(shape, dtype=np.int32), np.zeros(shape))

    def put(self, task: Task, answers: list[Answer]) -> None:
        """Note what was found for the annotations of an image."""
        places = {category.name: place for place, category in enumerate(self.known)}
        self.classes[task.rows] = [[places[name] for name in answer["top_names"]] for answer in answers]
        self.scores[task.rows] = [answer["top_scores"] for answer in answers]


def label(
    coco: CocoFile,
    images_dir: Path,
    output: Path,
    predictor_of: Callable[[], Predictor],
    *,
    top: int,
    engine: str = "local",
) -> int:
    """Write the COCO file with every annotation named.

    Finished images are kept beside the output in `OUTPUT.partial`, so that a killed run goes on where it was; the file
    goes when the output is there.

    Args:
        coco: the segments, read from a file; their categories, if any, are not looked at.
        images_dir: folder of the images.
        output: the file to write; appears whole.
        predictor_of: opens the model (in each worker, with the engine `ray`).
        top: how many classes to give per annotation.
        engine: `local`, or `ray` (Ray Data, many machines).

    Returns:
        How many annotations were named in this run, those taken from a former one not counted.

    Raises:
        AnnotationError: an image id without a file, a partial file of another run, or a file that has changed since
            the run began.
        ImageError, MaskError: an image or a segment that cannot be used; the message names it.
        InputError: top is below 1, or the output cannot be written there or is the COCO file itself.
        MissingExtraError: the engine is not installed.
    """
    check_top(top)
    check_output(output, inputs=[coco.path])
    tasks = _tasks(coco, images_dir)
    predictor = predictor_of()
    partial = output.with_name(output.name + ".partial")
    key = _run_key(coco, predictor, top)
    answers = Answers.none_yet(len(coco.index.start), predictor.info.categories, top)
    open_tasks = _without_kept(tasks, partial, key, answers)
    done = len(tasks) - len(open_tasks)
    engines = {"local": _local, "ray": _ray}
    with (
        _appending(partial, key, fresh=not done) as append,
        tqdm(total=len(tasks), initial=done, unit=" images", desc="label", disable=None) as bar,
    ):
        for task, found in engines[engine](coco, open_tasks, predictor, predictor_of, top):
            append(task.image_id, found)
            answers.put(task, found)
            bar.update()
    if _run_key(coco, predictor, top) != key:
        raise AnnotationError(f"{coco.path}: has changed while it was being named; begin anew")
    write_named(coco, answers, output)
    partial.unlink(missing_ok=True)  # There is none where there was nothing to name.
    return sum(len(task.rows) for task in open_tasks)


def _tasks(coco: CocoFile, images_dir: Path) -> list[Task]:
    rows = list(grouped(coco.index.image))
    paths = image_paths(coco, images_dir, [int(coco.index.image[of_image[0]]) for of_image in rows])
    return [Task(coco.ids(int(of_image[0]))[0], path, of_image) for of_image, path in zip(rows, paths, strict=True)]


def read_task(coco: CocoFile, task: Task) -> tuple[Pixels, list[Mask]]:
    """An image and the masks of its annotations.

    Raises:
        ImageError: the image cannot be read.
        MaskError: a segment is malformed, empty, or of another size than the image; the message names the annotation.
    """
    image = load_image(task.path)
    return image, [coco.mask(row, image.shape[:2]) for row in task.rows.tolist()]


def answer_task(image: Pixels, masks: list[Mask], predictor: Predictor, top: int) -> list[Answer]:
    """Name the annotations of one image."""
    return [
        {"top_names": [n.name for n in p.names], "top_scores": [round(n.probability, 6) for n in p.names]}
        for p in predictor.predict(image, masks, top=top)
    ]


def _local(
    coco: CocoFile, tasks: list[Task], predictor: Predictor, _predictor_of: object, top: int
) -> Iterator[tuple[Task, list[Answer]]]:
    """One image after the other, the next one read while one is named."""
    for task, (image, masks) in ahead((task, read_task(coco, task)) for task in tasks):
        yield task, answer_task(image, masks, predictor, top)


def _ray(
    coco: CocoFile, tasks: list[Task], _predictor: object, predictor_of: Callable[[], Predictor], top: int
) -> Iterator[tuple[Task, list[Answer]]]:
    """The same through Ray Data: one model a worker, images wherever there is room."""
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise MissingExtraError("--engine ray needs Ray: pip install 'maskwise[ray]'") from error
    if not ray.is_initialized():
        ray.init(logging_level="ERROR", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    shared = ray.put(coco)

    class Worker:
        def __init__(self) -> None:
            self.predictor = predictor_of()
            self.coco = ray.get(shared)

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            task = tasks[int(row["number"])]
            return {
                "number": int(row["number"]),
                "answers": json.dumps(answer_task(*read_task(self.coco, task), self.predictor, top)),
            }

    numbers = ray.data.from_items([{"number": i} for i in range(len(tasks))])
    workers = ray.data.ActorPoolStrategy(min_size=1, max_size=max(int(ray.cluster_resources().get("CPU", 1)), 1))
    for row in numbers.map(Worker, compute=workers).iter_rows():
        yield tasks[int(row["number"])], json.loads(row["answers"])


def write_named(coco: CocoFile, answers: Answers, output: Path) -> None:
    """Write a COCO file with names: every field and every order kept, `category_id`, `score` and top-k set.

    Record by record: what is neither an annotation nor a category is copied as it stands. Classes keep the ids that the
    file gives their names; the model's further classes are added to `categories`, under the model's ids where those are
    free.

    Args:
        coco: the segments.
        answers: for all of them.
        output: the file to write; appears whole.
    """
    text = json_text(coco.path) if coco.text is None else coco.text
    sections = msgspec.json.decode(text, type=dict[str, Raw])
    categories, ids = _with_known(json.loads(bytes(sections.get("categories", b"[]"))), answers.known)
    with whole_file(output) as temporary, open(temporary, "wb") as file:
        for number, key in enumerate(dict.fromkeys([*sections, "categories"])):
            file.write(b"%b%b: " % (b", " if number else b"{", _json(key)))
            if key == "annotations":
                _write_annotations(coco, text, answers, ids, file)
            else:
                file.write(_json(categories) if key == "categories" else memoryview(sections[key]))
        file.write(b"}\n")


def _with_known(given: list[dict[str, Any]], known: tuple[Category, ...]) -> tuple[list[dict[str, Any]], list[Id]]:
    """A file's categories with those of a model added, and the id there of each of the model's."""
    categories = list(given)
    ids = {record["name"]: record["id"] for record in categories}
    for category in known:
        if category.name not in ids:
            taken = set(ids.values())
            ids[category.name] = (
                category.id if category.id not in taken else max(i for i in taken if isinstance(i, int)) + 1
            )
            categories.append({"id": ids[category.name], "name": category.name})
    return categories, [ids[category.name] for category in known]


def _write_annotations(coco: CocoFile, text: Text, answers: Answers, ids: list[Id], file: BinaryIO) -> None:
    file.write(b"[")
    for row, (start, length) in enumerate(zip(coco.index.start, coco.index.length, strict=True)):
        category_ids, scores = [ids[place] for place in answers.classes[row]], answers.scores[row].tolist()
        named = {
            **json.loads(text[start : start + length]),
            "category_id": category_ids[0],
            "score": scores[0],
            "top_category_ids": category_ids,
            "top_scores": scores,
        }
        file.write((b", " if row else b"") + _json(named))
    file.write(b"]")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _run_key(coco: CocoFile, predictor: Predictor, top: int) -> str:
    """What a partial file must have come from to be gone on with."""
    with coco.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps([predictor.info.to_metadata(), predictor.mode, top]).encode())
    return digest.hexdigest()


def _without_kept(tasks: list[Task], partial: Path, key: str, answers: Answers) -> list[Task]:
    """The tasks that a former run did not finish; what it found for the others is put with the answers."""
    if not partial.is_file():
        return tasks
    by_id, done = {task.image_id: task for task in tasks}, set()
    for image_id, found in _kept(partial, key):
        answers.put(by_id[image_id], found)
        done.add(image_id)
    return [task for task in tasks if task.image_id not in done]


def _kept(partial: Path, key: str) -> Iterator[tuple[Id, list[Answer]]]:
    with open(partial, "rb") as file:
        header = file.readline()
        for number, line in enumerate(file):
            if not line.endswith(b"\n"):  # Cut by the kill.
                return
            if number == 0 and json.loads(header.strip() or b"{}").get("key") != key:
                raise AnnotationError(
                    f"{partial}: is left from a run on another file, model, --mode or --top; remove it to begin anew"
                )
            record = json.loads(line)
            yield record["image_id"], record["answers"]


@contextmanager
def _appending(path: Path, key: str, *, fresh: bool) -> Iterator[Callable[[Id, list[Answer]], None]]:
    """Append finished images to the partial file, each line flushed; a fresh one is there from the first image on."""
    if not fresh:
        _cut_after_last_line(path)
    with ExitStack() as stack:

        @cache
        def opened() -> TextIO:
            if fresh:
                write_json(path, {"key": key}, indent=None)
            return stack.enter_context(open(path, "a", encoding="utf-8"))

        def append(image_id: Id, answers: list[Answer]) -> None:
            opened().write(json.dumps({"image_id": image_id, "answers": answers}) + "\n")
            opened().flush()

        yield append


def _cut_after_last_line(path: Path) -> None:
    with open(path, "rb+") as file:
        file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))
