"""Find segments of nothing: outlines in annotated photographs that touch no annotated object.

The built-in model learns from them to say "none of these". Give photographs in which every object of the classes is
annotated: in others, a segment of nothing may be an object. An interrupted run resumes when you repeat the command.

Run from the repository's root (2 s per photograph on two cores):
python recipes/background_segments.py IMAGES ANNOTATIONS.json -o runs/nothing/train2017.json --every 3
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from maskwise.data.atomic_files import make_folder, read_json, write_json
from maskwise.data.coco_file import CocoFile, read_coco
from maskwise.data.image_paths import find_each_image
from maskwise.data.images import load_image
from maskwise.errors import InputError, MaskwiseError
from maskwise.model.segmenter import Segmenter
from maskwise.progress import Progress
from maskwise.tasks.nothing import segments_of_nothing


def records_of(segmenter: Segmenter, coco: CocoFile, row: int, path: str) -> list[dict[str, Any]]:
    """Return the segments of nothing of one image as annotations without ids."""
    image = load_image(path)
    rows = np.flatnonzero(coco.index.image == row).tolist()
    objects = [coco.mask(one, (image.shape[0], image.shape[1])) for one in rows]
    records = []
    for mask in segments_of_nothing(segmenter, image, objects):
        records.append({"segmentation": mask.to_rle(), "area": mask.area})
    return records


def complete_images(annotations: Path, every: int) -> set[Any]:
    """Return the ids of every n-th image in which all objects are annotated (`complete` where the file says so)."""
    images = [image for image in read_json(annotations)["images"] if image.get("complete", True)]
    return {image["id"] for image in images[::every]}


def main() -> None:
    """Segment the images, keep what touches nothing, write a COCO file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="take every n-th image")
    args = parser.parse_args()
    make_folder(args.output.parent)
    coco, partial = read_coco(args.annotations, labelled=True), args.output.with_name(args.output.name + ".partial")
    done = dict(map(json.loads, partial.read_text().splitlines())) if partial.exists() else {}
    chosen, ids = complete_images(args.annotations, args.every), coco.index.image_id.tolist()
    rows = [row for row, image_id in enumerate(ids) if image_id in chosen]
    paths, segmenter = find_each_image(coco, args.images, rows), Segmenter()
    with open(partial, "a") as journal, Progress(len(rows), "segment", "images") as progress:
        for row, path in zip(rows, paths, strict=True):
            if coco.file_name(row) not in done:
                if isinstance(path, MaskwiseError):
                    raise path
                done[coco.file_name(row)] = records_of(segmenter, coco, row, path)
                journal.write(json.dumps([coco.file_name(row), done[coco.file_name(row)]]) + "\n")
                journal.flush()
            progress.update()
    images, annotations = [], []
    for row in rows:
        images.append({"id": ids[row], "file_name": coco.file_name(row)})
        for record in done[coco.file_name(row)]:
            annotations.append({"id": len(annotations) + 1, "image_id": ids[row], "category_id": 1, **record})
    if not annotations:
        raise InputError(f"{args.annotations}: no segment touches nothing")
    categories = [{"id": 1, "name": "nothing"}]
    write_json(args.output, {"images": images, "annotations": annotations, "categories": categories}, indent=None)
    partial.unlink()
    print(f"{args.output}: {len(annotations)} segments of nothing in {len(images)} images")


if __name__ == "__main__":
    main()
