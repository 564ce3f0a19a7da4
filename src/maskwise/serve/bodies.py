"""Bounds of requests: how many at once, how large, how slowly they may come, how much memory they use together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskwise.serve.settings import Limits

COUNTED = ("/v1/", "/predict")
"""Paths whose requests count; the page, /healthz and /metrics are always answered."""
MEGABYTE = 1_000_000
RETRY_AFTER_S = 2
"""When a client should try again that found too many requests."""


class BodyGuard:
    """Refuses requests that are too large, come too slowly, or are too many at once."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        """Guard an application.

        Args:
            app: what answers.
            limits: what a client may ask for.
        """
        self._app, self._limits = app, limits
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, refuse or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > self._most:
            await self._refuse(413, self._too_large())(scope, receive, send)
        elif not scope["path"].startswith(COUNTED) or scope["method"] == "GET":
            await self._app(scope, self._guarded(receive), send)
        elif self.running >= self._limits.max_requests:
            message = f"{self.running} requests are running; try again in {RETRY_AFTER_S} s"
            await self._refuse(503, message, {"Retry-After": str(RETRY_AFTER_S)})(scope, receive, send)
        else:
            self.running += 1
            try:
                await self._app(scope, self._guarded(receive), send)
            finally:
                self.running -= 1

    @property
    def _most(self) -> int:
        return round(self._limits.max_upload_mb * MEGABYTE)

    def _too_large(self) -> str:
        return f"the request is too large; accepted are {self._limits.max_upload_mb:g} MB"

    @staticmethod
    def _refuse(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
        # What is left of the body is not read: the connection ends with the answer.
        return JSONResponse({"detail": detail}, status, headers={"Connection": "close", **(headers or {})})

    def _guarded(self, receive: Receive) -> Receive:
        """Return a `receive` that counts the body's bytes and does not wait for ever."""
        total, complete = 0, False

        async def receive_guarded() -> Message:
            nonlocal total, complete
            if complete:  # What may still come is the end of the connection; that may take as long as it likes.
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._limits.idle_s)
            except TimeoutError:
                raise _closing(408, f"nothing came for {self._limits.idle_s:g} s; send the request again") from None
            if message["type"] == "http.request":
                total += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                if total > self._most:
                    raise _closing(413, self._too_large())
            return message

        return receive_guarded


def _closing(status: int, detail: str) -> HTTPException:
    return HTTPException(status, detail, headers={"Connection": "close"})


class MemoryBudget:
    """Memory that running requests share; each waits for its part, in order."""

    def __init__(self, megabytes: float) -> None:
        """Start with all of it free."""
        self._total = round(megabytes * MEGABYTE)
        self._used = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self._used

    @asynccontextmanager
    async def share(self, size: int) -> AsyncIterator[None]:
        """Hold memory during the block; a request larger than all of it runs alone.

        Args:
            size: bytes.
        """
        size = min(size, self._total)
        async with self._turn:
            while self._used + size > self._total:
                self._freed.clear()
                await self._freed.wait()
            self._used += size
        try:
            yield
        finally:
            self._used -= size
            self._freed.set()
