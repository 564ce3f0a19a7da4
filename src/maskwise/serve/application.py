"""The application: routes, guards, errors, the page."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from maskwise import __version__
from maskwise.errors import InputError
from maskwise.model.predictor import Predictor
from maskwise.serve.access import AccessGuard
from maskwise.serve.api import router
from maskwise.serve.batching import BatchingThread, BusyError
from maskwise.serve.bodies import MEGABYTE, BodyGuard, MemoryBudget
from maskwise.serve.label_studio import router as label_studio_router
from maskwise.serve.label_studio_images import LabelStudio
from maskwise.serve.metrics import Metrics, MetricsRecorder
from maskwise.serve.openapi import openapi_document
from maskwise.serve.outlining import ImageStore, Outliner, Outlines
from maskwise.serve.reading import TooLargeError
from maskwise.serve.services import ClientGoneError, ForgottenImageError, Services
from maskwise.serve.settings import Access, Limits
from maskwise.shared_files import find_shared

EXAMPLES = ("coffee.jpg", "cat.jpg", "astronaut.jpg")
"""Photographs that the page offers."""
CLIENT_GONE = 499
"""Status in logs and metrics of a request whose client left; nobody receives it."""
DESCRIPTION = "Name what is under a mask. Requests are forms; every refusal is a JSON object with `detail`."


def make_application(
    predictor: Predictor,
    segmenter: Outlines,
    *,
    access: Access,
    limits: Limits,
    label_studio: LabelStudio | None = None,
) -> FastAPI:
    """Return the application that answers requests.

    Args:
        predictor: names regions.
        segmenter: outlines things.
        access: who may talk to it.
        limits: what a client may ask for.
        label_studio: the server whose ML backend this is; None for none.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = Services(
            predictor=predictor,
            batching=BatchingThread(predictor, max_waiting=limits.max_waiting_regions, note_round=metrics.note_round),
            outliner=Outliner(segmenter, max_waiting=limits.max_waiting_outlines, note_image=metrics.outlines.inc),
            store=ImageStore(round(limits.kept_megapixels * MEGABYTE)),
            budget=MemoryBudget(limits.memory_mb),
            limits=limits,
            metrics=metrics,
        )
        _show_state(metrics, services)
        app.state.services = services
        try:
            yield
        finally:
            services.close()

    app = FastAPI(
        title="Maskwise",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # Its scripts would come from another host.
        redoc_url=None,
        form_limits={
            "max_files": limits.max_masks + 2,
            "max_fields": 20,
            "max_part_size": round(limits.max_upload_mb * MEGABYTE),
        },
    )
    app.include_router(router)
    if label_studio is not None:
        app.state.label_studio = label_studio
        app.include_router(label_studio_router)
    app.openapi = partial(openapi_document, app)  # type: ignore[method-assign]  # FastAPI's way to change it.
    _add_errors(app, metrics)
    _add_page(app)
    # The last one added sees a request first.
    app.add_middleware(BodyGuard, limits=limits)
    app.add_middleware(AccessGuard, access=access)
    if access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(MetricsRecorder, metrics=metrics)
    return app


def _show_state(metrics: Metrics, services: Services) -> None:
    metrics.show("waiting_regions", "Regions that wait or are being named.", lambda: services.batching.waiting)
    metrics.show("waiting_outlines", "Photographs that wait for the segmenter.", lambda: services.outliner.waiting)
    metrics.show("kept_images", "Photographs that are kept.", lambda: len(services.store))
    metrics.show("request_bytes", "Memory that running requests have reserved.", lambda: services.budget.used)


def _add_errors(app: FastAPI, metrics: Metrics) -> None:
    """Answer errors with one sentence."""
    statuses: dict[type[Exception], int] = {InputError: 422, TooLargeError: 413, ForgottenImageError: 404}
    for kind, status in statuses.items():
        app.add_exception_handler(kind, lambda _, error, status=status: _problem(status, str(error)))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return _problem(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong_form(request: Request, error: RequestValidationError) -> JSONResponse:
        return _problem(422, first_fault(error.errors()))

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        return _problem(503, str(error), {"Retry-After": str(error.retry_after_s)})

    @app.exception_handler(ClientGoneError)
    async def gone(request: Request, error: ClientGoneError) -> JSONResponse:
        metrics.gone.inc()
        return _problem(CLIENT_GONE, "the client has left")

    @app.exception_handler(MemoryError)
    async def no_memory(request: Request, error: MemoryError) -> JSONResponse:
        return _problem(503, "not enough memory; give a smaller photograph or fewer regions", {"Retry-After": "10"})

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        logging.getLogger("maskwise.serve").error("a request failed", exc_info=error)
        return _problem(500, "the server made a mistake; its log says more")


def _problem(status: int, detail: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"detail": " ".join(detail.split())}, status, headers=headers)


def first_fault(errors: Sequence[Any]) -> str:
    """Return the first fault of a form as a sentence.

    Args:
        errors: pydantic's.

    >>> first_fault([{"loc": ("body", "regions", 0, "box"), "msg": "Field required"}])
    'regions[0].box: Field required'
    """
    place, message, before = "", str(errors[0]["msg"]), None
    for part in errors[0]["loc"][1:]:
        if part != before:  # The name of a form of region is also the name of its field.
            place += f"[{part}]" if isinstance(part, int) else f".{part}"
        before = part
    return f"{place.lstrip('.')}: {message}".lstrip(": ")[:500]


def _add_page(app: FastAPI) -> None:
    page = Path(str(resources.files("maskwise") / "serve" / "page"))

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(page / "index.html", headers={"Cache-Control": "no-cache"})

    @app.get("/examples/{name}", include_in_schema=False)
    async def example(name: str) -> FileResponse:
        path = find_shared(Path("examples") / name)
        if name not in EXAMPLES or not path.is_file():
            raise HTTPException(404, "no such example")
        return FileResponse(path)

    app.mount("/page", StaticFiles(directory=page), name="page")
