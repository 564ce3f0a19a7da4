import json
import subprocess
import sys

import pytest

from maskwise.errors import SettingsError
from maskwise.training.settings import (
    TrainSettings,
    WindowSettings,
    expand,
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
        ("[network]\ndropout = 1", r"r\.toml: network\.dropout is 1\.0; accepted is a fraction from 0 to below 1"),
        ("[augment]\nblank = 1", r"r\.toml: augment\.blank is 1\.0; accepted is a fraction from 0 to below 1"),
        ("[augment]\nflip = 1.1", r"augment\.flip is 1\.1"),
        ("[view]\nkind = 'whole'", r"enable window, or set schedule\.batch_size to 1"),
        ("[network]\nmerge = 'hard'\nbranch_stride = 2", "merge 'hard' has no convolution"),
        ("[network", "the recipe cannot be read"),
    ],
)
def test_refuses_what_is_no_setting(tmp_path, text, message):
    with pytest.raises(SettingsError, match=message) as caught:
        recipe(tmp_path, text)
    assert "unknown error" not in str(caught.value)


def test_refuses_a_missing_recipe(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.toml: the recipe cannot be read"):
        read_recipe(tmp_path / "none.toml")


def test_whole_images_go_one_by_one_or_in_windows(tmp_path):
    whole = "[view]\nkind = 'whole'\n"
    assert recipe(tmp_path, whole + "[schedule]\nbatch_size = 1").view.kind == "whole"
    assert recipe(tmp_path, whole + "[window]\nenabled = true").window == WindowSettings(enabled=True)


def test_environment_fills_in(monkeypatch):
    monkeypatch.setenv("MASKWISE_TEST", "/somewhere")
    assert expand("${MASKWISE_TEST}/coco") == expand("${MASKWISE_TEST:-else}/coco") == "/somewhere/coco"
    monkeypatch.setenv("MASKWISE_TEST", "")
    assert expand("${MASKWISE_TEST:-else}/coco") == "else/coco"
    with pytest.raises(SettingsError, match="the environment variable MASKWISE_TEST is not set"):
        expand("${MASKWISE_TEST}/coco")


def test_settings_need_no_torch():
    code = "import sys, maskwise.training.settings; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
