"""Measure the segmenter: objects found in photographs, boxes against the original in torch, time.

Objects found and times are those of COCO val2017; the defaults were chosen on train2017. Boxes are those of train2017,
whose objects the original of MobileSAM outlines with a mean IoU of about 0.7. "Every point" draws all masks of all
points of the grid: what skipping must not lose.

Run from the repository's root: python benchmarks/segmenter.py ../shared/data/coco -o benchmarks/results
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from machine import described, surroundings

from maskwise import Segment, Segmenter, load_image, regions_from_coco
from maskwise.data.atomic_files import make_folder, write_json, write_text
from maskwise.data.masks import Mask
from maskwise.model import segmenter as settings
from maskwise.model.segment_candidates import Candidates
from maskwise.model.segment_frame import STRIDE, Frame
from maskwise.model.segment_network import Prompted
from maskwise.progress import Progress
from maskwise.reports.formatting import percent, table

THRESHOLDS = (0.5, 0.7)
"""An object is found if a segment has this IoU with it."""
SMALL = 32**2
"""Objects of fewer pixels are small, as COCO has it."""
ROUNDS = 5


def photographs(coco: Path, part: str, count: int) -> Iterator[tuple[np.ndarray, list[Mask]]]:
    """Yield photographs, evenly chosen, and the masks of their objects.

    Args:
        coco: folder of COCO.
        part: `train2017` or `val2017`.
        count: number of photographs.
    """
    regions = regions_from_coco(coco / "annotations" / f"instances_{part}.json", coco / part).regions
    single = [region for region in regions if not region.crowd]
    paths = sorted({str(region.image_path) for region in single})
    chosen = set(paths[:: max(len(paths) // count, 1)][:count])
    masks: dict[str, list[Mask]] = {}
    for region in single:
        if str(region.image_path) in chosen:
            masks.setdefault(str(region.image_path), []).append(region.read_mask())
    with Progress(len(masks), part, "photographs") as progress:
        for path, objects in masks.items():
            yield load_image(path), objects
            progress.update()


def iou(one: Mask, other: Mask) -> float:
    """Return the intersection of two masks over their union."""
    x, y, width, height = one.box_xywh
    shared = int((other.crop(x, y, x + width, y + height) & one.bits).sum())
    return shared / (one.area + other.area - shared)


def found(segmenter: Segmenter, coco: Path, count: int) -> dict[str, Any]:
    """Return recall, segments and time of everything mode, as it is and with every point."""
    ways: dict[str, Callable[[np.ndarray], list[Segment]]] = {
        "default": segmenter.segment,
        "every point": lambda image: with_every_point(segmenter, image),
    }
    best: dict[str, list[float]] = {way: [] for way in ways}
    counts: dict[str, list[int]] = {way: [] for way in ways}
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    small: list[bool] = []
    for image, objects in photographs(coco, "val2017", count):
        small += [mask.area < SMALL for mask in objects]
        for way, run in ways.items():
            started, started_cpu = time.monotonic(), time.process_time()
            segments = run(image)
            seconds[way].append((time.monotonic() - started, time.process_time() - started_cpu))
            counts[way].append(len(segments))
            best[way] += [max((iou(mask, s.mask) for s in segments), default=0.0) for mask in objects]
    return {
        "photographs": len(counts["default"]),
        "objects": len(small),
        "small_objects": sum(small),
        **{
            way: {
                **{f"recall_at_{least}": rate(np.array(best[way]) >= least) for least in THRESHOLDS},
                **{f"recall_of_small_at_{least}": rate(np.array(best[way])[small] >= least) for least in THRESHOLDS},
                "mean_best_iou": rate(np.array(best[way])),
                "segments": round(float(np.mean(counts[way])), 1),
                "seconds": round(float(np.median([wall for wall, _ in seconds[way]])), 2),
                "cpu_seconds": round(float(np.median([cpu for _, cpu in seconds[way]])), 2),
            }
            for way in ways
        },
    }


def with_every_point(segmenter: Segmenter, image: np.ndarray) -> list[Segment]:
    """Outline everything without skipping points, and draw masks that look like better ones too."""

    def every(_: Candidates, prompted: Prompted, __: float) -> np.ndarray:
        return np.ones(prompted.scores.shape, dtype=bool)

    def everywhere(previews: np.ndarray, _: np.ndarray) -> tuple[slice, slice]:
        return slice(0, previews.shape[1]), slice(0, previews.shape[2])

    with (
        mock.patch.object(settings, "COVERED_TIMES", 10**9),
        mock.patch.object(settings, "shown", everywhere),
        mock.patch.object(Candidates, "may_be_new", every),
    ):
        return segmenter.segment(image)


def rate(values: np.ndarray) -> float:
    """Return the mean of some values, 0 to 1."""
    return round(float(values.mean()), 4)


def boxes(segmenter: Segmenter, coco: Path, count: int) -> dict[str, Any]:
    """Return how well boxes of train2017 are outlined by ours and by the original in torch."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
    import torch
    from fetch_segmenter import answers_of_original, fetch, load_original

    ours: list[float] = []
    originals: list[float] = []
    alike: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        sam = load_original(Path(folder), fetch(Path(folder)))
    for image, objects in photographs(coco, "train2017", count):
        frame, encoded = Frame((image.shape[0], image.shape[1])), segmenter.encode(image)
        with torch.no_grad():
            embedding = sam.image_encoder(torch.from_numpy(frame.pixels(image)))
        rows, columns = frame.cells_hw
        for mask in objects:
            x, y, width, height = mask.box_xywh
            segment = segmenter.prompt(encoded, box_xywh=mask.box_xywh)
            corners = frame.points(np.array([[x, y], [x + width, y + height]], dtype=float))[None]
            logits, _ = answers_of_original(sam, embedding, corners, np.array([[2, 3]]))
            original = frame.mask(logits[0, 0, : STRIDE * rows, : STRIDE * columns])
            ours.append(iou(segment.mask, mask))
            originals.append(iou(original, mask) if original else 0.0)
            alike.append(iou(segment.mask, original) if original else 0.0)
    return {
        "objects": len(ours),
        "mean_iou": rate(np.array(ours)),
        "mean_iou_of_torch": rate(np.array(originals)),
        "mean_iou_with_torch": rate(np.array(alike)),
        "smallest_tenth_of_iou_with_torch": round(float(np.quantile(alike, 0.1)), 4),
    }


