"""The data set of two objects in every form that `label_shards` reads."""

import io
import json
import tarfile
from pathlib import Path

NAMES = {3: "person", 7: "cup"}
"""What the colour model says of a red square and of a blue disc."""


def by_image(coco: Path) -> dict[str, list[dict]]:
    """Return the annotations of each image, by file name, without ids of images."""
    content = json.loads((coco / "annotations.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    images: dict[str, list[dict]] = {name: [] for name in names.values()}
    for one in content["annotations"]:
        images[names[one["image_id"]]].append({key: one[key] for key in ("id", "category_id", "segmentation")})
    return images


def expected(coco: Path) -> dict[str, list[str]]:
    """Return the names of each image's annotations, by file name."""
    return {name: [NAMES[one["category_id"]] for one in records] for name, records in by_image(coco).items()}


def write_pairs(coco: Path, folder: Path) -> None:
    folder.mkdir()
    for name, records in by_image(coco).items():
        (folder / name).with_suffix(".json").write_text(json.dumps({"annotations": records}))


def write_lines(coco: Path, path: Path) -> None:
    lines = [json.dumps({"image": name, "annotations": records}) for name, records in by_image(coco).items()]
    path.write_text("\n".join(lines) + "\n")


def write_tar(coco: Path, path: Path, mode: str = "w", folder: str = "") -> None:
    with tarfile.open(path, mode) as tar:
        for name, records in by_image(coco).items():
            parts = {name: (coco / "images" / name).read_bytes(), f"{name[:-4]}.cls": b"7"}
            for part, content in {**parts, f"{name[:-4]}.json": json.dumps(records).encode()}.items():
                member = tarfile.TarInfo(folder + part)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def lines_of(folder: Path) -> list[dict]:
    """Return the lines of all JSON-line shards, in order."""
    parts = sorted(folder.glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def names_in(folder: Path) -> dict[str, list[str]]:
    """Return the names of each image's annotations, by file name; an image that stands twice fails."""
    lines = lines_of(folder)
    names = {line["image"]["file_name"]: line["names"] for line in lines}
    assert len(names) == len(lines)
    return names
