"""Bounds of requests, by a small application behind them."""

import asyncio

import pytest

from maskwise.serve.bodies import BodyGuard
from maskwise.serve.settings import Limits


async def _accept(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def status_of(length):
    """The status of a request that says it has so many bytes."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "path": "/v1/predict", "method": "POST", "headers": [(b"content-length", length)]}
    asyncio.run(BodyGuard(_accept, Limits(max_upload_mb=0.002))(scope, receive, send))
    return sent[0]["status"]


@pytest.mark.parametrize(("length", "status"), [(b"0", 200), (b"2000", 200), (b"2001", 413), (b"", 200)])
def test_a_request_may_be_as_large_as_the_limit(length, status):
    assert status_of(length) == status
