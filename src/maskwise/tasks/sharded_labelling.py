"""Name the annotations of any number of images; the results are shards in a folder, with a manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from maskwise.data.coco_blocks import CocoBlocks
from maskwise.data.coco_writer import NONE_ID, NONE_NAME, NoneMode, with_known
from maskwise.data.image_blocks import Blocks
from maskwise.data.listed_blocks import LineBlocks, PairBlocks, images_in, images_of_list
from maskwise.data.locations import (
    absolute,
    base_name,
    files_in,
    found,
    is_folder,
    joined,
    make_location,
    matching,
    read_file,
    remove_file,
    write_file,
)
from maskwise.data.packed_blocks import PARQUET_SUFFIXES, TAR_SUFFIXES, ParquetBlocks, TarBlocks
from maskwise.data.problems import OnError
from maskwise.data.regions import Category
from maskwise.errors import AnnotationError, InputError
from maskwise.model.prediction import check_top
from maskwise.model.predictor import Predictor
from maskwise.model.session import available_cores
from maskwise.progress import Progress
from maskwise.tasks.block_labeller import ShardWork, label_block
from maskwise.tasks.journal import run_key
from maskwise.tasks.label_engines import Engine
from maskwise.tasks.ray_shards import label_blocks_with_ray
from maskwise.tasks.shard_files import FORMATS, Shard, ShardFormat

MANIFEST = "manifest.json"
"""Lists the shards; written last, so that a folder that has it is whole."""
RUN = "run.json"
"""Says what the shards of a folder depend on; written first."""
SHARD_IMAGES = 128
"""Images per shard: with seven masks each, some minutes of one core are done twice when a worker dies."""
MAX_READERS = 8
"""Maximum number of threads that read images in one process."""


@dataclass(frozen=True)
class ShardedLabelling:
    """The result of `label_shards`.

    Attributes:
        images: number of images.
        annotations: number of annotations.
        named: how many have a name, or are "none of these".
        none: how many of these are "none of these".
        problems: number of faults; each is in its shard.
        shards: number of files.
        shards_now: how many this run made; the others were there.
    """

    images: int
    annotations: int
    named: int
    none: int
    problems: int
    shards: int
    shards_now: int


def label_shards(
    images: str | os.PathLike[str],
    segments: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    predictor: Predictor | None = None,
    *,
    top: int = 5,
    engine: Engine = "local",
    kind: ShardFormat = "jsonl",
    shard_images: int = SHARD_IMAGES,
    on_error: OnError = "skip",
    allow_outside: bool = False,
    none: NoneMode = "category",
) -> ShardedLabelling:
    """Name every annotation of any number of images; results go to shards in a folder, so that memory stays flat.

    Each shard holds the images of one block and appears whole or not at all. Its name tells what it depends on. An
    interrupted run resumes when you repeat the call: shards that are there are not made again. The manifest is written
    last. Every place may be a path or a URL that fsspec knows.

    Args:
        images: folder of images; a text file that lists them; or files that bring their segments: WebDataset shards
            (.tar) or Parquet, one file, a folder or a pattern.
        segments: a COCO file; a list in JSON lines; a folder of JSON files, one per image; None for files that bring
            their segments, and where such JSON files lie beside the images.
        output: folder of the shards.
        predictor: the model (default: the built-in one; with `ray` on one thread per worker).
        top: how many classes each annotation gets, at least 1.
        engine: `local` runs in this process, `ray` with Ray Data on this machine or a cluster, whose machines must find
            all files under the same paths or URLs.
        kind: format of the shards.
        shard_images: images per shard; a row group of Parquet and a tar behind a URL are one shard.
        on_error: `skip` leaves faulty records unnamed; `stop` raises the first fault.
        allow_outside: whether file names of a COCO file may leave the folder of images.
        none: what becomes of annotations that are "none of these"; see `label_coco`.

    Raises:
        AnnotationError: the data set is of no known form, or has no image.
        InputError: top or shard_images is below 1, or the folder holds shards of another model or other settings; with
            `stop` also a faulty image or record.
        MissingExtraError: Ray, or the package of a kind of store, is not installed.

    Example:
        label_shards("photos", "segments.json", "named")
    """
    check_top(top)
    if shard_images < 1:
        raise InputError(f"{shard_images} images per shard; give at least 1")
    if kind not in FORMATS:
        raise InputError(f"shard format {kind!r}; accepted are {', '.join(FORMATS)}")
    if predictor is None:
        predictor = Predictor(threads=1 if engine == "ray" else None)
    output = absolute(output)  # Workers run in other folders.
    blocks = blocks_of(
        absolute(images), None if segments is None else absolute(segments), shard_images, allow_outside=allow_outside
    )
    if not len(blocks):
        raise AnnotationError(f"{images}: has no image to label")
    known = predictor.info.categories
    categories = [with_known(blocks.categories, known)[0], b""]
    categories[1], ids = with_known(blocks.categories, [*known, Category(NONE_ID, NONE_NAME)])
    limits = predictor.limits
    record = {
        "maskwise": "shards",
        "format": 1,
        "model": predictor.info.name,
        "model_and_mode": run_key(predictor, 0),
    }
    record |= {"top": top, "none": none, "min_known": limits.known, "min_probability": limits.probability}
    record |= {"shard_images": shard_images, "kind": kind}
    _check_run(output, record)
    threads = predictor.threads or available_cores()
    work = ShardWork(
        blocks=blocks,
        output=output,
        kind=kind,
        predictor=predictor,
        top=min(top, len(predictor.chosen)),
        on_error=on_error,
        none=none,
        category_ids=ids,
        run=hashlib.sha256(json.dumps([record, ids]).encode()).hexdigest(),
        readers=min(threads, MAX_READERS),
    )
    shards = _label_all(work, engine)
    return _finish(output, record, categories, shards)


def blocks_of(images: str, segments: str | None, size: int, *, allow_outside: bool = False) -> Blocks:
    """Return the blocks of a data set in any accepted form; see `label_shards`.

    Raises:
        AnnotationError: it is of no known form, or cannot be read.
    """
    suffix = images.lower()
    if suffix.endswith(".txt"):
        folder = images.rpartition("/")[0]
        return PairBlocks(images_of_list(images, folder), folder, segments, size)
    if segments is None:
        return _packed_or_paired(images, size)
    if segments.lower().endswith((".jsonl", ".ndjson")):
        return LineBlocks(segments, images, size)
    if is_folder(segments):
        return PairBlocks(images_in(images), images, segments, size)
    return CocoBlocks(segments, images, size, allow_outside=allow_outside)


def _packed_or_paired(images: str, size: int) -> Blocks:
    files = matching(images)
    tars = [one for one in files if one.location.lower().endswith(TAR_SUFFIXES)]
    if tars:
        return TarBlocks(tars, size)
    tables = [one for one in files if one.location.lower().endswith(PARQUET_SUFFIXES)]
    if tables:
        return ParquetBlocks(tables, images if is_folder(images) else images.rpartition("/")[0])
    return PairBlocks(images_in(images), images, None, size)


def _check_run(output: str, record: dict[str, Any]) -> None:
    """Write what the shards depend on, unless the folder says the same already.

    Raises:
        InputError: it says something else.
    """
    make_location(output)
    place = joined(output, RUN)
    if not found(place):
        write_file(place, json.dumps(record, indent=2).encode() + b"\n")
        return
    try:
        there = json.loads(read_file(place, InputError, "record of a run"))
    except ValueError as error:
        raise InputError(f"{place}: is not the record of a run ({error}); give another folder") from error
    if there != record:
        keys = sorted(key for key in {*there, *record} if there.get(key) != record.get(key))
        raise InputError(
            f"{output}: holds shards of a run with other settings ({', '.join(keys)}); repeat that command, or give"
            " another folder"
        )


def _label_all(work: ShardWork, engine: Engine) -> list[tuple[Shard, bool]]:
    """Return all shards, in the order of their blocks, and whether each was made now."""
    count = len(work.blocks)
    total = sum(work.blocks.size(block) for block in range(count))
    shards: dict[str, tuple[Shard, bool]] = {}
    try:
        with Progress(total, "label", "images") as progress:
            for shard, now in label_blocks_with_ray(work) if engine == "ray" else _label_locally(work):
                shards[shard.file] = shard, now
                progress.update(shard.images)
    except KeyboardInterrupt as error:
        error.add_note(f"{len(shards)} of {count} shards are done and kept; repeat the command to go on")
        raise
    return [shards[name] for name in sorted(shards)]


def _label_locally(work: ShardWork) -> Iterator[tuple[Shard, bool]]:
    for block in range(len(work.blocks)):
        yield label_block(work, block)


def _finish(
    output: str, record: dict[str, Any], categories: Sequence[bytes], shards: list[tuple[Shard, bool]]
) -> ShardedLabelling:
    """Remove shards of blocks that have changed since, and write the manifest.

    Args:
        output: the folder.
        record: what the shards depend on.
        categories: JSON lists without and with "none of these".
        shards: all of them, and whether each was made now.
    """
    files = {shard.file for shard, _ in shards}
    for entry in files_in(output):
        name = base_name(entry.location)
        if name.startswith(("part-", "trying-part-")) and name not in files:
            remove_file(entry.location)
    sums = {
        key: sum(getattr(shard, key) for shard, _ in shards)
        for key in ("images", "annotations", "named", "none", "problems")
    }
    chosen = json.loads(categories[bool(sums["none"]) and record["none"] == "category"])
    manifest = {
        "maskwise": "shards",
        "format": 1,
        "run": record,
        **sums,
        "categories": chosen,
        "shards": [asdict(shard) for shard, _ in shards],
    }
    write_file(joined(output, MANIFEST), json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n")
    return ShardedLabelling(**sums, shards=len(shards), shards_now=sum(now for _, now in shards))
