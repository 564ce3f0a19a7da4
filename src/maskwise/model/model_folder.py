"""Find models by name: the built-in one, and those in a folder of the user's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from maskwise.errors import ModelError
from maskwise.model.session import built_in_model

FOLDER_VARIABLE = "MASKWISE_MODELS"
"""Environment variable that may name the folder of models."""
BUILT_IN = "default"
"""Name of the built-in model."""
SUFFIX = ".onnx"


def models_folder() -> Path:
    """Return the folder of the user's models: what `MASKWISE_MODELS` names, else `maskwise/models` in the data folder.

    The data folder is the platform's: `$XDG_DATA_HOME` or `~/.local/share`, on macOS `~/Library/Application Support`,
    on Windows `%LOCALAPPDATA%`. It need not exist.
    """
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named)
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "maskwise" / "models"


def find_model(model: str | os.PathLike[str] | None) -> Path:
    """Return the file of a model.

    Args:
        model: a path; or `default`, or the name of a file in the folder of models, without `.onnx`. A file of that very
            name in the current folder comes first. None is the built-in model.

    Raises:
        ModelError: a name that no model has; the message lists the models.
    """
    if model is None:
        return built_in_model()
    path = Path(model)
    if path.is_file() or path.suffix or len(path.parts) > 1:  # A path that is not there is reported where it is opened.
        return path
    if path.name == BUILT_IN:
        return built_in_model()
    for name, file in user_models():
        if name == path.name:
            return file
    names = ", ".join([BUILT_IN, *(name for name, _ in user_models())])
    raise ModelError(f"{path}: no such model file, and no model of that name in {models_folder()}; there are {names}")


def user_models() -> Iterator[tuple[str, Path]]:
    """Yield name and file of each model in the user's folder, sorted."""
    folder = models_folder()
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix == SUFFIX and path.is_file():
                yield path.stem, path
