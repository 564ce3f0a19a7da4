"""Check that an input is a plain file before it is opened: a FIFO would wait forever, a device never end."""

from __future__ import annotations

import os
import stat

from maskwise.errors import InputError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_plain_file(path: str | os.PathLike[str], what: str, error: type[InputError]) -> None:
    """Refuse what is not a plain file, or a link to one.

    Args:
        path: of the file.
        what: what the file should be, for the message: "image file".
        error: raised with the message.

    Raises:
        InputError: the given kind of it: there is no file, or it is a folder, a FIFO, a socket or a device, or its name
            cannot be looked up.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as missing:
        raise error(f"{os.fspath(path)}: no such {what}") from missing
    except (OSError, ValueError) as fault:  # A name that is too long, a loop of links, a forbidden folder, a zero byte.
        raise error(f"{shortened(os.fspath(path))}: cannot be opened ({_reason(fault)})") from fault
    for is_kind, name in _KINDS:
        if is_kind(mode):
            raise error(f"{os.fspath(path)}: is {name}, not a plain file; give the path of an {what}")


def shortened(text: str, length: int = 120) -> str:
    """Return a text without its middle if it is too long for a line.

    >>> shortened("abcdefghij", 5)
    'ab…ij'
    """
    if len(text) <= length:
        return text
    return text[: length // 2] + "…" + text[len(text) - length // 2 :]


def _reason(fault: OSError | ValueError) -> str:
    return (fault.strerror or str(fault)) if isinstance(fault, OSError) else str(fault)
