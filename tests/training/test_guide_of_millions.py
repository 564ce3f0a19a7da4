"""The commands of the guide about millions of images, as they stand there."""

import re
import shlex
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from maskwise.cli import main
from packed import by_image, write_lines, write_tar
from two_objects import write_two_objects

GUIDE = Path(__file__).parents[2] / "docs/guides/millions.md"


def test_commands_of_the_guide_run(tmp_path, monkeypatch):
    """Those on the disk; Ray and stores have tests of their own (test_label_with_ray.py)."""
    monkeypatch.chdir(tmp_path)
    coco = write_two_objects(tmp_path / "coco", images=2)
    (coco / "images").rename("photos")
    (coco / "annotations.json").rename("segments.json")
    (coco / "images").symlink_to(tmp_path / "photos")
    (coco / "annotations.json").symlink_to(tmp_path / "segments.json")
    write_lines(coco, tmp_path / "list.jsonl")
    (tmp_path / "sa1b").mkdir()
    write_tar(coco, tmp_path / "sa1b/a.tar")
    rows = [
        {"image": Path("photos", name).read_bytes(), "annotations": records} for name, records in by_image(coco).items()
    ]
    parquet.write_table(pa.Table.from_pylist(rows), "images.parquet")
    blocks = re.findall(r"```\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("maskwise")]
    runs = [line for line in commands if "://" not in line and "--engine ray" not in line]
    assert len(runs) == 5
    for number, line in enumerate(runs):
        args = [f"out{number}" if one == "named" and "join" not in line else one for one in shlex.split(line)[1:]]
        if "join" in line:
            args[1] = "out0"
        assert main.run(args) == 0, line
    for line in commands:  # The others differ in these only.
        assert line in runs or "s3://" in line or line.removesuffix(" --engine ray") in runs
