import json
import re
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from maskwise.cli import main
from maskwise.errors import SettingsError
from maskwise.training import comparison as module
from maskwise.training.comparison import (
    VariantResults,
    compare_variants,
    comparison_page,
    count_gmac,
    read_comparison,
    write_comparison,
)
from two_objects import write_two_objects

COMPARISONS = sorted((Path(__file__).parents[2] / "recipes/comparisons").glob("*.toml"))
TEXT = """
seeds = [0, 1]
[evaluate]
images = "images"
annotations = "annotations.json"
[base]
weights = "random"
network = {{ trunk = "test_resnet", dropout = 0.1 }}
view = {{ size = 32, context = 10.0 }}
schedule = {{ steps = {steps}, batch_size = 4, precision = "float32" }}
run = {{ device = "cpu" }}
[base.data]
data_root = "{root}"
workers = 0
sources = [{{ images = "images", annotations = "annotations.json" }}]
[[variants]]
name = "No mask"
change = {{ network = {{ sites = [] }} }}
[[variants]]
name = "Both, first layer!"
change = {{ network = {{ sites = ["conv1"], merge = "both" }} }}
"""


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return write_two_objects(tmp_path_factory.mktemp("data") / "two", images=8, side=32)


@pytest.fixture
def comparison(objects, tmp_path):
    def write(text=TEXT, *, steps=2):
        (tmp_path / "c.toml").write_text(text.format(root=objects, steps=steps))
        return tmp_path / "c.toml"

    return write


def test_every_variant_is_trained_with_every_seed_and_evaluated_on_the_same_regions(comparison, tmp_path):
    rows = compare_variants(comparison(), tmp_path / "out")
    assert [(row.name, len(row.results)) for row in rows] == [("No mask", 2), ("Both, first layer!", 2)]
    assert {result["regions"] for row in rows for result in row.results} == {16}
    assert rows[0].results[0]["gmac"] < rows[1].results[0]["gmac"]
    content = json.loads((tmp_path / "out/comparison.json").read_text())
    assert [v["settings"]["network"]["merge"] for v in content["variants"]] == ["add", "both"]
    assert content["variants"][1]["settings"]["network"]["dropout"] == 0.1
    assert (tmp_path / "out" / module.PICTURE).stat().st_size > 1000
    kept = {p.name for p in (tmp_path / "out/runs/both-first-layer-seed-1").iterdir()}
    assert kept == {"result.json", "run.json", "tensorboard"}


def test_stopped_comparison_resumes(comparison, tmp_path, monkeypatch):
    trained, really = [], module.train

    def watched(run, folder):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(folder.name)
        return really(run, folder)

    monkeypatch.setattr(module, "train", watched)
    with pytest.raises(KeyboardInterrupt):
        compare_variants(comparison(), tmp_path / "out")
    assert trained == ["no-mask-seed-0", "both-first-layer-seed-0", "no-mask-seed-1"]
    assert "1 to 2 seeds" in (tmp_path / "out/comparison.md").read_text()
    trained.clear()
    compare_variants(comparison(), tmp_path / "out")
    assert trained == ["both-first-layer-seed-1"]
    trained.clear()
    older = tmp_path / "out/runs/no-mask-seed-0/result.json"
    content = json.loads(older.read_text())
    assert content["settings"]["schedule"].pop("clip") == 1.0
    older.write_text(json.dumps(content))
    compare_variants(comparison(), tmp_path / "out")  # From before the setting existed: it had the default.
    assert trained == []
    content["settings"]["schedule"]["brake"] = 1.0
    older.write_text(json.dumps(content))
    with pytest.raises(SettingsError, match="brake"):
        compare_variants(comparison(), tmp_path / "out")
    del content["settings"]["schedule"]["brake"]
    older.write_text(json.dumps(content))
    with pytest.raises(SettingsError, match="empty the folder"):
        compare_variants(comparison(steps=1), tmp_path / "out")  # Results of another budget are refused.
    fewer = TEXT.replace(
        'annotations = "annotations.json"\n[base]', 'annotations = "annotations.json"\nmin_area = 2\n[base]'
    )
    with pytest.raises(SettingsError, match="empty the folder"):
        compare_variants(comparison(fewer), tmp_path / "out")  # So are results on other regions.


def test_mistyped_site_is_reported_before_anything_is_trained(comparison, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("trained"))
    with pytest.raises(SettingsError, match="no module 'conv9'"):
        compare_variants(comparison(TEXT.replace('"conv1"', '"conv9"')), tmp_path / "out")


