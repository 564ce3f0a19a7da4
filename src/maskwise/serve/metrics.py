"""Numbers about the server for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Upper ends of the classes of response times."""
COUNTS = (1, 2, 4, 8, 16, 32, 64)
"""Upper ends of the classes of requests per round."""
OTHER = "other"
"""Label of paths that are no route: clients could invent any number of them."""


class Metrics:
    """The server's counters; each server has its own."""

    def __init__(self) -> None:
        """Start from zero."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "maskwise_requests", "Answered requests.", ["route", "method", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "maskwise_request_seconds",
            "Time from a request's head to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.gone = Counter("maskwise_gone_clients", "Clients that left before their answer.", registry=self.registry)
        self.regions = Counter("maskwise_named_regions", "Regions that were named.", registry=self.registry)
        self.outlines = Counter("maskwise_outlined_images", "Photographs that were encoded.", registry=self.registry)
        self._rounds = Histogram(
            "maskwise_round_requests", "Requests that shared batches.", buckets=COUNTS, registry=self.registry
        )

    def note_round(self, requests: int) -> None:
        """Note how many requests shared batches."""
        self._rounds.observe(requests)

    def note_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Note an answered request.

        Args:
            route: template of its path.
            method: HTTP method.
            status: HTTP status; 499 if the client left first.
            seconds: how long it took.
        """
        self._requests.labels(route, method if method in ("GET", "HEAD", "POST") else OTHER, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def show(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Show a number that is asked for whenever the numbers are read.

        Args:
            name: what follows `maskwise_`.
            what: its description.
            value: returns it.
        """
        Gauge(f"maskwise_{name}", what, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """Return all numbers in Prometheus's text format."""
        return generate_latest(self.registry)


class MetricsRecorder:
    """Notes every request of an application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Watch an application.

        Args:
            app: what answers.
            metrics: where to note it.
        """
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and note how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started = 500, time.monotonic()

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        finally:
            route = getattr(scope.get("route"), "path", OTHER) or OTHER
            self._metrics.note_request(route, scope["method"], status, time.monotonic() - started)
