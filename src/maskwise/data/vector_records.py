"""Vectors of a run that may be interrupted: a record for each row, valid only with the right key and checksum."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from jaxtyping import Bool, Float32, Int64

from maskwise.data.file_lock import lock_file
from maskwise.errors import InputError

CHUNK = 1024
"""Rows that are read or written together."""


class VectorRecords:
    """Vectors by row in a file, so that none has to be in memory; a context that one run at a time can enter.

    A record is the hash of what the vector was made from, the vector, and a checksum of both: rows of an interrupted
    run count only if they are whole and still wanted.
    """

    def __init__(self, path: Path, rows: int, features: int) -> None:
        """Name the file.

        Args:
            path: the file; one of another size starts over.
            rows: number of rows.
            features: numbers in a vector.
        """
        self._path = path
        self._dtype = np.dtype([("key", "V32"), ("vector", "<f4", (features,)), ("checksum", "<u4")])
        self._rows = rows
        self._file: BinaryIO | None = None
        self.valid: Bool[np.ndarray, " rows"] = np.zeros(rows, dtype=bool)
        """Which rows have a vector."""

    def __enter__(self) -> VectorRecords:
        """Open and lock the file.

        Raises:
            InputError: another run has it, or it cannot be written.
        """
        if self._path.exists() and not self._path.is_file():
            raise InputError(f"{self._path}: is not a plain file; remove it, or give another output")
        try:
            self._path.touch()
            self._file = open(self._path, "r+b")  # Closed in __exit__.
            lock_file(self._file, self._path)
            size = self._rows * self._dtype.itemsize
            if self._path.stat().st_size != size:
                self._file.truncate(0)
                self._file.truncate(size)
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({error.strerror}); give another output") from error
        except InputError:
            self._opened().close()
            raise
        return self

    def recall(self, row: int, key: str) -> bool:
        """Return whether a row has a vector that was made from what a key stands for; it is valid from then on."""
        file = self._opened()
        file.seek(row * self._dtype.itemsize)
        record = file.read(self._dtype.itemsize)
        self.valid[row] = record[:32] == sha256(key.encode()).digest() and _checksum(record) == record[-4:]
        return bool(self.valid[row])

    def put(self, row: int, key: str, vector: Float32[np.ndarray, " features"]) -> None:
        """Write the vector of a row.

        Raises:
            InputError: the disk is full.
        """
        file = self._opened()
        content = sha256(key.encode()).digest() + vector.astype("<f4").tobytes()
        try:
            file.seek(row * self._dtype.itemsize)
            file.write(content + _checksum(content + bytes(4)))
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({error.strerror}); make room and repeat") from error
        self.valid[row] = True

    def flush(self) -> None:
        """Hand what was written to the system, so that it survives the end of this process."""
        self._opened().flush()

    def chunks(self) -> Iterator[tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, "n features"]]]:
        """Yield the valid rows in order, some at a time, with their vectors."""
        file = self._opened()
        file.flush()
        for start in range(0, self._rows, CHUNK):
            valid = self.valid[start : start + CHUNK]
            if valid.any():
                file.seek(start * self._dtype.itemsize)
                records = np.frombuffer(file.read(len(valid) * self._dtype.itemsize), dtype=self._dtype)
                yield start + np.flatnonzero(valid), records["vector"][valid].astype(np.float32)

    def delete(self) -> None:
        """Delete the file: the output is written."""
        self._path.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; it goes if it holds nothing."""
        if not self.valid.any():
            self._path.unlink(missing_ok=True)
        self._opened().close()

    def _opened(self) -> BinaryIO:
        assert self._file is not None, "enter the records first"
        return self._file


def _checksum(record: bytes) -> bytes:
    """Return the checksum of a record, whose last four bytes are the place of it."""
    return zlib.crc32(record[:-4]).to_bytes(4, "little")
