"""Start the server, say where it is, and end it without losing an answer."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from maskwise.errors import InputError
from maskwise.serve.connections import protocol_with
from maskwise.serve.settings import is_loopback

TOKEN_VARIABLE = "MASKWISE_TOKEN"
"""Environment variable that may hold the token."""
LABEL_STUDIO_VARIABLE = "LABEL_STUDIO_API_KEY"
"""Environment variable that may hold an access token of Label Studio, as its own tools call it."""
DRAIN_S = 60
"""Seconds that running requests get after SIGTERM."""
BACKLOG = 512
"""Connections that the system accepts before the server does."""


def read_token(path: Path | None, variable: str = TOKEN_VARIABLE) -> str | None:
    """Return the token from a file, or from the environment; None if there is none.

    Args:
        path: file whose first line is the token.
        variable: environment variable that may hold it.

    Raises:
        InputError: the file cannot be read or is empty.
    """
    if path is None:
        return os.environ.get(variable) or None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the token cannot be read ({error})") from error
    if not token:
        raise InputError(f"{path}: is empty; write the token into it")
    return token


def new_token() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(24)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: address or name.
        port: 0 for any that is free.

    Raises:
        InputError: the address cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((address[0], address[1]), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen at {host} port {port} ({error}); give another --port or --host") from error


def address_of(host: str, port: int, token: str | None) -> str:
    """Return the address to open in a browser; the token follows a #, which browsers do not send.

    >>> address_of("0.0.0.0", 8000, "abc"), address_of("::1", 80, None)
    ('http://localhost:8000/#token=abc', 'http://[::1]:80/')
    """
    shown = "localhost" if host in ("0.0.0.0", "::") or (is_loopback(host) and ":" not in host) else host
    name = f"[{shown}]" if ":" in shown else shown
    return f"http://{name}:{port}/" + (f"#token={token}" if token else "")


def serve(app: FastAPI, listener: socket.socket, address: str, *, idle_s: float, open_browser: bool) -> None:
    """Answer requests until SIGTERM or Ctrl+C; running requests are finished first.

    Args:
        app: what answers.
        listener: of `listen`; closed at the end.
        address: to print and to open.
        idle_s: seconds without progress after which a connection is cut.
        open_browser: whether to open the page.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s: %(message)s")
    config = uvicorn.Config(
        app,
        http=protocol_with(idle_s),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=DRAIN_S,
    )
    server = _Server(config, address, open_browser=open_browser)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _ignore)  # uvicorn raises the signal again once all is finished.
    server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says where the page is as soon as it can be opened."""

    def __init__(self, config: uvicorn.Config, address: str, *, open_browser: bool) -> None:
        super().__init__(config)
        self._address, self._open_browser = address, open_browser

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(f"Maskwise is at {self._address}\nCtrl+C ends it.", flush=True)
        if self._open_browser:
            threading.Thread(target=webbrowser.open, args=(self._address,), daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            print("finishing the running requests", file=sys.stderr, flush=True)
        super().handle_exit(sig, frame)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Let the process end by itself."""
