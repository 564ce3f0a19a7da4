"""Commands that need the training extra."""

import re
import tomllib
from pathlib import Path

from tiny_model import tiny_checkpoint

from maskwise.cli import main
from maskwise.training.settings import settings_from_dict


def test_export_writes_a_model_file(tmp_path, capsys):
    checkpoint = tiny_checkpoint(tmp_path / "c.safetensors")
    assert main.run(["export", str(checkpoint), "-o", str(tmp_path / "m.onnx"), "--storage", "fp16"]) == 0
    assert "fp16" in capsys.readouterr().out


def test_a_recipe_with_an_unknown_setting_is_refused(tmp_path, capsys):
    (tmp_path / "r.toml").write_text("[schedule]\nstepz = 3\n")
    assert main.run(["train", str(tmp_path / "r.toml"), "-o", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "r.toml" in error
    assert "stepz" in error


def test_the_recipe_of_the_readme_is_one():
    recipe = re.search(r"```toml\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL)[1]
    settings = settings_from_dict(tomllib.loads(recipe), "README.md")
    assert settings.data.sources[0].annotations == "truth.json"
