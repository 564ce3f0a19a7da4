"""Find recipes and examples: as given, or where the wheel puts them."""

from __future__ import annotations

import sysconfig
from pathlib import Path


def find_shared(path: Path) -> Path:
    """Return a file by its path, or by the same path below the installation's shared folder.

    So `recipes/resnet50.toml` and `examples/coffee.jpg`, as help texts and documentation have them, are found wherever
    the command is run.

    Args:
        path: as the user typed it.

    Returns:
        The path itself if there is such a file, or if it is nowhere.
    """
    if path.exists() or path.is_absolute():
        return path
    for scheme in dict.fromkeys((sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))):
        shared = Path(sysconfig.get_path("data", scheme)) / "share" / "maskwise" / path
        if shared.exists():
            return shared
    return path
