"""Write vectors with their ids: NumPy's .npy and .npz, or Parquet."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from maskwise.data.atomic_files import whole_file
from maskwise.data.coco_file import CocoFile
from maskwise.data.coco_index import value_of
from maskwise.errors import InputError
from maskwise.extras import needs_extra

Chunks = Iterable[tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, "n features"]]]
"""Rows of annotations in a COCO file, ascending, and their vectors, some at a time."""
IDS_SUFFIX = ".ids.csv"
"""Added to the name of a .npy file for the file of its ids."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of a COCO file's annotations.

    Attributes:
        coco: the file.
        rows: rows of the annotations that have a vector, ascending.
        features: numbers in a vector.
        chunks: the vectors.
    """

    coco: CocoFile
    rows: Int64[np.ndarray, " rows"]
    features: int
    chunks: Chunks

    def ids(self, row: int) -> tuple[str | int | float, str | int | float, str]:
        """Return the annotation id, the image id and the file name of an annotation."""
        image_id, annotation_id = self.coco.ids(row)
        name = self.coco.file_name(int(self.coco.index.image[row]))
        return annotation_id, image_id, name.encode(errors="backslashreplace").decode()


def check_suffix(output: Path) -> None:
    """Refuse a path whose suffix is none of the formats'.

    Raises:
        InputError: see above.
        MissingExtraError: the format's package is not installed.
    """
    if output.suffix.lower() not in WRITERS:
        raise InputError(f"{output}: unknown suffix; accepted are {', '.join(WRITERS)}")
    if output.suffix.lower() == ".parquet":
        with needs_extra("parquet"):
            import pyarrow.parquet  # noqa: F401


def write_vectors(vectors: Vectors, output: Path) -> None:
    """Write vectors and ids, whole or not at all; the suffix chooses the format.

    `.npy`: rows x features, float32, and beside it `OUTPUT.ids.csv` with row, annotation_id, image_id, file_name.
    `.npz`: `vectors`, `annotation_ids`, `image_ids`, `file_names`. `.parquet`: `annotation_id`, `image_id`,
    `file_name`, `vector`; ids are text there if the file has any that are text.

    Raises:
        InputError: see `check_suffix`, `whole_file`.
        MissingExtraError: pyarrow is not installed.
    """
    check_suffix(output)
    WRITERS[output.suffix.lower()](vectors, output)


def _write_npy(vectors: Vectors, output: Path) -> None:
    with (
        whole_file(output.with_name(output.name + IDS_SUFFIX)) as ids,  # The two are renamed one after the other.
        whole_file(output) as temporary,
        open(temporary, "wb") as file,
        open(ids, "w", encoding="utf-8", newline="") as table,
    ):
        file.writelines(_array_pieces(vectors))
        writer = csv.writer(table)
        writer.writerow(("row", "annotation_id", "image_id", "file_name"))
        writer.writerows((place, *vectors.ids(row)) for place, row in enumerate(vectors.rows.tolist()))


def _array_pieces(vectors: Vectors) -> Iterator[bytes]:
    """Yield the bytes of a .npy file, some at a time."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(vectors.rows), vectors.features)}
    with io.BytesIO() as start:
        np.lib.format.write_array_header_1_0(start, header)
        yield start.getvalue()
    for _, chunk in vectors.chunks:
        yield chunk.astype("<f4").tobytes()


def _write_npz(vectors: Vectors, output: Path) -> None:
    index = vectors.coco.index
    images = index.image[vectors.rows]
    columns = {
        "annotation_ids": _plain(index.annotation_id, vectors.rows),
        "image_ids": _plain(index.image_id, images),
        "file_names": np.array([vectors.ids(row)[2] for row in vectors.rows.tolist()], dtype=str),
    }
    with whole_file(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("vectors.npy", "w", force_zip64=True) as file:
            file.writelines(_array_pieces(vectors))
        for name, column in columns.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, column, allow_pickle=False)


def _plain(column: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return ids as whole numbers where all are that, else as text."""
    if column.dtype.kind == "i":
        return column[rows]
    return np.array([str(value_of(column, row)) for row in rows.tolist()], dtype=str)


def _write_parquet(vectors: Vectors, output: Path) -> None:
    with needs_extra("parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    index = vectors.coco.index
    kinds = [
        pa.int64() if column.dtype.kind == "i" else pa.string() for column in (index.annotation_id, index.image_id)
    ]
    schema = pa.schema(
        {
            "annotation_id": kinds[0],
            "image_id": kinds[1],
            "file_name": pa.string(),
            "vector": pa.list_(pa.float32(), vectors.features),
        }
    )
    with whole_file(output) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for rows, chunk in vectors.chunks:
            columns = [
                pa.array(_plain(index.annotation_id, rows), type=kinds[0]),
                pa.array(_plain(index.image_id, index.image[rows]), type=kinds[1]),
                pa.array([vectors.ids(row)[2] for row in rows.tolist()], type=pa.string()),
                pa.FixedSizeListArray.from_arrays(pa.array(chunk.ravel()), vectors.features),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


WRITERS: dict[str, Callable[[Vectors, Path], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".parquet": _write_parquet,
}
"""By suffix."""
