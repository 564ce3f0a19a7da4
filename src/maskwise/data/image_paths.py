"""Find the image files that a COCO file names, and the images of a COCO file that a path names."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from maskwise.data.coco_file import CocoFile
from maskwise.data.coco_index import value_of
from maskwise.data.images import IMAGE_SUFFIXES
from maskwise.data.plain_files import shortened
from maskwise.errors import AnnotationError


def find_each_image(
    coco: CocoFile, images_dir: str | os.PathLike[str], images: Sequence[int], *, allow_outside: bool = False
) -> list[str | AnnotationError]:
    """Return for each image its file, or why there is none.

    A file name is looked for below the folder as it is, then without its leading folders, then in any sub-folder; each
    also percent-decoded, with slashes for backslashes, and in other Unicode forms. Several candidates are an error. Two
    images of different file names never share a file.

    Args:
        coco: the COCO file.
        images_dir: folder that its file names are relative to.
        images: rows of images.
        allow_outside: whether file names may leave the folder.

    Raises:
        AnnotationError: there is no such folder.
    """
    if not Path(images_dir).is_dir():
        raise AnnotationError(f"{images_dir}: there is no such folder of images")
    folder = _Folder(os.fspath(images_dir), allow_outside)
    results: list[str | AnnotationError] = []
    for image in images:
        try:
            results.append(folder.find(coco.file_name(image)))
        except AnnotationError as error:
            where = f"{coco.path}: image id {value_of(coco.index.image_id, image)}"
            results.append(AnnotationError(f"{where} is {shortened(coco.file_name(image))}, {error}"))
    names_of = defaultdict(set)
    for image, result in zip(images, results, strict=True):
        if isinstance(result, str):
            names_of[result].add(coco.file_name(image))
    for place, (image, result) in enumerate(zip(images, results, strict=True)):
        if isinstance(result, str) and len(names_of[result]) > 1:
            names = ", ".join(sorted(names_of[result])[:3])
            where = f"{coco.path}: image id {value_of(coco.index.image_id, image)}"
            results[place] = AnnotationError(f"{where}: {names} would all be {result}; give the folder that holds each")
    return results


def expected_files(
    coco: CocoFile,
    images_dir: str | os.PathLike[str],
    images: Sequence[int],
    results: Sequence[str | AnnotationError],
) -> list[str | AnnotationError]:
    """Return for each image its file; where there is none, the path where it should be.

    Args:
        coco: the COCO file.
        images_dir: folder that its file names are relative to.
        images: rows of images.
        results: of `find_each_image`.
    """
    return [
        result if isinstance(result, str) else os.path.join(images_dir, coco.file_name(image))
        for image, result in zip(images, results, strict=True)
    ]


class _Folder:
    """A folder of images. Each sub-folder is listed once, not once per image."""

    def __init__(self, path: str, allow_outside: bool) -> None:
        self._path, self._allow_outside = path, allow_outside
        self._listed: dict[str, set[str]] = {}

    def find(self, file_name: str) -> str:
        """Return the file of a name.

        Raises:
            AnnotationError: none or several; the message continues "image id 1 is a.jpg, ".
        """
        for form in _forms(file_name):
            parts = os.path.normpath(form.lstrip("/")).split("/")
            if parts[0] == "..":
                if not self._allow_outside:
                    raise AnnotationError(
                        f"which leaves the folder {self._path}; allow it with --allow-outside if you trust the file"
                    )
                path = os.path.normpath(os.path.join(self._path, form))
                if _exists(path):
                    return path
                continue
            if self._allow_outside and form.startswith("/") and os.path.isfile(form):
                return form
            for start in range(len(parts)):
                if self._is_file("/".join(parts[start:-1]), parts[-1]):
                    return os.path.join(self._path, *parts[start:])
        return self._anywhere(file_name)

    def _is_file(self, parent: str, name: str) -> bool:
        if parent not in self._listed:
            self._listed[parent] = _files_in(os.path.join(self._path, parent))
        path = os.path.join(self._path, parent, name)
        return name in self._listed[parent] or (
            bool(self._listed[parent]) and _exists(path)
        )  # Letter case may not matter.

    def _anywhere(self, file_name: str) -> str:
        last = {form.rsplit("/", 1)[-1] for form in _forms(file_name)}
        candidates = sorted({path for name in last for path in self._by_name.get(name, ())})
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise AnnotationError(f"which could be {candidates[0]} or {candidates[1]}; give the folder that holds it")
        raise AnnotationError(f"which is not in the folder {self._path}")

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """All files below the folder by name. Links to folders are not followed: they may go in circles."""
        files = defaultdict(list)
        for parent, _, names in os.walk(self._path):
            for name in names:
                files[unicodedata.normalize("NFC", name)].append(os.path.join(parent, name))
        return files


def _exists(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # A zero byte in the name.
        return False


def _forms(file_name: str) -> Iterator[str]:
    """Yield the ways in which a tool may have meant a file name, the literal one first."""
    seen = set()
    for text in (file_name, file_name.replace("\\", "/"), unquote(file_name), unquote(file_name.replace("\\", "/"))):
        for form in ("", "NFC", "NFD"):
            variant = unicodedata.normalize(form, text) if form else text  # type: ignore[arg-type]
            if variant and variant not in seen:
                seen.add(variant)
                yield variant


def _files_in(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # No such folder, a name that is too long, a zero byte.
        return set()


def plain_names(folder: str | os.PathLike[str], suffixes: tuple[str, ...]) -> list[Path]:
    """Return files with these suffixes, in capitals or not, by name, without hidden ones (macOS leaves ._NAME.png).

    Raises:
        AnnotationError: there is no such folder.
    """
    if not Path(folder).is_dir():
        raise AnnotationError(f"{folder}: there is no such folder")
    files = (path for path in Path(folder).iterdir() if path.suffix.lower() in suffixes)
    return sorted(path for path in files if not path.name.startswith("."))


def images_by_stem(folder: str | os.PathLike[str]) -> dict[str, list[Path]]:
    """Return the images of a folder by their names without suffix.

    Raises:
        AnnotationError: there is no such folder.
    """
    images = defaultdict(list)
    for path in plain_names(folder, IMAGE_SUFFIXES):
        images[path.stem].append(path)
    return dict(images)


def image_of_name(path: Path, images: Mapping[str, list[Path]], folder: Path) -> Path:
    """Return the image that a file is about: of its name, or of the longest part of it that ends before _, - or a dot.

    Args:
        path: a label map, or a list of segments.
        images: the images of the folder, by stem.
        folder: name of the folder in errors.

    Raises:
        AnnotationError: there is no such image, or several.
    """
    parts = re.split(r"(?=[_.\-])", path.stem)
    others: list[Path] = []
    for count in range(len(parts), 0, -1):
        stem = "".join(parts[:count])
        named = [*images.get(stem, ()), *images.get(f"{stem}_leftImg8bit", ())]
        others = [other for other in named if other != path]  # Both kinds may lie in one folder.
        if others:
            break
    if not others:
        raise AnnotationError(f"{path}: the folder {folder} has no image {path.stem} ({', '.join(IMAGE_SUFFIXES)})")
    if len(others) > 1:
        names = " and ".join(other.name for other in others)
        raise AnnotationError(f"{path}: could be of {names} in {folder}; leave one of them")
    return others[0]


def rows_of_image(coco: CocoFile, path: Path) -> list[int]:
    """Return the rows of the images that a path may be; all rows of one file name.

    File names are compared from their ends: the name alone, and folders where several images have the name. A file of a
    single image has that one, whatever it is called.

    Raises:
        AnnotationError: several images with different file names fit equally well.
    """
    count = len(coco.index.file_name)
    own = [unicodedata.normalize("NFC", part) for part in path.absolute().parts]
    lengths = [max(_common_end(own, form) for form in _forms(coco.file_name(image))) for image in range(count)]
    longest = max(lengths, default=0)
    if not longest:
        return [0] if count == 1 else []
    rows = [image for image in range(count) if lengths[image] == longest]
    names = sorted({coco.file_name(row) for row in rows})
    if len(names) > 1:
        raise AnnotationError(
            f"{coco.path}: several images are called {path.name} ({', '.join(names[:3])}); give the photograph by a"
            " path whose folders tell which"
        )
    return rows


def _common_end(own: Sequence[str], file_name: str) -> int:
    """Return how many parts of two paths agree, counted from their ends."""
    parts = [unicodedata.normalize("NFC", part) for part in file_name.split("/") if part not in ("", ".")]
    count = 0
    for one, other in zip(reversed(own), reversed(parts), strict=False):
        if one != other:
            break
        count += 1
    return count
