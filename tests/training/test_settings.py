import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from maskwise.cli import main
from maskwise.errors import SettingsError
from maskwise.training.settings import (
    DataSettings,
    SourceSettings,
    TeacherSettings,
    TrainSettings,
    WindowSettings,
    data_folder,
    expand_variables,
    read_recipe,
    settings_from_dict,
    settings_to_dict,
)
from maskwise.views.view import ViewSettings

FULL = """
weights = "random"
[network]
trunk = "vit_tiny_patch16_224"
trunk_options = {img_size = 64, depths = [1, 2]}
sites = ["conv1", "layer1"]
merge = "both"
[view]
context = 3
[data]
[[data.sources]]
images = "a"
annotations = "a.json"
rename = {sofa = "couch"}
[augment]
scale = [0.5, 2]
[schedule]
steps = 7
lr_trunk = 1e-5
"""


def recipe(folder, text):
    (folder / "r.toml").write_text(text)
    return read_recipe(folder / "r.toml")


def test_empty_recipe_is_the_defaults(tmp_path):
    assert recipe(tmp_path, "") == TrainSettings()


def test_recipe_reaches_every_section(tmp_path):
    settings = recipe(tmp_path, FULL)
    assert settings.weights == "random"
    assert settings.network.sites == ("conv1", "layer1")
    assert settings.network.trunk_options == {"img_size": 64, "depths": [1, 2]}
    assert settings.view == ViewSettings(context=3.0)
    assert settings.data.sources[0].rename == {"sofa": "couch"}
    assert settings.augment.scale == (0.5, 2.0)
    assert (settings.schedule.steps, settings.schedule.lr_trunk) == (7, 1e-5)


def test_settings_survive_json(tmp_path):
    settings = recipe(tmp_path, FULL)
    assert settings_from_dict(json.loads(json.dumps(settings_to_dict(settings))), "record") == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[network]\nbreadth = 3", r"extra fields found \(breadth\) @ \$\.network"),
        ("[nets]\na = 3", r"extra fields found \(nets\)"),
        ("[network]\nmerge = 'blend'", r"'blend'; accepted are 'multiply', 'add', 'both', 'hard' @ \$\.network\.merge"),
        ("[network]\nsites = 'conv1'", r"'conv1' is not a list @ \$\.network\.sites"),
        ("[network]\nsites = [3]", r"3 is not of type str @ \$\.network\.sites"),
        ("[network]\nstride_in_1x1 = 'false'", r"'false' is not of type bool @ \$\.network\.stride_in_1x1"),
        ("[network]\nbranch_stride = 3", r"accepted are 1, 2 @ \$\.network\.branch_stride"),
        ("[schedule]\nsteps = 1.5", r"1\.5 is not of type int @ \$\.schedule\.steps"),
        ("[schedule]\nsteps = '9'", r"'9' is not of type int"),
        ("[augment]\nscale = [1, 2, 3]", r"is not a list of 2 @ \$\.augment\.scale"),
        ("[[data.sources]]\nannotations = 'a'", r"required field missing @ \$\.data\.sources\.images"),
        ("[view]\nsize = 0", r"r\.toml: view size 0, .*each must be at least 1"),
        ("[network]\ndropout = 1", r"r\.toml: network\.dropout is 1\.0; it must be a fraction from 0 to below 1"),
        ("[augment]\nblank = 1", r"r\.toml: augment\.blank is 1\.0; it must be a fraction from 0 to below 1"),
        ("[augment]\nflip = 1.1", r"augment\.flip is 1\.1"),
        ("[view]\nkind = 'whole'", r"enable window, or set schedule\.batch_size to 1"),
        ("[network]\nmerge = 'hard'\nbranch_stride = 2", "merge 'hard' has no convolution"),
        ("[network", "the recipe cannot be read"),
    ],
)
def test_refuses_unknown_and_invalid_settings(tmp_path, text, message):
    with pytest.raises(SettingsError, match=message) as caught:
        recipe(tmp_path, text)
    assert "unknown error" not in str(caught.value)


def test_refuses_a_missing_recipe(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.toml: the recipe cannot be read"):
        read_recipe(tmp_path / "none.toml")


def test_whole_images_need_batches_of_one_or_windows(tmp_path):
    whole = "[view]\nkind = 'whole'\n"
    assert recipe(tmp_path, whole + "[schedule]\nbatch_size = 1").view.kind == "whole"
    assert recipe(tmp_path, whole + "[window]\nenabled = true").window == WindowSettings(enabled=True)


def test_environment_variables_are_expanded(monkeypatch):
    monkeypatch.setenv("MASKWISE_TEST", "/somewhere")
    assert expand_variables("${MASKWISE_TEST}/coco") == "/somewhere/coco"
    assert expand_variables("${MASKWISE_TEST:-else}/coco") == "/somewhere/coco"
    monkeypatch.setenv("MASKWISE_TEST", "")
    assert expand_variables("${MASKWISE_TEST:-else}/coco") == "else/coco"
    with pytest.raises(SettingsError, match="the environment variable MASKWISE_TEST is not set"):
        expand_variables("${MASKWISE_TEST}/coco")


def test_relative_paths_need_a_data_folder_and_absolute_ones_do_not(monkeypatch, tmp_path):
    relative = SourceSettings(images="photos", annotations=str(tmp_path / "a.json"))
    absolute = SourceSettings(images=str(tmp_path), annotations=str(tmp_path / "a.json"))
    monkeypatch.delenv("MASKWISE_DATA", raising=False)
    assert data_folder(DataSettings().data_root, (absolute,)) == Path()
    with pytest.raises(SettingsError) as caught:
        data_folder(DataSettings().data_root, (absolute, relative))
    assert str(caught.value) == (
        "data.data_root is '${MASKWISE_DATA}', but the environment variable MASKWISE_DATA is not set;"
        " set MASKWISE_DATA, or give --data.data-root PATH"
    )
    assert data_folder("/elsewhere", (relative,)) == Path("/elsewhere")
    monkeypatch.setenv("MASKWISE_DATA", "/mine")
    assert data_folder(DataSettings().data_root, (relative,)) == Path("/mine")


def test_command_without_a_data_folder_says_in_one_line_what_to_set(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("MASKWISE_DATA", raising=False)
    (tmp_path / "r.toml").write_text('[[data.sources]]\nimages = "a"\nannotations = "a.json"\n')
    assert main.run(["train", str(tmp_path / "r.toml"), "-o", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "set MASKWISE_DATA, or give --data.data-root PATH" in line
    assert not (tmp_path / "run").exists()


def test_recipes_and_defaults_name_no_folder_of_their_authors():
    recipes = Path(__file__).parents[2] / "recipes"
    texts = [path.read_text() for path in recipes.rglob("*.toml")] + [repr(TrainSettings())]
    assert len(texts) > 20
    assert not [text for text in texts if "shared" in text or ":-" in text]


def test_fallbacks_of_variables_do_not_make_runs_different():
    def run(fallback):
        return TrainSettings(
            weights=f"${{W{fallback}}}/w.safetensors",
            data=DataSettings(data_root=f"${{D{fallback}}}"),
            teacher=TeacherSettings(model=f"${{T{fallback}}}/t.onnx"),
        )

    assert run(":-../here") != run("")
    assert run(":-../here").without_fallbacks() == run("").without_fallbacks() == run("")
    assert replace(run(""), weights="${X}/w.safetensors").without_fallbacks() != run("")


def test_settings_need_no_torch():
    code = "import sys, maskwise.training.settings; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