def times(segmenter: Segmenter, coco: Path) -> dict[str, float]:
    """Return median seconds on a photograph of 640 x 480 of val2017: wall clock, and of all cores together."""
    wide = ((image, masks) for image, masks in photographs(coco, "val2017", 60) if image.shape[:2] == (480, 640))
    image, masks = next(wide)
    encoded = segmenter.encode(image)
    x, y, width, height = masks[0].box_xywh
    calls: dict[str, Callable[[], object]] = {
        "encode": lambda: segmenter.encode(image),
        "click": lambda: segmenter.prompt(encoded, points=[(x + width / 2, y + height / 2)]),
        "everything": lambda: segmenter.segment(image),
    }
    results = {}
    for name, call in calls.items():
        spans = []
        for _ in range(ROUNDS):
            started, started_cpu = time.monotonic(), time.process_time()
            call()
            spans.append((time.monotonic() - started, time.process_time() - started_cpu))
        results[name] = round(float(np.median([wall for wall, _ in spans])), 3)
        results[f"{name}_cpu"] = round(float(np.median([cpu for _, cpu in spans])), 3)
    return results


def page(record: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    found_rows = [
        [
            way,
            *(percent(record["found"][way][f"recall_at_{least}"]) for least in THRESHOLDS),
            *(percent(record["found"][way][f"recall_of_small_at_{least}"]) for least in THRESHOLDS),
            f"{record['found'][way]['segments']:g}",
            f"{record['found'][way]['seconds']:g}",
            f"{record['found'][way]['cpu_seconds']:g}",
        ]
        for way in ("default", "every point")
    ]
    columns = ["way", "IoU 0.5", "IoU 0.7", "small, 0.5", "small, 0.7", "segments", "seconds", "CPU seconds"]
    seconds, box = record["seconds"], record["boxes"]
    time_rows = [
        [name, f"{seconds[name]:g}", f"{seconds[f'{name}_cpu']:g}"] for name in ("encode", "click", "everything")
    ]
    return "\n".join(
        [
            "# The segmenter",
            "",
            described(record),
            "",
            f"Objects found, of {record['found']['objects']} in {record['found']['photographs']} photographs of COCO"
            " val2017 (those that people outlined; parts of the data set), 24 x 24 points:",
            "",
            table(columns, found_rows),
            "",
            f"Boxes of {box['objects']} objects of train2017: mean IoU with the drawn outline"
            f" {box['mean_iou']:.3f}, of the original in torch {box['mean_iou_of_torch']:.3f}; of ours with the"
            f" original's {box['mean_iou_with_torch']:.3f}.",
            "",
            "A photograph of 640 x 480, median of five:",
            "",
            table(["", "seconds", "CPU seconds"], time_rows),
            "",
            "Command: `python benchmarks/segmenter.py`. CPU seconds are those of all cores together; other work on the"
            " machine does not count, except through shared caches.",
            "",
        ]
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coco", type=Path, help="folder of COCO: annotations, train2017, val2017")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write segmenter.json and .md to")
    parser.add_argument("--photographs", type=int, default=40, help="number of photographs of each part")
    args = parser.parse_args()
    record: dict[str, Any] = surroundings("onnxruntime", "numpy")
    segmenter = Segmenter()
    record["seconds"] = times(segmenter, args.coco)
    record["boxes"] = boxes(segmenter, args.coco, args.photographs)
    record["found"] = found(segmenter, args.coco, args.photographs)
    folder = make_folder(args.output)
    write_json(folder / "segmenter.json", record)
    write_text(folder / "segmenter.md", page(record))
    print(page(record))


if __name__ == "__main__":
    main()
