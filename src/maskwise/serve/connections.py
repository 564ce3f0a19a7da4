"""Connections that cannot be held open for nothing: uvicorn's protocol with time limits."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_S = 20.0
"""Default of the seconds without progress after which a connection is cut."""


class TimedProtocol(H11Protocol):
    """An HTTP/1.1 connection that is cut if its head never ends, or if nobody reads its answer.

    Bodies that never end are for `BodyGuard`, which can still answer.
    """

    idle_s = IDLE_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start without timers; arguments as uvicorn gives them."""
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the head of a request, but not for ever."""
        super().connection_made(transport)
        self._await_head()

    def handle_events(self) -> None:
        """Note when a head is complete, or another one begins."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            _stop(self._head_timer)
            self._head_timer = None
        elif self._head_timer is None:  # The first bytes of a further request.
            self._await_head()

    def pause_writing(self) -> None:
        """Wait for a reader, but not for ever."""
        super().pause_writing()
        _stop(self._write_timer)
        self._write_timer = self.loop.call_later(self.idle_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The reader reads again."""
        _stop(self._write_timer)
        self._write_timer = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even if its last answer was never read."""
        super().timeout_keep_alive_handler()
        _stop(self._write_timer)
        self._write_timer = self.loop.call_later(self.idle_s, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        _stop(self._head_timer)
        self._head_timer = None
        super().connection_lost(exc)
        _stop(self._write_timer)
        self._write_timer = None

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.idle_s, self.transport.abort)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def protocol_with(idle_s: float) -> type[TimedProtocol]:
    """Return the protocol with another time limit.

    Args:
        idle_s: seconds without progress.
    """
    return type("TimedProtocol", (TimedProtocol,), {"idle_s": idle_s})
