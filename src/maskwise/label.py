"""Naming every annotation of a COCO file, without losing anything else in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from maskwise.ahead import ahead
from maskwise.coco import CocoFile, image_paths
from maskwise.errors import AnnotationError, MissingExtraError
from maskwise.files import check_output, read_json, write_json
from maskwise.images import Pixels, load_image
from maskwise.masks import Mask
from maskwise.predictor import Predictor, check_top
from maskwise.regions import Category, grouped

Answer = dict[str, Any]
"""What is found for one annotation: names and scores, the most probable first."""


@dataclass(frozen=True)
class Task:
    """One image of a COCO file and its annotations' positions in the file."""

    image_id: int | str
    path: Path
    positions: list[int]


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
        InputError: top is below 1, or the output cannot be written there.
        MissingExtraError: the engine is not installed.
    """
    check_top(top)
    check_output(output)
    tasks = _tasks(coco, images_dir)
    predictor = predictor_of()
    partial = output.with_name(output.name + ".partial")
    key = _run_key(coco, predictor, top)
    done = _read_partial(partial, key)
    open_tasks = [task for task in tasks if str(task.image_id) not in done]
    engines = {"local": _local, "ray": _ray}
    with (
        _appending(partial, key, fresh=not done) as append,
        tqdm(total=len(tasks), initial=len(done), unit=" images", desc="label", disable=None) as bar,
    ):
        for task, answers in engines[engine](coco, open_tasks, predictor, predictor_of, top):
            append(task.image_id, answers)
            done[str(task.image_id)] = answers
            bar.update()
    content = read_json(coco.path)
    if _run_key(coco, predictor, top) != key:
        raise AnnotationError(f"{coco.path}: has changed while it was being named; begin anew")
    write_json(output, merged(content, tasks, done, predictor.info.categories), indent=None)
    partial.unlink()
    return sum(len(task.positions) for task in open_tasks)


def _tasks(coco: CocoFile, images_dir: Path) -> list[Task]:
    positions = [where.tolist() for where in grouped(coco.index.image)]
    paths = image_paths(coco, images_dir, [int(coco.index.image[where[0]]) for where in positions])
    return [Task(coco.ids(where[0])[0], Path(path), where) for where, path in zip(positions, paths, strict=True)]


def read_task(coco: CocoFile, task: Task) -> tuple[Pixels, list[Mask]]:
    """An image and the masks of its annotations.

    Raises:
        ImageError: the image cannot be read.
        MaskError: a segment is malformed, empty, or of another size than the image; the message names the annotation.
    """
    image = load_image(task.path)
    return image, [coco.mask(position, image.shape[:2]) for position in task.positions]


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


def merged(
    content: dict[str, Any], tasks: Iterable[Task], done: dict[str, list[Answer]], known: tuple[Category, ...]
) -> dict[str, Any]:
    """A COCO file's content with names: every field and every order kept, `category_id`, `score` and top-k set.

    Classes keep the ids that the file gives their names; the model's further classes are added to `categories`, under
    the model's ids where those are free.
    """
    categories = [dict(record) for record in content.get("categories", [])]
    ids = {record["name"]: record["id"] for record in categories}
    for category in known:
        if category.name not in ids:
            taken = set(ids.values())
            ids[category.name] = (
                category.id if category.id not in taken else max(i for i in taken if isinstance(i, int)) + 1
            )
            categories.append({"id": ids[category.name], "name": category.name})
    annotations = list(content["annotations"])
    for task in tasks:
        for position, answer in zip(task.positions, done[str(task.image_id)], strict=True):
            names, scores = answer["top_names"], answer["top_scores"]
            annotations[position] = {
                **annotations[position],
                "category_id": ids[names[0]],
                "score": scores[0],
                "top_category_ids": [ids[name] for name in names],
                "top_scores": scores,
            }
    return {**content, "annotations": annotations, "categories": categories}


def _run_key(coco: CocoFile, predictor: Predictor, top: int) -> str:
    """What a partial file must have come from to be gone on with."""
    with coco.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps([predictor.info.to_metadata(), predictor.mode, top]).encode())
    return digest.hexdigest()


def _read_partial(path: Path, key: str) -> dict[str, list[Answer]]:
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")
    if len(lines) < 3:  # The key alone: no image was finished.
        return {}
    if json.loads(lines[0] or "{}").get("key") != key:
        raise AnnotationError(
            f"{path}: is left from a run on another file, model, --mode or --top; remove it to begin anew"
        )
    done = {}
    for line in lines[1:-1]:  # What follows the last line break was cut by the kill.
        record = json.loads(line)
        done[str(record["image_id"])] = record["answers"]
    return done


@contextmanager
def _appending(path: Path, key: str, *, fresh: bool) -> Iterator[Callable[[int | str, list[Answer]], None]]:
    """Append finished images to the partial file, each line flushed."""
    if fresh:
        write_json(path, {"key": key}, indent=None)
    else:
        _cut_after_last_line(path)
    with open(path, "a", encoding="utf-8") as file:

        def append(image_id: int | str, answers: list[Answer]) -> None:
            file.write(json.dumps({"image_id": image_id, "answers": answers}) + "\n")
            file.flush()

        yield append


def _cut_after_last_line(path: Path) -> None:
    content = path.read_bytes()
    with open(path, "rb+") as file:
        file.truncate(content.rfind(b"\n") + 1)
