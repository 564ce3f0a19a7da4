"""The routes of an ML backend of Label Studio."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from maskwise import __version__
from maskwise.errors import InputError
from maskwise.integrations.label_studio import (
    RegionName,
    TaskRegion,
    names_of,
    prediction_of,
    regions_of_results,
    regions_of_segments,
    results_of_task,
)
from maskwise.integrations.label_studio_config import Labelling, read_labelling
from maskwise.serve.api import Shared
from maskwise.serve.label_studio_images import LabelStudio
from maskwise.serve.outlining import KeptImage
from maskwise.serve.reading import TooLargeError, memory_needed, photo_hw, read_photo, without_folder
from maskwise.serve.services import Services

LOG = logging.getLogger("maskwise.serve")
POINTS_PER_SIDE = 24
"""Points of the segmenter's grid in each direction, where a task has no regions."""
MAX_TASKS = 1000
"""Maximum number of tasks in a request."""


class Setup(BaseModel):
    """A project that attaches this backend."""

    label_schema: str = Field("", alias="schema")
    access_token: str | None = None


class Parameters(BaseModel):
    """How tasks are to be named."""

    context: dict[str, Any] | None = None


class Predict(BaseModel):
    """Tasks to name."""

    tasks: list[dict[str, Any]] = Field(max_length=MAX_TASKS)
    label_config: str
    params: Parameters | None = None


def label_studio_of(request: Request) -> LabelStudio:
    """Return the Label Studio server that this backend serves."""
    source: LabelStudio = request.app.state.label_studio
    return source


Source = Annotated[LabelStudio, Depends(label_studio_of)]
router = APIRouter(include_in_schema=False)


def model_version(services: Services) -> str:
    """Return the name under which Label Studio keeps predictions."""
    return f"maskwise {__version__} {services.predictor.info.name}"


@dataclass(frozen=True, eq=False)
class _Question:
    """What the tasks of a request share."""

    request: Request
    services: Services
    source: LabelStudio
    labelling: Labelling
    context: Mapping[str, Any] | None

    async def prediction(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Return the prediction of one task; its image lies in a temporary folder meanwhile."""
        data, limits = task.get("data"), self.services.limits
        reference = data.get(self.labelling.key) if isinstance(data, Mapping) else None
        results = results_of_task(task, self.context)
        masks = len({str(result.get("id", number)) for number, result in enumerate(results)})
        if masks > limits.max_masks:
            raise TooLargeError(f"the task has {masks} regions; accepted are {limits.max_masks}: see --limits")
        with tempfile.TemporaryDirectory(prefix="maskwise-", ignore_cleanup_errors=True) as name:
            folder = Path(name) / "0"
            folder.mkdir()
            with without_folder(Path(name)):
                path = await run_in_threadpool(self.source.save, reference, folder, limits.max_upload_mb)
                image_hw = await run_in_threadpool(photo_hw, path, limits)
                memory = memory_needed(image_hw, masks or limits.max_masks, 0, limits)
                async with self.services.budget.share(memory):
                    image = KeptImage("", path.name, await run_in_threadpool(read_photo, path))
                    regions, names = await (self._named(image, results) if results else self._found(image))
                    version = model_version(self.services)
                    return await run_in_threadpool(prediction_of, regions, names, self.labelling, version)

    async def _named(
        self, image: KeptImage, results: list[Mapping[str, Any]]
    ) -> tuple[list[TaskRegion], list[RegionName | None]]:
        """Return the regions that are there, and their names; those that cannot be read are left out, but not all."""
        height, width = image.pixels.shape[:2]
        regions, problems = await run_in_threadpool(regions_of_results, results, self.labelling, (height, width))
        if problems and not regions:
            raise InputError(problems[0])
        for problem in problems:
            LOG.warning("%s", problem)
        outputs = await self.services.named(self.request, image, [region.mask for region in regions])
        return regions, names_of(outputs, self.labelling)

    async def _found(self, image: KeptImage) -> tuple[list[TaskRegion], list[RegionName | None]]:
        """Return the things in the image, and their names."""
        segments = await self.services.everything(self.request, image, POINTS_PER_SIDE)
        outputs = await self.services.named(self.request, image, [segment.mask for segment in segments])
        return regions_of_segments(segments, outputs, self.labelling)


@router.get("/health")
async def health() -> dict[str, str]:
    """Say that the backend works."""
    return {"status": "UP", "model_class": "Maskwise"}


@router.post("/setup")
async def setup(services: Shared, source: Source, body: Setup) -> dict[str, str]:
    """Say the model's version; refuse a configuration in which no region can be named."""
    if body.label_schema:
        labelling = read_labelling(body.label_schema)
        known = {name.lower() for name in services.predictor.classes}
        if not known & labelling.options.keys():
            raise InputError(
                f"none of the configuration's names is one of the model's ({', '.join(services.predictor.classes[:5])},"
                ' ...); name an option like a class, or add predicted_values="class, class" to it'
            )
    source.sent_key = body.access_token or source.sent_key
    return {"model_version": model_version(services)}


@router.get("/versions")
async def versions(services: Shared) -> dict[str, list[str]]:
    """Return the one version that there is."""
    return {"versions": [model_version(services)]}


@router.post("/webhook")
async def webhook() -> dict[str, str]:
    """Take note of events; nothing is learned from them here."""
    return {"status": "ok", "message": "maskwise learns from an export: maskwise fit"}


@router.post("/predict")
async def predict(request: Request, services: Shared, source: Source, body: Predict) -> dict[str, Any]:
    """Name the regions of tasks, or find and name things where a task has none.

    A task that cannot be read gets no prediction if there are others; alone it is an error.
    """
    context = body.params.context if body.params else None
    question = _Question(request, services, source, read_labelling(body.label_config), context)
    results: list[Any] = []
    for task in body.tasks:
        try:
            results.append(await question.prediction(task))
        except InputError as error:
            if len(body.tasks) == 1:
                raise
            LOG.warning("task %s: %s", str(task.get("id"))[:40], error)
            results.append([])
    return {"results": results, "model_version": model_version(services)}
