"""Get the images of Label Studio's tasks: from its server, and from nowhere else, or from its local storage."""

from __future__ import annotations

import http.client
import json
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from maskwise.errors import ImageError, SettingsError
from maskwise.serve.bodies import MEGABYTE
from maskwise.serve.reading import TooLargeError, file_name

PATHS = ("/data/", "/storage-data/", "/tasks/")
"""Where Label Studio has the images of tasks; nothing else is asked for."""
LOCAL_FILES = "/data/local-files/"
"""Where Label Studio has the files of its local storage."""
TIMEOUT_S = 20
"""Seconds without an answer, or without further bytes, after which an image is given up."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none: the other host could be one that only this machine reaches."""


@dataclass(eq=False)
class LabelStudio:
    """A Label Studio server.

    Attributes:
        url: its address, like http://localhost:8080.
        key: an access token: a personal one, or a legacy one; None to use the one that the server sends, if any.
        files: folder of its local storage (its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT), to read files directly.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    files: Path | None = None
    sent_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in parts.netloc:
            raise SettingsError(f"label-studio {self.url[:100]}: give the address of the server: http://localhost:8080")
        if self.files is not None and not self.files.is_dir():
            raise SettingsError(f"{self.files}: is no folder; give the folder of Label Studio's local storage")

    def save(self, reference: Any, folder: Path, max_mb: float) -> Path:
        """Write a task's image into a folder; returns its path.

        Args:
            reference: what the task's data have: an address, or a path on the server.
            folder: empty.
            max_mb: maximum size, megabytes.

        Raises:
            ImageError: at another server, not there, or the server refuses it.
            TooLargeError: it is too large.
        """
        if not isinstance(reference, str) or not reference:
            raise ImageError("the task has no image; give its address under the key that the configuration names")
        address = self._address(reference)
        parts = urlsplit(address)
        local = parse_qs(parts.query).get("d", [""])[0]
        if self.files is not None and parts.path.endswith(LOCAL_FILES):
            return self._local(local)
        path = folder / file_name(PurePosixPath(unquote(local or parts.path)).name, "image")
        try:
            with self._open(address, {}) as answer, open(path, "wb") as file:
                self._copy(answer, file, max_mb)
        except HTTPError as error:
            remedy = "give an access token with --label-studio-key-file" if error.code in (401, 403) else "look there"
            raise ImageError(f"{reference[:100]}: Label Studio answers {error.code}; {remedy}") from error
        except (OSError, http.client.HTTPException) as error:
            raise ImageError(f"{reference[:100]}: cannot be read from {self.url} ({error}); is it running?") from error
        return path

    def _address(self, reference: str) -> str:
        """Return the address of an image, if it is one of this server."""
        own, parts = urlsplit(self.url), urlsplit(reference)
        prefix = own.path.rstrip("/")
        if (parts.scheme, parts.netloc) not in (("", ""), (own.scheme, own.netloc)):
            where = f"{parts.scheme}://{parts.netloc}"[:100]
            raise ImageError(f"the image is at {where}; accepted are images at {self.url}, uploaded or in a storage")
        path = parts.path if prefix and parts.path.startswith(prefix + "/") else prefix + parts.path
        inner = unquote(path[len(prefix) :])
        if ".." in inner.split("/") or "\\" in inner or not inner.startswith(PATHS):
            raise ImageError(f"{reference[:100]}: is no image of a task; accepted are paths below {', '.join(PATHS)}")
        return urlunsplit((own.scheme, own.netloc, path, parts.query, ""))

    def _local(self, relative: str) -> Path:
        assert self.files is not None
        root = self.files.resolve()
        path = (root / relative.lstrip("/")).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise ImageError(f"{relative[:100]}: is no file in {self.files}; give the storage's folder")
        return path

    def _open(self, address: str, more: dict[str, str], data: bytes | None = None) -> Any:
        key = self.key or self.sent_key
        headers = {"User-Agent": "maskwise", **more}
        if key and data is None:
            headers["Authorization"] = self._authorization(key)
        # urlencode nothing: the address comes encoded from Label Studio, but spaces in it would break the request.
        request = urllib.request.Request(address.replace(" ", "%20"), data, headers)
        return urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_S)

    def _authorization(self, key: str) -> str:
        """Return the header for a token; a personal one (three parts) is exchanged for one that lasts minutes."""
        if key.count(".") != 2:
            return f"Token {key}"
        body = json.dumps({"refresh": key}).encode()
        address = self.url.rstrip("/") + "/api/token/refresh"
        with self._open(address, {"Content-Type": "application/json"}, body) as answer:
            return f"Bearer {json.loads(answer.read(MEGABYTE))['access']}"

    @staticmethod
    def _copy(answer: Any, file: Any, max_mb: float) -> None:
        most = round(max_mb * MEGABYTE)
        left = most
        while block := answer.read(min(left + 1, 1 << 20)):
            left -= len(block)
            if left < 0:
                raise TooLargeError(f"the image is larger than {max_mb:g} MB; make it smaller, or see --limits")
            file.write(block)
