"""What requests share, and the steps that they have in common."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request, UploadFile
from starlette.concurrency import run_in_threadpool

from maskwise.data.masks import Mask
from maskwise.errors import InputError
from maskwise.model.prediction import ImageOutputs
from maskwise.model.predictor import Predictor
from maskwise.model.segmenter import Segment
from maskwise.serve.batching import BatchingThread
from maskwise.serve.bodies import MemoryBudget
from maskwise.serve.metrics import Metrics
from maskwise.serve.outlining import ImageStore, KeptImage, Outliner
from maskwise.serve.reading import (
    GivenRegion,
    RegionReader,
    memory_needed,
    photo_hw,
    read_photo,
    save,
    without_folder,
)
from maskwise.serve.schemas import Prompt, Region
from maskwise.serve.settings import Limits

Result = TypeVar("Result")

ONE_PHOTO = "give the photograph either as the file `image` or as `image_id`"


class ForgottenImageError(InputError):
    """A photograph is no longer kept, or never was."""


class ClientGoneError(Exception):
    """The client left before its answer was ready."""


@dataclass(frozen=True, eq=False)
class Question:
    """A request about a photograph.

    Attributes:
        image: the photograph as a file, or
        image_id: as the id of a kept one.
        masks: mask pictures.
        regions: regions of any other form.
        segments: a COCO file or a file of SAM's.
    """

    image: UploadFile | None
    image_id: str | None
    masks: Sequence[UploadFile] = ()
    regions: Sequence[Region] = ()
    segments: UploadFile | None = None


@dataclass(frozen=True, eq=False)
class Services:
    """What requests share."""

    predictor: Predictor
    batching: BatchingThread
    outliner: Outliner
    store: ImageStore
    budget: MemoryBudget
    limits: Limits
    metrics: Metrics

    def close(self) -> None:
        """Finish what is in work, then stop the threads."""
        self.batching.close()
        self.outliner.close()

    @asynccontextmanager
    async def photo(self, question: Question, *, masks: int = 0) -> AsyncIterator[KeptImage]:
        """Give a request's photograph, sent along or kept; memory for it is held during the block.

        Args:
            question: the request.
            masks: number of masks to hold memory for.

        Raises:
            InputError: no photograph, one that cannot be read, is too large or was forgotten.
        """
        async with self._opened(question, masks) as (image, _):
            yield image

    @asynccontextmanager
    async def regions(self, question: Question) -> AsyncIterator[tuple[KeptImage, list[GivenRegion]]]:
        """Give a request's photograph and regions, prompts not yet outlined; memory is held during the block.

        Raises:
            InputError: something cannot be read, is too large or too much.
        """
        masks = len(question.masks) + len(question.regions)
        async with self._opened(question, self.limits.max_masks if question.segments else masks) as (image, read):
            yield image, await run_in_threadpool(read)

    @asynccontextmanager
    async def _opened(
        self, question: Question, masks: int
    ) -> AsyncIterator[tuple[KeptImage, Callable[[], list[GivenRegion]]]]:
        with tempfile.TemporaryDirectory(prefix="maskwise-", ignore_cleanup_errors=True) as name:
            folder, kept = Path(name), self._kept(question)
            with without_folder(folder):
                if kept is not None:
                    photo, image_hw = folder / kept.name, (kept.pixels.shape[0], kept.pixels.shape[1])
                else:
                    assert question.image is not None, "see `_kept`"
                    photo = await run_in_threadpool(save, question.image, folder, "photo")
                    image_hw = await run_in_threadpool(photo_hw, photo, self.limits)
                json_bytes = question.segments.size or 0 if question.segments else 0
                async with self.budget.share(memory_needed(image_hw, masks, json_bytes, self.limits)):
                    if kept is None:
                        kept = KeptImage("", photo.name, await run_in_threadpool(read_photo, photo))
                    yield kept, partial(self._read_regions, question, folder, photo, image_hw)

    def _kept(self, question: Question) -> KeptImage | None:
        if (question.image is None) == (question.image_id is None):
            raise InputError(ONE_PHOTO)
        if question.image_id is None:
            return None
        kept = self.store.get(question.image_id)
        if kept is None:
            raise ForgottenImageError("this photograph is no longer kept; send it again to /v1/images")
        return kept

    def _read_regions(
        self, question: Question, folder: Path, photo: Path, image_hw: tuple[int, int]
    ) -> list[GivenRegion]:
        reader = RegionReader(image_hw, self.limits)
        reader.add_files([save(mask, folder, "mask") for mask in question.masks])
        reader.add_given(question.regions)
        if question.segments is not None:
            reader.add_segments(save(question.segments, folder, "segments.json"), photo)
        return reader.regions

    async def outlined(
        self, request: Request, image: KeptImage, regions: list[GivenRegion]
    ) -> list[tuple[GivenRegion, Mask]]:
        """Return regions with their masks; prompts are outlined by the segmenter.

        Raises:
            InputError: a prompt shows nothing.
            BusyError: too much waits.
            ClientGoneError: the client has left.
        """
        prompts = [region.prompt for region in regions if region.prompt is not None]
        segments = iter(await self.prompted(request, image, prompts))
        done = []
        for region in regions:
            if region.mask is not None:
                done.append((region, region.mask))
            else:
                segment = next(segments)
                done.append((replace(region, predicted_iou=segment.score), segment.mask))
        return done

    async def prompted(self, request: Request, image: KeptImage, prompts: Sequence[Prompt]) -> list[Segment]:
        """Outline one thing for each prompt; errors as in `outlined`."""
        if not prompts:
            return []
        encoded = await until_gone(request, self.outliner.encode(image), cancel=False)
        outlines = []
        for prompt in prompts:
            outlines.append(await run_in_threadpool(self.outliner.prompt, encoded, prompt))
        return outlines

    async def everything(self, request: Request, image: KeptImage, points_per_side: int) -> list[Segment]:
        """Outline everything in a photograph; errors as in `named`."""
        return await until_gone(request, self.outliner.segment(image.pixels, points_per_side))

    async def named(self, request: Request, image: KeptImage, masks: Sequence[Mask]) -> ImageOutputs:
        """Return logits and embeddings of regions; batches cross clients.

        Raises:
            BusyError: too much waits.
            ClientGoneError: the client has left.
        """
        outputs = await until_gone(request, self.batching.submit(image.pixels, masks))
        self.metrics.regions.inc(len(masks))
        return outputs


async def until_gone(request: Request, future: Future[Result], *, cancel: bool = True) -> Result:
    """Wait for a result, but only as long as the client does.

    Args:
        request: its body must be read already.
        future: the result to come.
        cancel: whether nobody else waits for it.

    Raises:
        ClientGoneError: the client has left.
    """
    answer = asyncio.wrap_future(future)
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # Nobody may be left to look at it.
    gone = asyncio.create_task(_disconnected(request))
    try:
        waiting: set[asyncio.Future[Any]] = {answer, gone}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise ClientGoneError
    finally:
        gone.cancel()
        if cancel:
            answer.cancel()  # Cancels the future behind it, unless it runs.


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
