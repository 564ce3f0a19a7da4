"""Settings of the server: limits, and who may talk to it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from maskwise.errors import SettingsError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
"""What a browser on this machine calls it."""
MIN_TOKEN_CHARACTERS = 16
"""Shorter tokens could be guessed."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may ask for."""

    max_upload_mb: float = 60
    """Maximum size of a request, megabytes."""
    max_megapixels: float = 60
    """Maximum size of a photograph, millions of pixels."""
    max_masks: int = 300
    """Maximum number of regions in a request."""
    max_requests: int = 64
    """Maximum number of requests at once; others are asked to come back."""
    max_waiting_regions: int = 2000
    """Maximum number of regions that wait to be named; further requests are asked to come back."""
    max_waiting_outlines: int = 16
    """Maximum number of photographs that wait for the segmenter; further requests are asked to come back."""
    memory_mb: float = 2000
    """Memory for the photographs and masks of running requests, megabytes; further requests wait for it."""
    kept_megapixels: float = 120
    """Photographs that are kept for further clicks, millions of pixels in all (3 MB each)."""
    idle_s: float = 20
    """Seconds without progress after which a request that is being sent, or an answer being read, is given up."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise SettingsError(f"limits.{name.replace('_', '-')} is {value}; give a number above 0")


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may talk to the server.

    Attributes:
        token: bearer token that requests to the API must have; None for none.
        hosts: names by which clients may call the server; None for any.
        origins: other web sites whose pages may use the API, like https://example.org.
    """

    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] | None = LOOPBACK_NAMES
    origins: tuple[str, ...] = ()


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address.

    >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("0.0.0.0"), is_loopback("example.org")
    (True, True, False, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # A name.
        return host == "localhost"


def access_for(host: str, *, token: str | None, hosts: tuple[str, ...] = (), origins: tuple[str, ...] = ()) -> Access:
    """Return who may talk to a server that listens at an address.

    Args:
        host: the address.
        token: bearer token, if there is one.
        hosts: further names of the server, as behind a reverse proxy.
        origins: other web sites whose pages may use the API.

    Raises:
        SettingsError: it can be reached from other machines without a token, or the token is too short.
    """
    local = is_loopback(host)
    if token is None and not local:
        raise SettingsError(f"{host} can be reached from other machines; give a token")
    if token is not None and len(token) < MIN_TOKEN_CHARACTERS:
        raise SettingsError(f"the token has {len(token)} characters; give at least {MIN_TOKEN_CHARACTERS}")
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise SettingsError("the token has characters that do not fit in a header; use letters, digits, - and _")
    for origin in origins:
        scheme, separator, rest = origin.partition("://")
        if scheme not in ("http", "https") or not separator or not rest or "/" in rest:
            raise SettingsError(f"allow-origin {origin}: give scheme and host, like https://example.org")
    known = tuple(dict.fromkeys((*LOOPBACK_NAMES, host, *hosts))) if local else hosts
    return Access(token=token, hosts=known or None, origins=origins)
