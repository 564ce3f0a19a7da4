"""Parts of the benchmarks: generated scenes, medians of ratios, memory of separate processes."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import audit
import averages
import growth
import growth_page
import numpy as np
import pytest
import ray_overhead
import scenes
import speed
import speed_page
import torch
import torch_ways
from machine import in_own_process, peak_megabytes
from tiny_model import SETTINGS, tiny_checkpoint

import training
from maskwise import RegionSet, load_image
from maskwise.data.coco_file import read_coco
from maskwise.errors import SettingsError
from maskwise.tasks.auditing import Judged
from maskwise.training.averaging import average_runs
from maskwise.training.batches import Sample, collate
from maskwise.training.checkpoint import load_checkpoint
from maskwise.training.data import UnaugmentedRegions, read_data
from maskwise.training.distributed import make_accelerator
from maskwise.training.settings import ScheduleSettings, SourceSettings, TrainSettings, WindowSettings
from maskwise.views.view import ViewSettings


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("benchmarks/*.py")), ids=lambda path: path.stem)
def test_every_benchmark_finds_what_it_imports(path):
    assert importlib.import_module(path.stem).__doc__


def test_made_masks_have_sizes_like_cocos():
    areas = np.array([scenes.blob(number).area for number in range(60)])
    counts = [(areas < 32**2).sum(), ((areas >= 32**2) & (areas < 96**2)).sum(), (areas >= 96**2).sum()]
    assert counts == [30, 20, 10]


def test_made_masks_are_the_same_each_time_and_grow_with_the_image():
    first, again, larger = scenes.blob(3), scenes.blob(3), scenes.blob(3, (960, 1280))
    assert np.array_equal(first.to_array(), again.to_array())
    assert larger.area / first.area == pytest.approx(4, rel=0.01)


def test_photograph_of_any_size_is_the_example_mirrored():
    example = load_image(scenes.PHOTOGRAPH)
    for hw in ((100, 120), (480, 640), (900, 1300)):
        made = scenes.photograph(hw)
        height, width = min(hw[0], 400), min(hw[1], 600)
        assert made.shape == (*hw, 3)
        assert np.array_equal(made[:height, :width], example[:height, :width])
    assert np.array_equal(made[400:800, :600], example[::-1])


def test_written_scenes_are_read_as_they_were_made(tmp_path):
    segments = scenes.write_scenes(tmp_path / "scene", images=3, masks=2, image_hw=(120, 160))
    coco = read_coco(segments, labelled=False)
    assert [coco.file_name(row) for row in range(3)] == ["000000.jpg", "000001.jpg", "000002.jpg"]
    assert all((tmp_path / "scene" / coco.file_name(row)).is_file() for row in range(3))
    for row in range(6):
        assert np.array_equal(coco.mask(row, (120, 160)).to_array(), scenes.blob(row, (120, 160)).to_array())


def test_each_way_is_timed_in_every_round_and_scaled_to_all_masks(tmp_path, monkeypatch):
    calls = []

    def ready(name):
        return lambda segments: lambda: calls.append((name, segments.parent.name))

    monkeypatch.setattr(speed, "timed", lambda work: work() or 2.0)
    result = speed.in_turn({"published": ready("published"), "exact": ready("exact")}, tmp_path, 100, 2)
    assert calls == [("published", "7"), ("exact", "100"), ("exact", "100"), ("published", "7")]
    assert result["exact"] == [2.0, 2.0]
    assert result["published"] == pytest.approx([200 / 7, 200 / 7])


def test_ratio_is_the_median_of_the_rounds_own():
    assert speed_page.ratio({"base": [4, 9, 8], "way": [2, 3, 4]}, "way", "base") == 2


def test_published_network_gives_probabilities_that_the_mask_changes():
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    masks = np.zeros((2, 64, 96), dtype=bool)
    masks[0, :30, :30] = masks[1, 30:, 50:] = True
    first, second = torch_ways.name_whole(torch_ways.PublishedNet().eval(), image, list(masks), "cpu")
    assert first.shape == (1, 80)
    assert first.sum() == pytest.approx(1, abs=1e-5)
    assert not np.allclose(first, second, atol=1e-9)


def test_straight_line_is_found_and_its_failure_seen():
    straight = [{"images": n, "seconds": 3 + 2 * n} for n in (1, 5, 9)]
    assert growth.line(straight, "images", "seconds") == {"slope": 2.0, "start": 3.0, "r2": 1.0}
    bent = [{"images": n, "seconds": n**2} for n in (1, 5, 9)]
    assert growth.line(bent, "images", "seconds")["r2"] < 0.99


def test_peak_memory_is_the_programs_own(tmp_path):
    held = np.ones(300_000_000, dtype=np.uint8)
    script = tmp_path / "script.py"
    benchmarks = json.dumps(str(Path(scenes.__file__).parent))
    script.write_text(f"import sys; sys.path.insert(0, {benchmarks}); import machine; print(machine.peak_megabytes())")
    assert in_own_process(str(script)) < 100 < held.nbytes / 1e6 < peak_megabytes()


def test_process_gets_the_cores_it_may_use(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os; print(len(os.sched_getaffinity(0)))")
    assert in_own_process(str(script), cores=1) == 1


RECORD = {"machine": "a machine", "load": 0.5, "commit": "0123456789abcdef", "versions": {"python": "3"}}


def test_page_of_speed_gives_rates_ratios_and_the_share_of_the_network():
    seconds = {"published": [40.0, 44.0], "crops": [8.0, 8.0], "network": [1.8, 1.9], "exact": [2.0, 2.0]}
    result = {
        **RECORD,
        "rounds": {"7": 2, "20": 2},
        "compared": {"one core": {"7": seconds, "20": seconds}},
        "peak_megabytes": {"exact": {"7": 400, "20": 410}},
        "besides": {"20 masks": {"JPEG": 2.5}},
        "large": {"exact": {"seconds": 9.0, "of_which_reading": 0.25, "peak_megabytes": 600}},
        "commands": {"maskwise --help": [0.1, 0.3, 0.2]},
    }
    text = speed_page.page(result)
    assert "| `Predictor`, exact | 3.5 (21 times) | 10 (21 times) | 92.5 % | 92.5 % | 1 times that of 7 |" in text
    assert "| `maskwise --help` | 0.200 s |" in text
    assert len(speed_page.figure(result).axes) == 1


def test_page_of_growth_gives_the_slope_of_each_image():
    points = [
        {
            "images": n,
            "masks": 7,
            "seconds": n,
            "processor_seconds": n / 100,
            "peak_megabytes": 100 + n / 1000,
            "file_megabytes": 1,
        }
        for n in (10, 20, 40)
    ]
    lines = {key: growth.line(points, "images", key) for key in growth.FIGURES}
    result = {**RECORD, "model": "tiny", **dict.fromkeys(("images", "masks"), points)}
    shards = {**RECORD, "image_hw": (3, 4), "points": points, "lines": lines}
    ways = ("predictor", "file", "shards", "auto", "shared")
    rate = {**RECORD, "model": "built-in", "images": 10, "masks": 7, "turns": [{}]}
    for key in ("seconds", "processor_seconds"):
        rate |= {key: {way: 7.0 * place for place, way in enumerate(ways, start=1)}}
        rate |= {f"share_by_{key}": {way: 1 / place for place, way in enumerate(ways, start=1)}}
    parts = growth_page.page({**result, "by_images": lines, "by_masks": lines, "shards": shards, "rate": rate})
    assert "4 x 3 pixels with 7 masks each" in parts
    assert "| `label`, into a file | 200 ms | 200 ms | 50.0% | 50.0% |" in parts
    text = growth_page.page({**result, "by_images": lines, "by_masks": lines})
    assert "10 ms of processor time (R² 1.0000) and 1 kB of memory for each further image" in text
    assert len(growth_page.figure({**result, "by_images": lines, "by_masks": lines}).axes) == 4


def test_rates_of_processes_add_up():
    """One names a block of 14 regions in 2 s, the other in 4 s; a third has not finished one."""
    processes = [[(10, 1), (12, 2)], [(11, 5), (15, 8)], [(12, 3)]]
    rates = ray_overhead.rates(processes)
    assert rates == {"regions_per_s": 14 / 2 + 14 / 4, "processor_s_per_region": (1 + 3) / 28}


def test_hours_go_by_pixels_and_those_of_windows_by_their_size():
    schedule = ScheduleSettings(steps=10, batch_size=8)
    assert training.pictures(TrainSettings(view=ViewSettings(size=112), schedule=schedule)) == pytest.approx(20)
    window = WindowSettings(enabled=True, min_side=448, max_side=448, max_pixels=3 * 448 * 448)
    windows = TrainSettings(view=ViewSettings(kind="whole"), window=window, schedule=schedule)
    assert training.pictures(windows) == pytest.approx(10 * 3 * 4)


def test_noise_has_the_shape_and_the_targets_of_the_batch_it_stands_for():
    black = np.zeros((16, 16, 3), np.uint8)
    batch = collate([Sample(black, black[..., 0], target, number) for number, target in enumerate((5, 7))])
    noise = training.random_like(batch)
    assert (noise.images.shape, noise.images.dtype) == (batch.images.shape, batch.images.dtype)
    assert noise.images.float().mean() > 100
    assert noise.masks.float().mean() > 100
    assert noise.targets.tolist() == [5, 7]


def test_page_of_training_gives_the_share_and_the_hours():
    result = {
        **RECORD,
        "rounds": 3,
        "steps_a_round": 4,
        "steps": [{"recipe": "a", "batch_size": 32, "real_per_s": 9.5, "random_per_s": 10.0, "ratio": 0.953}],
        "making": [{"recipe": "a", "sample": 4.0, "decoding": 2.0, "colours": 1.0, "half": 0.25}],
        "whole": [{"recipe": "a", "pictures": 2e6, "gpu_hours": 1.25, "samples_per_s": 4000.0}],
    }
    text = training.page(result)
    assert "| `recipes/a.toml` | 32 | 9.5 | 10.0 | 95 % |" in text
    assert "| `recipes/a.toml` | 2.0 million | 1.2 |" in text


@pytest.fixture
def two_runs(tmp_path, coco_folder):
    """Folders of two runs with two sources, one of which does not calibrate."""
    source = SourceSettings(images="images", annotations="annotations.json")
    sources = (source, replace(source, calibrate=False))
    data = replace(SETTINGS.data, data_root=str(coco_folder), sources=sources, holdout=0.5)
    for seed, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        tiny_checkpoint(tmp_path / name / "final.safetensors", replace(SETTINGS, data=data), seed=seed)
    return [tmp_path / name for name in ("a", "b")]


def test_figures_of_a_mean_are_those_of_the_run_that_average_makes(tmp_path, two_runs):
    data, accelerator = averages.mean_network(str(two_runs[0]))[1].data, make_accelerator("cpu", bf16=False)
    once, twice, both = (
        averages.line_of("+".join(map(str, runs)), 64, data, accelerator)
        for runs in (two_runs[:1], two_runs[:1] * 2, two_runs)
    )
    assert {**once, "candidate": ""} == {**twice, "candidate": ""}
    assert once["all"] != both["all"]
    assert 0 < once["calibrating"]["regions"] < once["all"]["regions"]
    made = load_checkpoint(average_runs(two_runs, tmp_path / "mean"))
    assert made.record["holdout_accuracy"] == both["all"]["micro"]
    page = averages.page({**RECORD, "lines": [once, both]})
    assert f"| a + b | 64 | {100 * both['all']['micro']:.1f} % |" in page


def test_means_need_runs_with_the_same_data(two_runs):
    data, accelerator = averages.mean_network(str(two_runs[0]))[1].data, make_accelerator("cpu", bf16=False)
    with pytest.raises(SettingsError, match="learned from other data"):
        averages.line_of(str(two_runs[0]), 64, replace(data, holdout=0.25), accelerator)
    tiny_checkpoint(two_runs[1] / "final.safetensors", seed=1)
    with pytest.raises(SettingsError, match="has other data"):
        averages.mean_network("+".join(map(str, two_runs)))


def test_confidence_without_content_is_calibrated_over_black_white_and_noise(two_runs):
    shown = []

    class Says(torch.nn.Module):
        def forward(self, images, _masks):
            shown.append(images.flatten(1).float())
            return torch.tensor([[2.0, 0.0, 0.0]] + [[0.0] * 3] * (len(images) - 1))

    settings = averages.mean_network(str(two_runs[0]))[1]
    split = read_data(settings.data)
    seen = UnaugmentedRegions(split.holdout, settings.view, split.categories)
    result = averages.confidence_on_blank(Says(), 2.0, seen, make_accelerator("cpu", bf16=False))
    surest = np.e / (np.e + 2)
    count = len(shown[0])
    assert result["nothing_most"] == pytest.approx(surest, abs=1e-4)
    assert result["nothing_mean"] == pytest.approx((surest + (count - 1) / 3) / count, abs=1e-4)
    assert count == 3 * len(seen)
    assert (shown[0][0::3] == 0).all()
    assert (shown[0][1::3] == 255).all()
    assert (shown[0][2::3].std(dim=1) > 50).all()


def judged(names, probabilities):
    """Regions of an image in memory with these names, and what a judge says of them: cup, dog or bird."""
    masks = [np.eye(6, dtype=bool)] * len(names)
    regions = RegionSet.from_arrays([np.zeros((6, 6, 3), dtype=np.uint8)], [masks], [names]).regions
    table = np.array(probabilities, dtype=float)
    known = np.full(len(names), np.nan)
    return Judged("model", regions, ("cup", "dog", "bird"), table, known, 0.0, ())


def test_average_precision_of_an_audit():
    """The list: 2 (0.95), 0 (0.9), 1 (0.8); wrong in truth are 0, 2 and 3, which is not listed."""
    rows = [(0.1, 0.9, 0.0), (0.2, 0.7, 0.1), (0.05, 0.15, 0.8), (0.6, 0.4, 0.0), (0.9, 0.0, 0.1)]
    wrong = np.array([True, False, True, True, False])
    result = audit.ranked(judged(["cup"] * 5, rows), wrong)
    assert result["average_precision"] == pytest.approx((1 + 1) / 3, abs=1e-4)
    assert (result["listed"], result["changed"]) == (3, 3)
    assert result["changed_listed"] == pytest.approx(2 / 3, abs=1e-4)
    assert result["first"] == pytest.approx(2 / 3, abs=1e-4)
    wrong = np.array([False, True, True, False, False])
    assert audit.ranked(judged(["cup"] * 5, rows), wrong)["average_precision"] == pytest.approx(
        (1 + 2 / 3) / 2, abs=1e-4
    )


def test_labels_are_changed_as_the_model_confuses_them(monkeypatch):
    """The model takes every third cup for a bird, and never errs on dogs: these become anything else."""
    rows = [(0.9, 0.05, 0.05), (0.9, 0.05, 0.05), (0.1, 0.1, 0.8)] * 20 + [(0.0, 1.0, 0.0)] * 40
    names = ["cup"] * 60 + ["dog"] * 40
    monkeypatch.setattr(audit, "CHANGED", 0.5)
    after, wrong = audit.changed(judged(names, rows), np.random.default_rng(0))
    given = [region.name for region in after.regions]
    assert wrong.sum() == 50
    assert all((one != name) == bool(bad) for one, name, bad in zip(given, names, wrong, strict=True))
    assert {given[number] for number in np.flatnonzero(wrong[:60])} == {"bird"}
    assert {given[60 + number] for number in np.flatnonzero(wrong[60:])} == {"bird", "cup"}
