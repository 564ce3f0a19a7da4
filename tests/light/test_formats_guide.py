"""Every command of the guide to formats runs, with a model of three colours in place of the built-in one."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colour_model import colour_model
from maskwise.cli import main
from maskwise.data.writers.formats import FORMATS

TEXT = (Path(__file__).parents[2] / "docs/guides/formats.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^maskwise (.+)$", TEXT, re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    model = colour_model(tmp_path)
    for module in ("model.model_folder", "tasks.listing"):
        monkeypatch.setattr(f"maskwise.{module}.built_in_model", lambda: model)
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.full((60, 90, 3), (200, 30, 20), dtype=np.uint8)).save(tmp_path / "photos" / "a.jpg")
    images = [{"id": 1, "file_name": "a.jpg", "width": 90, "height": 60}]
    annotations = [{"id": 5, "image_id": 1, "segmentation": [[10, 10, 70, 12, 40, 50]]}]
    content = {"images": images, "annotations": annotations, "categories": []}
    (tmp_path / "segments.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_guide_has_a_command_for_every_format():
    written = " ".join(COMMANDS)
    for form in FORMATS.values():
        assert f"--format {form.name}" in written or f"{form.suffix} " in written, form.name


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_guide_run(folder, command, capsys):
    words = shlex.split(command)
    assert main.run(words) == 0, capsys.readouterr().err
    if "-o" in words:
        assert (folder / words[words.index("-o") + 1]).exists()
