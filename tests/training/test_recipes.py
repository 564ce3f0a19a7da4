"""Every recipe can be built, and the published ones have the facts of the papers and their repositories."""

from pathlib import Path

import pytest
import torch

from maskwise.data.label_maps import read_class_names
from maskwise.training.builder import build_network
from maskwise.training.network import HardAttention
from maskwise.training.settings import read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
ALL = ("conv1", "layer1", "layer2", "layer3", "layer4")
PUBLISHED = {
    "published-both-all": ("resnet50", ALL, "both", "identity"),
    "published-multiply-first": ("resnet50", ("conv1",), "multiply", "identity"),
    "published-add-first": ("resnet50", ("conv1",), "add", "add_ones"),
    "published-materials": ("resnet50", ("conv1",), "add", "identity"),
    "published-ges": ("resnet101", ("conv1",), "add", "default"),
    "compared-multiply-middle": ("resnet50", ("layer2",), "multiply", "identity"),
    "compared-multiply-all": ("resnet50", ALL, "multiply", "identity"),
    "compared-add-first": ("resnet50", ("conv1",), "add", "identity"),
    "compared-add-middle": ("resnet50", ("layer2",), "add", "identity"),
    "compared-add-all": ("resnet50", ALL, "add", "identity"),
    "compared-both-first": ("resnet50", ("conv1",), "both", "identity"),
    "compared-hard-input": ("resnet50", ("input",), "hard", "identity"),
    "compared-hard-conv1": ("resnet50", ("conv1",), "hard", "identity"),
    "compared-hard-layer4": ("resnet50", ("layer4",), "hard", "identity"),
}


def test_every_published_network_has_a_recipe_and_no_other_recipe_has_such_a_name():
    assert {path.stem for path in RECIPES.glob("*-*.toml") if path.stem.startswith(("published", "compared"))} == set(
        PUBLISHED
    )


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_network_of_a_recipe_can_be_built(path):
    settings = read_recipe(path)
    size = settings.view.size if settings.view.kind == "crop" else 64
    with torch.device("meta"):
        network = build_network(settings.network, classes=80, probe_size=size)
    assert tuple(site.name for site in network.sites) == settings.network.sites
    assert settings.run.name


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_are_as_published(name):
    settings = read_recipe(RECIPES / f"{name}.toml").network
    assert (settings.trunk, settings.sites, settings.merge, settings.initial) == PUBLISHED[name]
    assert (settings.pool, settings.dropout, settings.normalisation) == ("mean", 0.0, "published")
    assert settings.branch_stride == (2 if name == "published-ges" else 1)
    with torch.device("meta"):
        network = build_network(settings, classes=80, probe_size=64)
    for branch in network.branch:
        if settings.merge == "hard":
            assert isinstance(branch, HardAttention)
        else:
            assert (branch.multiply is not None) == (settings.merge in ("multiply", "both"))
            assert (branch.add is not None) == (settings.merge in ("add", "both"))
            assert branch.stride == settings.branch_stride


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_are_trained_as_published(name):
    settings = read_recipe(RECIPES / f"{name}.toml")
    schedule, window, augment = settings.schedule, settings.window, settings.augment
    ges, later = name == "published-ges", name in ("published-ges", "published-add-first")
    assert (settings.view.kind, settings.weights, window.enabled) == ("whole", "timm", True)
    assert settings.data.image_first
    assert settings.data.class_power == (0.5 if ges else 0.0)
    assert (window.min_side, window.max_side) == (160, 1000 if later else 800)
    assert (schedule.batch_size, window.max_pixels) == ((8, 800 * 800 * 8) if later else (20, 800 * 800 * 4))
    assert (schedule.optimiser, schedule.loss) == ("adamw" if later else "adam", "published")
    assert schedule.lr_trunk == schedule.lr_new == schedule.weight_decay == 1e-5
    assert (schedule.steps, schedule.warmup_steps, schedule.head_steps, schedule.decay) == (10**6, 0, 0, "constant")
    assert schedule.clip == schedule.average == 0
    assert augment.flip == (0.5 if name == "published-materials" else 0)
    assert augment.brightness == augment.contrast == augment.saturation == 0
    assert augment.mask_jitter == (0.5 if ges else 0)


def test_sources_of_every_recipe_are_in_the_data(data_root):
    for path in RECIPES.glob("*.toml"):
        for source in read_recipe(path).data.sources:
            for name in (source.images, source.annotations, source.label_maps, source.classes_file):
                assert (data_root / name).exists(), f"{path.name}: {name}"


def test_no_recipe_trains_on_evaluation_data():
    for path in RECIPES.glob("*.toml"):
        for source in read_recipe(path).data.sources:
            assert not {"val", "val2017"} & {
                part for name in (source.images, source.label_maps) for part in Path(name).parts
            }, path


@pytest.mark.parametrize(("name", "classes"), [("camvid", 11), ("clothing", 58)])
def test_label_map_recipes_read_their_classes(name, classes, data_root):
    (source,) = read_recipe(RECIPES / f"{name}.toml").data.sources
    names = set(read_class_names(data_root / source.classes_file)) - set(source.ignore)
    assert (len(names), "null" in names) == (classes, False)
