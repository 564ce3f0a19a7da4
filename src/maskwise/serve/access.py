"""Who may talk to the server: checks of Host, Origin and token before anything is read, and headers of every answer."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskwise.serve.settings import Access

GUARDED = ("/v1/", "/metrics", "/predict", "/setup", "/versions", "/webhook")
"""Paths that need the token, if there is one; the page itself holds no secret."""
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
        " manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered.

    Attributes:
        status: HTTP status.
        detail: what is wrong and what to do.
    """

    status: int
    detail: str


def refusal_of(access: Access, path: str, headers: Headers) -> Refusal | None:
    """Return why a request is refused; None if it is welcome.

    Args:
        access: who may talk to the server.
        path: of the request.
        headers: of the request.
    """
    host = headers.get("host", "")
    if access.hosts is not None and host_name(host) not in access.hosts:
        return Refusal(403, f"this server is not called {host[:100]!r}; open it as localhost, or start it --allow-host")
    origin = headers.get("origin")
    if origin is not None and origin not in access.origins and urlsplit(origin).netloc != host:
        return Refusal(403, f"pages of {origin[:100]} may not use this server; start it with --allow-origin")
    guarded = path.startswith(GUARDED)
    if guarded and origin is None and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return Refusal(403, "pages of other sites may not use this server; start it with --allow-origin")
    if guarded and access.token is not None and not has_token(headers, access.token):
        return Refusal(401, "this server needs a token; send the header Authorization: Bearer TOKEN")
    return None


def host_name(host: str) -> str:
    """Return the name in a Host header, without port and brackets; empty if malformed.

    >>> host_name("localhost:8000"), host_name("[::1]:8000"), host_name("a@b")
    ('localhost', '::1', '')
    """
    try:
        parts = urlsplit(f"//{host}")
        return "" if "@" in host else (parts.hostname or "").rstrip(".")
    except ValueError:
        return ""


def has_token(headers: Headers, token: str) -> bool:
    """Return whether a request has the token; the time does not depend on how much of it is right.

    It is a bearer token, or the password of basic authentication, which is all that Label Studio sends.
    """
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given.strip(), validate=True).decode().partition(":")[2]
        except ValueError:
            return False
    elif scheme.lower() != "bearer":
        return False
    return secrets.compare_digest(given.strip().encode(), token.encode())


class AccessGuard:
    """Answers refused requests itself, and adds security headers to every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Guard an application.

        Args:
            app: what answers welcome requests.
            access: who may talk to it.
        """
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith(GUARDED):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = refusal_of(self._access, scope["path"], Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
            return
        more = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
        answer = JSONResponse({"detail": refusal.detail}, refusal.status, headers={**more, "Connection": "close"})
        await answer(scope, receive, send_with_headers)
