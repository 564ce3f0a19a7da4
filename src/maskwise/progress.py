"""Show the progress of long work: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

SECONDS_PER_LINE = 60.0
"""Time between two lines where there is no terminal."""


class Progress:
    """Counts finished items; a context."""

    def __init__(self, total: int, what: str, unit: str, *, initial: int = 0) -> None:
        """Start counting.

        Args:
            total: number of items.
            what: name of the work.
            unit: what the items are, in the plural.
            initial: number of items that are finished already.
        """
        self._total, self._what, self._unit, self._done = total, what, unit, initial
        self._last = time.monotonic()
        self._bar = None
        if sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=initial, desc=what, unit=f" {unit}", mininterval=0.5)

    def update(self, count: int = 1) -> None:
        """Count further finished items."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._last >= SECONDS_PER_LINE and sys.stderr is not None:
            self._last = time.monotonic()
            print(f"{self._what}: {self._done} of {self._total} {self._unit}", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
