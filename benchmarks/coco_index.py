"""Measure opening a COCO file of train2017's size and reading one mask: Maskwise beside pycocotools.

A real file is tiled to as many images and annotations. Every contender opens it in a fresh process of its own, in turn;
figures are medians of the rounds. Run from the repository's root:
python benchmarks/coco_index.py $MASKWISE_DATA/coco/annotations/instances_train2017.json -o benchmarks/results
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import in_own_process, peak_megabytes, surroundings

IMAGES = 118_000
ANNOTATIONS = 860_000
ROUNDS = 3
MASKS = 300
CONTENDERS = {
    "pycocotools": "pycocotools.COCO(file)",
    "maskwise": "read_coco(file)",
    "maskwise, kept index": "read_coco(file, cache=folder), the index kept there",
}


def tile(source: Path, target: Path, images: int, annotations: int) -> None:
    """Write a COCO file of many images: repeat a small one under new ids and file names.

    Args:
        source: a COCO file.
        target: the file to write.
        images: how many; the source's in turn.
        annotations: how many, left out evenly among those that the images bring.
    """
    content = json.loads(source.read_bytes())
    of_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    tiled = [content["images"][number % len(content["images"])] for number in range(images)]
    offered = sum(len(of_image[image["id"]]) for image in tiled)
    if offered < annotations:
        raise SystemExit(f"{images} images of {source} bring {offered} annotations, not {annotations}")

    def kept() -> Iterator[dict[str, Any]]:
        number = count = 0
        for row, image in enumerate(tiled):
            for annotation in of_image[image["id"]]:
                number += 1
                if number * annotations // offered > count:
                    count += 1
                    yield {**annotation, "id": count, "image_id": row + 1}

    renamed = ({**image, "id": row + 1, "file_name": f"{row + 1:012}.jpg"} for row, image in enumerate(tiled))
    with open(target, "w", encoding="utf-8") as file:
        file.write(f'{{"categories": {_compact(content["categories"])}')
        for section, records in (("images", renamed), ("annotations", kept())):
            file.write(f', "{section}": [')
            for row, record in enumerate(records):
                file.write(("," if row else "") + _compact(record))
            file.write("]")
        file.write("}")


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def open_with_pycocotools(path: Path) -> tuple[int, Callable[[int], Any]]:
    """Return the number of annotations, and a function that reads the mask of one."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(path)
    return len(coco.dataset["annotations"]), lambda row: coco.annToMask(coco.dataset["annotations"][row])


def open_with_maskwise(path: Path, cache: str | None) -> tuple[int, Callable[[int], Any]]:
    """Return the number of annotations, and a function that reads the mask of one."""
    from maskwise.data.coco_file import read_coco

    coco = read_coco(path, labelled=True, cache=cache)
    return len(coco.index.start), lambda row: coco.read_mask(row, path)


def measure(contender: str, path: Path, cache: str) -> dict[str, float]:
    """Return seconds and peak memory of opening the file, and microseconds per mask, in this process."""
    wall, processor = time.perf_counter(), time.process_time()
    if contender == "pycocotools":
        count, mask_of = open_with_pycocotools(path)
    else:
        count, mask_of = open_with_maskwise(path, cache if "kept" in contender else None)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    peak = peak_megabytes()
    rows = np.random.default_rng(0).integers(0, count, MASKS).tolist()
    started = time.process_time()
    for row in rows:
        mask_of(row)
    mask = (time.process_time() - started) / MASKS
    return {
        "annotations": count,
        "seconds": wall,
        "processor_seconds": processor,
        "peak_megabytes": peak,
        "mask_processor_microseconds": mask * 1e6,
    }


def measured(contender: str, path: Path, cache: str) -> dict[str, float]:
    """Measure in a fresh process."""
    return in_own_process(__file__, path, "--contender", contender, "--cache", cache)


def compare(source: Path, images: int, annotations: int, rounds: int) -> dict[str, Any]:
    """Return the medians of several rounds over all contenders."""
    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder) / "tiled.json", str(Path(folder) / "cache")
        tile(source, path, images, annotations)
        size = path.stat().st_size
        measured("maskwise, kept index", path, cache)  # Keeps it.
        kept = sum(file.stat().st_size for file in Path(cache).iterdir())
        results = [{name: measured(name, path, cache) for name in CONTENDERS} for _ in range(rounds)]
    medians = {
        name: {key: float(f"{statistics.median(r[name][key] for r in results):.4g}") for key in results[0][name]}
        for name in CONTENDERS
    }
    return {
        **surroundings("pycocotools", "msgspec"),
        "images": images,
        "annotations": annotations,
        "file_megabytes": round(size / 1e6, 1),
        "kept_index_megabytes": round(kept / 1e6, 1),
        "rounds": rounds,
        "contenders": medians,
    }


def page(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    from maskwise.reports.formatting import table

    base = results["contenders"]["pycocotools"]
    rows = []
    for name, call in CONTENDERS.items():
        figures = results["contenders"][name]
        shares = [figures[key] / base[key] for key in ("processor_seconds", "peak_megabytes")]
        rows.append(
            (
                f"`{call}`",
                f"{figures['processor_seconds']:.2f} s",
                f"{figures['seconds']:.2f} s",
                f"{figures['peak_megabytes']:.0f} MB",
                f"{shares[0]:.0%} / {shares[1]:.0%}",
                f"{figures['mask_processor_microseconds']:.0f} µs",
            )
        )
    header = ("to open", "processor", "wall", "peak memory", "of pycocotools' time / memory", "then a mask")
    return "\n".join(
        [
            f"# Opening a COCO file of {results['annotations']:,} annotations in {results['images']:,} images",
            "",
            f"{results['file_megabytes']:.0f} MB of JSON; each in a process of its own, in turn, median of"
            f" {results['rounds']} ({results['machine']}, {results['load']:g} processes at work on average). Peak"
            " memory is resident, imports and the mapped file included; a mask is processor time of random ones. The"
            f" index that is kept is {results['kept_index_megabytes']:.0f} MB; opening it includes hashing the file.",
            "",
            table(header, rows),
            "",
        ]
    )


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="COCO file to tile")
    parser.add_argument("-o", "--output", type=Path, help="folder to write; made if missing")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--annotations", type=int, default=ANNOTATIONS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--contender", choices=CONTENDERS, help="measure this one alone, on the file as it is")
    parser.add_argument("--cache", default="")
    args = parser.parse_args()
    if args.contender:
        print(json.dumps(measure(args.contender, args.source, args.cache)))
        return
    from maskwise.data.atomic_files import make_folder, write_json, write_text

    folder = make_folder(args.output)
    results = compare(args.source, args.images, args.annotations, args.rounds)
    write_json(folder / "coco-index.json", results)
    write_text(folder / "coco-index.md", page(results))
    print((folder / "coco-index.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
