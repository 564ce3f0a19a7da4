"""Lock a file, so that one run at a time writes an output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from maskwise.errors import InputError


def lock_file(file: BinaryIO, path: Path) -> None:
    """Lock a file for this process, where the system has such locks.

    Raises:
        InputError: another process has locked it.
    """
    if os.name == "nt":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"{path}: another run is writing this output; wait for it, or give another output") from error
    except OSError:  # A file system without locks.
        return
