import math

import numpy as np
import pytest
import torch

from maskwise.data.images import load_image
from maskwise.reports.contact_sheet import Tile, make_contact_sheet
from maskwise.training import monitoring
from maskwise.training.data import read_data
from maskwise.training.monitoring import Throughput, hardest_regions, hardest_sheet, holdout_scalars
from maskwise.training.settings import DataSettings, SourceSettings
from maskwise.views.view import ViewSettings
from two_objects import write_two_objects

LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
TARGETS = torch.tensor([0, 0, 0, 1])


def loss(right, *others):
    return math.log(sum(math.exp(value) for value in (right, *others))) - right


LOSSES = [loss(2, 0, 0), loss(0, 3, 0), loss(1, 0, 0), loss(1, 0, 0)]


def test_held_out_metrics_are_those_computed_by_hand():
    scalars = holdout_scalars(LOGITS, TARGETS, ("cup", "traffic light", "dog"))
    assert scalars == {
        "holdout/loss": pytest.approx(sum(LOSSES) / 4),
        "holdout/micro_accuracy": pytest.approx(3 / 4),
        "holdout/macro_accuracy": pytest.approx((2 / 3 + 1) / 2),
        "holdout/class/cup": pytest.approx(2 / 3),
        "holdout/class/traffic light": 1.0,
    }  # No dog is held out, so it has no entry.


def test_hardest_are_those_of_the_highest_loss_in_order():
    assert hardest_regions(LOGITS, TARGETS).tolist() == [1, 2, 3, 0]  # Equal losses keep their order.
    assert hardest_regions(LOGITS, TARGETS, count=1).tolist() == [1]


def test_hardest_regions_are_drawn_as_the_network_sees_them(tmp_path):
    folder = write_two_objects(tmp_path / "data", images=20)
    source = SourceSettings(images="images", annotations="annotations.json")
    split = read_data(DataSettings(data_root=str(folder), sources=(source,), holdout=0.7))
    view = ViewSettings(size=40, context=1.5)
    targets = torch.tensor([split.names.index(region.name) for region in split.holdout])
    logits = torch.eye(2)[targets] * 4  # All correct except two.
    logits[3], logits[6] = -logits[3], logits[6] / 4
    tiles = []
    for number in hardest_regions(logits, targets).tolist():
        region = split.holdout[number]
        mask = region.read_mask()
        pixels, coverage = view.view(mask).render(load_image(region.image_path), mask)
        wrong = {"square": "disc", "disc": "square"}[region.name]
        predicted = {3: (wrong, "98.2 %"), 6: (region.name, "73.1 %")}.get(number, (region.name, "98.2 %"))
        caption = (region.name, f"predicted: {predicted[0]}", predicted[1], region.image_path.name)
        tiles.append(Tile(pixels, coverage, caption))
    assert 1 / (1 + math.exp(-4)) == pytest.approx(0.982, abs=5e-4)
    assert 1 / (1 + math.exp(-1)) == pytest.approx(0.731, abs=5e-4)
    assert len(tiles) == monitoring.HARDEST_SHOWN < len(split.holdout)
    np.testing.assert_array_equal(hardest_sheet(logits, targets, split, view), make_contact_sheet(tiles))


def test_speed_is_of_the_last_interval_without_pauses(monkeypatch):
    now = 100.0
    monkeypatch.setattr(monitoring.time, "perf_counter", lambda: now)
    speed = Throughput()
    now += 2
    speed.images += 32
    with speed.paused():
        now += 50
    now += 2
    speed.images += 8
    assert speed.rate() == pytest.approx(40 / 4)
    now += 4
    speed.images += 12
    assert speed.rate() == pytest.approx(12 / 4)
