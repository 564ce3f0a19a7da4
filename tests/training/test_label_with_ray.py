"""Labelling through Ray Data."""

import json
import subprocess
import sys

from colour_model import colour_model


def test_ray_says_the_same(coco_folder, tmp_path):
    """Also of a faulty record. In a process of its own: Ray leaves threads and warnings behind."""
    content = json.loads((coco_folder / "annotations.json").read_text())
    content["annotations"][3]["segmentation"] = [[1, 2]]
    segments, model = coco_folder / "segments.json", colour_model(tmp_path)
    segments.write_text(json.dumps(content))
    script = """
import sys
from maskwise import Predictor, label_coco
segments, images, model, output, engine = sys.argv[1:]
label_coco(segments, images, output, Predictor(model, threads=1), top=2, engine=engine)
"""
    for engine in ("local", "ray"):
        args = [segments, segments.parent / "images", model, tmp_path / f"{engine}.json", engine]
        subprocess.run([sys.executable, "-c", script, *map(str, args)], check=True, capture_output=True)
    assert (tmp_path / "ray.json").read_text() == (tmp_path / "local.json").read_text()
    problems = [(tmp_path / f"{engine}.json.problems.json").read_text() for engine in ("local", "ray")]
    assert problems[0] == problems[1]
