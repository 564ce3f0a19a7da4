"""Optional parts of Maskwise: say what to install when one is missing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from maskwise.errors import MissingExtraError

Extra = Literal["cvat", "fit", "parquet", "report", "ray", "serve", "supervision", "train"]


@contextmanager
def needs_extra(extra: Extra) -> Iterator[None]:
    """Turn a missing package of the block's imports into a line that says what to type.

    Args:
        extra: the optional part that brings the block's packages.

    Raises:
        MissingExtraError: the block imports a package that is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_extra(error, extra) from error


def missing_extra(error: ModuleNotFoundError, extra: Extra) -> MissingExtraError:
    """Return the error for a missing package, with the command that installs it.

    Args:
        error: what the import raised.
        extra: the optional part that brings the package.
    """
    return MissingExtraError(f"this needs the package {error.name}; install it with: {install_command(extra)}")


def install_command(extra: Extra) -> str:
    """Return the pip command that adds an optional part to this installation, from a checkout or from a registry.

    Source:
        PEP 610: an installation from a folder records the folder in `direct_url.json`.
    """
    try:
        text = metadata.distribution("maskwise").read_text("direct_url.json")
    except metadata.PackageNotFoundError:  # Run from a source tree that is not installed.
        text = None
    record = json.loads(text) if text else {}
    if "dir_info" not in record:
        return f"pip install {shlex.quote(f'maskwise[{extra}]')}"
    folder = Path(unquote(urlsplit(record["url"]).path))
    editable = "-e " if record["dir_info"].get("editable") else ""
    return f"pip install {editable}{shlex.quote(f'{folder}[{extra}]')}"
