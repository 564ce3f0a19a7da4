"""Fuzz one target in this process: python fuzz/one.py TARGET [libFuzzer's flags and folders]."""

from __future__ import annotations

import contextlib
import sys
import warnings

import atheris

with atheris.instrument_imports(include=["maskwise"], enable_loader_override=False):
    from targets import TARGETS

    from maskwise.errors import MaskwiseError


def main() -> None:
    """Run libFuzzer on a target; another error than Maskwise's ends it and writes the input."""
    warnings.simplefilter("ignore")  # Pillow warns of damaged files.
    target = TARGETS[sys.argv[1]]

    def call(content: bytes) -> None:
        with contextlib.suppress(MaskwiseError):  # The right answer to a wrong input.
            target(content)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], call)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