def result(micro, small, seconds=10):
    empty = {"regions": 0, "micro": None, "micro_ci95": [0, 1], "macro": None}
    published = {
        name: {**empty, "regions": 5, "micro": micro} if name == "1000" else empty for name in module.PUBLISHED_BINS
    }
    coco = {"small": {**empty, "micro": small}, "medium": {**empty, "micro": 0.5}, "large": empty}
    sizes = {"coco": coco, "published": published}
    return {"regions": 5, "micro": micro, "macro": 0.25, "by_size": sizes, "seconds": seconds, "gmac": 1.5}


def test_page_has_mean_and_standard_deviation_over_the_seeds(comparison, tmp_path):
    rows = [
        VariantResults("No mask", (result(0.5, 0.1), result(0.6, 0.2, 30))),
        VariantResults("Both, first layer!", (result(0.7, 0.3),) * 2),
    ]
    settings, runs = read_comparison(comparison())
    write_comparison(rows, settings, runs, tmp_path)
    page = (tmp_path / "comparison.md").read_text()
    assert page == comparison_page(rows, settings, runs)
    assert "Every variant was trained on 8 samples and evaluated on the same 5 regions" in page
    line = re.search(r"\| No mask (.*)", page)[0]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "No mask", "55.0 ± 7.1", "25.0 ± 0.0", "15.0 ± 7.1", "50.0 ± 0.0", "", "1.50", "20",
    ]  # fmt: skip
    assert "| variant | below 1000 |" in page


def test_operations_are_counted():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3, 64, 3, padding=1)

        def forward(self, images, masks):
            return self.convolution(images.permute(0, 3, 1, 2).float()) * masks[:, None]

    assert count_gmac(Network(), (100, 400)) == 0.06912  # 3 x 9 x 64 x 100 x 400


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('name = "No mask"', 'name = "Both, first layer!"', "two variants have the name 'Both, first layer!'"),
        ("dropout = 0.1", "droop = 0.1", "variant 'No mask': .*droop"),
        ('images = "images"\nannotations = "annotations.json"\n', "", "evaluate"),
        ("seeds = [0, 1]", "seeds = []", "no variant, no seed"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "a seed twice"),
        (
            'name = "No mask"',
            'name = "both: first layer"',
            "two variants have the name 'Both, first layer!', or nearly the same",
        ),
        ("sites = []", "sites = [] }}, schedule = {{ precision = 'bfloat16'", "precision must be the same"),
        ('name = "No mask"', 'name = "No mask"\nrecipe = "nowhere.toml"', r"nowhere\.toml: the recipe cannot be read"),
    ],
)
def test_refuses_what_is_not_a_comparison(comparison, old, new, match):
    assert old in TEXT
    with pytest.raises(SettingsError, match=match):
        read_comparison(comparison(TEXT.replace(old, new)))


def test_variant_may_start_from_a_recipe(comparison, tmp_path):
    (tmp_path / "r.toml").write_text('[network]\npool = "mask"\ndropout = 0.7\n[augment]\nflip = 0.2\n')
    _, runs = read_comparison(comparison(TEXT.replace('name = "No mask"', 'name = "No mask"\nrecipe = "r.toml"')))
    mine = runs["No mask"]
    assert (mine.network.pool, mine.network.dropout, mine.augment.flip) == ("mask", 0.1, 0.2)
    assert runs["Both, first layer!"].network.pool == "mean"


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_comparisons_of_the_project_can_be_read(path):
    _, runs = read_comparison(path)
    assert len({run.schedule.steps * run.schedule.batch_size for run in runs.values()}) == 1


def test_published_study_has_three_seeds():
    settings, _ = read_comparison(next(path for path in COMPARISONS if path.stem == "published-study"))
    assert len(settings.seeds) >= 3


def test_command_prints_the_table(tmp_path, capsys, monkeypatch):
    given = []
    rows = [VariantResults("No mask", (result(0.5, 0.1), result(0.6, 0.2)))]
    monkeypatch.setattr(module, "compare_variants", lambda *paths: given.append(paths) or rows)
    assert main.run(["compare", "c.toml", "-o", str(tmp_path)]) == 0
    assert given == [(Path("c.toml"), tmp_path)]
    out = capsys.readouterr().out
    assert re.search(r"No mask\s+55\.0 ± 7\.1\s+25\.0 ± 0\.0", out)
    assert str(tmp_path / "comparison.md") in out


def test_values_of_a_size_without_regions_are_not_numbers():
    assert np.isnan(VariantResults("x", (result(0.5, 0.1),)).values("by_size", "coco", "large", "micro")).all()
