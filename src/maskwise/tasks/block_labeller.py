"""Name the images of one block and write its shard: the unit of work of a process, a worker, a machine."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from maskwise.concurrency import map_in_threads
from maskwise.data.coco_writer import NONE_NAME, REMOVED, NoneMode, named_record
from maskwise.data.image_blocks import Blocks, ReadSample, Sample, read_sample
from maskwise.data.images import Pixels
from maskwise.data.locations import joined, write_file
from maskwise.data.masks import Mask
from maskwise.data.problems import Id, OnError
from maskwise.model.prediction import ImageOutputs
from maskwise.model.predictor import Predictor
from maskwise.tasks.deadly_images import FAULT, Attempts, attempts
from maskwise.tasks.label_engines import SCORE_DIGITS
from maskwise.tasks.shard_files import LabelledImage, Names, Shard, ShardFormat, encoded, finished_shard, shard_of


@dataclass(frozen=True, eq=False)
class ShardWork:
    """What every worker needs to make shards.

    Attributes:
        blocks: the data set.
        output: folder of the shards, path or URL.
        kind: format of the shards.
        predictor: the model.
        top: number of classes per annotation.
        on_error: what to do about faults.
        none: what becomes of annotations that are "none of these".
        category_ids: ids of the model's classes in the output, and last that of "none of these".
        run: hash of everything but the images and outlines that shards depend on.
        readers: number of threads that read images.
    """

    blocks: Blocks
    output: str
    kind: ShardFormat
    predictor: Predictor
    top: int
    on_error: OnError
    none: NoneMode
    category_ids: Sequence[Id]
    run: str
    readers: int = 1

    def file_of(self, block: int) -> str:
        """Return the name of a block's shard: it changes with what the shard depends on, so it is done if it is there.

        Raises:
            InputError: the block cannot be read.
        """
        key = hashlib.sha256((self.run + self.blocks.key(block)).encode()).hexdigest()
        return f"part-{block:06d}-{key[:16]}.{self.kind}"


def label_block(work: ShardWork, block: int) -> tuple[Shard, bool]:
    """Return a block's shard and whether it was made now; one that is there already stays as it is.

    A batch holds regions of one block only. So a block gives the same shard to the byte, whoever makes it, and making
    it twice does no harm.

    Raises:
        InputError: with `on_error` stop, the first fault; the block cannot be read, or the shard not be written.
    """
    name = work.file_of(block)
    location = joined(work.output, name)
    finished = finished_shard(location, name)
    if finished is not None:
        return finished, False
    with attempts(work.output, name) as note:
        if note.careful:
            _try_each(work, block, note)
        content = encoded(list(_labelled(work, _samples(work, block, note.left_out))), work.kind)
        write_file(location, content)
    return shard_of(content, name), True


def _try_each(work: ShardWork, block: int, note: Attempts) -> None:
    """Name each image alone and forget the result: if this process dies, the note tells on which."""
    for place, sample in enumerate(_samples(work, block, note.left_out)):
        note.trying(place)
        for _ in _labelled(work, [sample]):
            pass
    note.trying(None)


def _samples(work: ShardWork, block: int, left_out: frozenset[int]) -> Iterator[Sample]:
    for place, sample in enumerate(work.blocks.read(block)):
        fault = f"{sample.location}: {FAULT}" if place in left_out else sample.fault
        yield replace(sample, fault=fault)


def _labelled(work: ShardWork, samples: Iterable[Sample]) -> Iterator[LabelledImage]:
    waiting: deque[ReadSample] = deque()

    def shown() -> Iterator[tuple[Pixels, list[Mask]]]:
        reading = partial(read_sample, on_error=work.on_error)
        for read in map_in_threads(reading, samples, work.readers):
            waiting.append(read)
            yield read.pixels, read.usable

    for outputs in work.predictor.run_many(shown()):
        yield _labelled_image(work, waiting.popleft(), outputs)


def _labelled_image(work: ShardWork, read: ReadSample, outputs: ImageOutputs) -> LabelledImage:
    best, limits = outputs.top_classes(work.top), work.predictor.limits
    scores = np.round(best.probabilities, SCORE_DIGITS)
    are_none = limits.are_none(scores[:, 0], np.round(best.known, SCORE_DIGITS)).tolist()
    places = iter(range(len(scores)))
    annotations: list[bytes] = []
    names: list[Names | None] = []
    dropped = 0
    for record, mask in zip(read.sample.records, read.masks, strict=True):
        if mask is None:
            annotations.append(record)
            names.append(None)
            continue
        place = next(places)
        if are_none[place] and work.none == "drop":
            dropped += 1
            continue
        top, known = best.indices[place].tolist(), float(best.known[place])
        row = _names(work, top, scores[place].tolist(), None if np.isnan(known) else known, are_none[place])
        none_id: Any = None if not row.none else work.category_ids[-1] if work.none == "category" else REMOVED
        annotations.append(
            named_record(
                record,
                [work.category_ids[one] for one in top],
                scores=row.top_scores,
                known=row.known,
                none_id=none_id,
                shape=(mask.box_xywh, mask.area),
            )
        )
        names.append(row)
    return LabelledImage(_image_record(read), annotations, names, read.problems, dropped)


def _names(work: ShardWork, top: list[int], scores: list[float], known: float | None, none: bool) -> Names:
    classes = tuple(work.predictor.classes[one] for one in top)
    rounded = None if known is None else round(known, SCORE_DIGITS)
    return Names(NONE_NAME if none else classes[0], scores[0], rounded, none, classes, tuple(scores))


def _image_record(read: ReadSample) -> dict[str, Any] | None:
    if read.sample.image is None or not read.usable:
        return read.sample.image
    height, width = read.pixels.shape[:2]
    return {**read.sample.image, "width": width, "height": height}
