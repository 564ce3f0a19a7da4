"""Entry point of the command line: find the command, parse its flags, turn errors into one line and an exit code."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {
    "predict": "name regions of one image",
    "label": "name every annotation of a COCO file",
    "evaluate": "evaluate a model on labelled regions",
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
    """Run the command line; exits 0 when done, 1 with one line on an error, 2 on wrong usage."""
    sys.exit(run(sys.argv[1:]))


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

    from maskwise.cli.options import parse_flags
    from maskwise.errors import MaskwiseError

    try:
        command = import_module(f"maskwise.cli.{verb.replace('-', '_')}")
        parse = getattr(command, "parse", None) or partial(parse_flags, command.Command, prog=f"maskwise {verb}")
        parsed = parse(args)
        parsed.run()
    except MaskwiseError as error:
        print(f"maskwise {verb}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"maskwise {verb}: interrupted", file=sys.stderr)
        return 130
    return 0
