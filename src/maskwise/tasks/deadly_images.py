"""Find the image that ends the process that names it, so that a run over millions of images gets past it.

A decoder may crash and the system may end a process that takes too much memory; then nobody can catch an error, and
the next worker that gets the block dies too. So each block keeps a note of who died on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from maskwise.data.locations import found, joined, read_file, remove_file, write_file
from maskwise.errors import InputError

QUICK_STARTS = 2
"""After this many processes have died on a block, each of its images is tried alone first."""
DEATHS = 2
"""An image on which this many processes have died alone is left out."""
FAULT = "ends the process that names it (damaged, or too large for the memory?); leave it out or save it anew"


@dataclass
class Attempts:
    """The note of a block.

    Attributes:
        location: of the note.
        starts: how many processes have begun the block; each has died on it but the last.
        image: place of the image that is tried alone now; None while there is none.
        deaths: how many processes have died on an image alone, by its place as text.
    """

    location: str
    starts: int = 0
    image: int | None = None
    deaths: dict[str, int] = field(default_factory=dict)

    @property
    def careful(self) -> bool:
        """Whether each image must be tried alone."""
        return self.starts > QUICK_STARTS

    @property
    def left_out(self) -> frozenset[int]:
        """Places of the images that end processes."""
        return frozenset(int(place) for place, count in self.deaths.items() if count >= DEATHS)

    def trying(self, image: int | None) -> None:
        """Note which image is tried alone."""
        self.image = image
        write_file(self.location, json.dumps(asdict(self)).encode())


@contextmanager
def attempts(folder: str, name: str) -> Iterator[Attempts]:
    """Keep the note of a block while the context lasts; it stays only where the process dies.

    Args:
        folder: where, path or URL.
        name: of the block's shard.
    """
    location = joined(folder, f"trying-{name}.json")
    note = Attempts(location)
    if found(location):
        try:
            there = json.loads(read_file(location, InputError, "note"))
            note = Attempts(location, there["starts"], there["image"], there["deaths"])
        except (ValueError, KeyError, TypeError, InputError):  # Taken away meanwhile, or not ours.
            note = Attempts(location)
    if note.image is not None:
        note.deaths[str(note.image)] = note.deaths.get(str(note.image), 0) + 1
    note.starts += 1
    note.trying(None)
    try:
        yield note
    finally:
        remove_file(location)
