"""Entry point of the command line: find the command, parse its flags, turn errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import TextIO

COMMANDS = {
    "predict": "name regions of one image",
    "label": "name every annotation of a COCO file",
    "join": "join the shards of label into one COCO file",
    "segment": "outline the things in photographs",
    "name": "find and name the things in photographs",
    "serve": "open a page to click on things and read their names, and an HTTP API",
    "demo": "open that page on the example photographs",
    "check": "list every fault of annotations, segments or label maps",
    "embed": "write a vector for every annotation of a COCO file",
    "models": "list the models there are: what each knows, size, accuracy, licence",
    "evaluate": "evaluate a model on labelled regions",
    "audit": "find labels that look wrong, and correct them on a page",
    "fit": "fit a model of your own classes to a few labelled regions",
    "train": "train a model on COCO files and label maps",
    "average": "average the weights of several runs",
    "export": "export a training checkpoint as a model file",
    "compare": "train variants and evaluate them on the same regions",
    "import-eppel": "convert the author's published weights to a checkpoint",
}

USAGE = """usage: maskwise COMMAND ...

Name what is under a mask.

commands:
{commands}

  maskwise COMMAND --help    flags and examples of a command
  maskwise --version
"""


def main() -> None:
    """Run the command line; exits 0 when done, 1 with one line on an error, 2 on wrong usage, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # Names of files may hold what the terminal cannot show.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # The reader has gone, as `head` does: what it wanted is done.
        _silence(sys.stdout)
        code = 0
    except OSError as error:
        _silence(sys.stdout)
        _say(f"maskwise: cannot write to standard output ({error.strerror})")
        code = 1
    sys.exit(code)


def _silence(stream: TextIO) -> None:
    """Let Python's own flush at exit go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _say(line: str) -> None:
    """Print a line to standard error, unless that is closed."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(line, file=sys.stderr, flush=True)


def run(args: list[str]) -> int:
    """Run one command.

    Args:
        args: what follows `maskwise`.

    Returns:
        The exit code; wrong flags exit with 2 at once.
    """
    if not args or args[0] in ("-h", "--help"):
        listing = "\n".join(f"  {verb:<13} {summary}" for verb, summary in COMMANDS.items())
        print(USAGE.format(commands=listing), end="", file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    if args[0] == "--version":
        from maskwise import __version__

        print(f"maskwise {__version__}")
        return 0
    if args[0] not in COMMANDS:
        print(f"maskwise: no command {args[0]!r}; the commands are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return _run_command(args[0], args[1:])


def _run_command(verb: str, args: list[str]) -> int:
    from functools import partial

    from maskwise.errors import MaskwiseError

    try:
        from maskwise.cli.options import parse_flags

        command = import_module(f"maskwise.cli.{verb.replace('-', '_')}")
        parse = getattr(command, "parse", None) or partial(parse_flags, command.Command, prog=f"maskwise {verb}")
        code: int | None = parse(args).run()
    except MaskwiseError as error:
        _say(f"maskwise {verb}: {' '.join(str(error).split())}")
        return 1
    except MemoryError:
        _say(f"maskwise {verb}: not enough memory; give smaller images or fewer masks at a time")
        return 1
    except KeyboardInterrupt as error:
        _say(f"maskwise {verb}: interrupted{''.join(f'; {note}' for note in getattr(error, '__notes__', ()))}")
        return 130
    return code or 0
