"""Flags and types that commands share."""

from __future__ import annotations

import inspect
import sys
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import tyro

from maskwise.errors import MissingExtraError

T = TypeVar("T")


def parse_flags(command: type[T], args: list[str], prog: str, default: Any = None) -> T:
    """Read a command's flags; exits with 2 on wrong ones.

    Args:
        command: dataclass whose docstring is the help text, examples included.
        args: what follows the verb.
        prog: how the help calls the command.
        default: a command whose values are the flags' defaults, in place of the dataclass's.
    """
    # The whole docstring is given: tyro alone would drop its examples as a section of its own.
    more = {} if default is None else {"default": default}
    return tyro.cli(command, args=args, prog=prog, description=inspect.getdoc(command), **more)


def needs_train(error: ModuleNotFoundError) -> MissingExtraError:
    """What to say where the training floor is not installed."""
    return MissingExtraError(f"this command needs the package {error.name}: pip install 'maskwise[train]'")


def wrong_usage(verb: str, message: str) -> NoReturn:
    """Say what is wrong with a command's flags and exit with 2."""
    print(f"maskwise {verb}: {message}", file=sys.stderr)
    raise SystemExit(2)


Mode = Annotated[
    Literal["auto", "exact", "shared"],
    tyro.conf.arg(
        help="exact: a view for each mask; shared: masks share a few views of the image, which is faster and names"
        " small regions less well; auto: where there are many masks, neighbours of like size share."
    ),
]

Device = Literal["cpu", "cuda"]
