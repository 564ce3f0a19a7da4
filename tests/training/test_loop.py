import io
import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from maskwise.data.regions import Category
from maskwise.errors import SettingsError
from maskwise.training import loop, monitoring
from maskwise.training.batches import NO_CLASS
from maskwise.training.builder import build_network
from maskwise.training.checkpoint import Checkpoint, load_checkpoint
from maskwise.training.data import SampleRequest, TrainingRegions, read_data
from maskwise.training.holdout import predict_holdout
from maskwise.training.loop import load_network, train
from maskwise.training.monitoring import hardest_sheet, holdout_scalars
from maskwise.training.optimiser import make_optimiser, rate_factor, region_losses, set_training_mode
from maskwise.training.settings import (
    AugmentSettings,
    DataSettings,
    NetworkSettings,
    RunSettings,
    ScheduleSettings,
    SourceSettings,
    TrainSettings,
    WindowSettings,
)
from maskwise.views.view import ViewSettings
from two_objects import write_two_objects

STILL = AugmentSettings(
    flip=0.5, scale=(1.0, 1.0), shift=0, brightness=0, contrast=0, saturation=0, mask_jitter=0
)  # Only mirroring.


def settings(folder, *, network=None, augment=STILL, holdout=0.3, run=None, **schedule):
    """Settings of a run on images of 32 x 32 pixels; a crop of ten times the region shows the whole image."""
    defaults = {"steps": 6, "batch_size": 4, "warmup_steps": 2, "average": 0.0, "precision": "float32"}
    source = SourceSettings(images="images", annotations="annotations.json")
    return TrainSettings(
        network=NetworkSettings(trunk="test_resnet", **{"sites": ("conv1",), "merge": "both", **(network or {})}),
        weights="random",
        view=ViewSettings(size=32, context=10.0),
        data=DataSettings(data_root=str(folder), sources=(source,), holdout=holdout, workers=0),
        augment=augment,
        schedule=ScheduleSettings(**{**defaults, **schedule}),
        run=RunSettings(**{"device": "cpu", "checkpoint_every": 3, "validate_every": 1000, **(run or {})}),
    )


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return write_two_objects(tmp_path_factory.mktemp("data") / "two", images=100, side=32)


def same_weights(one, other):
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(tensor, other.tensors[name], rtol=0, atol=0, msg=name)


# End to end: two objects in one image, and only the mask says which is meant.


def accuracy(objects, folder, **network):
    run = settings(objects, network=network, steps=60, batch_size=16, lr_trunk=3e-3, lr_new=3e-3, label_smoothing=0.0)
    return load_checkpoint(train(run, folder)).record["holdout_accuracy"]


@pytest.mark.parametrize("merge", ["multiply", "add", "both"])
def test_mask_branch_learns_which_of_two_objects_is_meant(objects, tmp_path, merge):
    assert accuracy(objects, tmp_path, sites=("conv1",), merge=merge) > 0.9


def test_network_that_ignores_the_mask_cannot_tell_two_objects_apart(objects, tmp_path):
    assert accuracy(objects, tmp_path, sites=(), pool="mean") < 0.6


# Several regions per crop.


def of_views(run):
    """Return the same run with up to three regions per crop, which varies."""
    network = replace(run.network, sites=("features",), pool="mask")
    augment = AugmentSettings(widen=2.0)
    return replace(run, network=network, augment=augment, data=replace(run.data, regions_per_view=3))


def test_loss_of_a_step_is_the_weighted_sum_over_regions_by_view(objects, tmp_path, monkeypatch):
    seen, logged, step = [], [], loop.take_step

    def watched(run, batch):
        with torch.no_grad():
            set_training_mode(run.network, head_only=False)
            each = [
                run.network(batch.images[i][None], m[None]) for i, m in zip(batch.image_of, batch.masks, strict=True)
            ]
        losses = F.cross_entropy(torch.cat(each), batch.targets, reduction="none")
        right = (torch.cat(each).argmax(dim=1) == batch.targets)[: len(batch.images)].float().mean()
        seen.append(((losses * batch.weights).sum().item() / len(batch.images), right.item(), len(batch.masks)))
        values = step(run, batch)
        logged.append((values["train/loss"].item(), (values["right"] / values["named"]).item()))
        return values

    monkeypatch.setattr(loop, "take_step", watched)
    train(of_views(settings(objects, label_smoothing=0.0, steps=4)), tmp_path)
    assert any(count > 4 for _, _, count in seen)  # More regions than crops.
    for (loss, right, _), from_run in zip(seen, logged, strict=True):
        assert from_run == (pytest.approx(loss, rel=1e-4), pytest.approx(right))


def test_crops_of_several_regions_are_widened_within_the_setting(objects):
    run = of_views(settings(objects))
    run = replace(run, view=ViewSettings(size=32, context=1.0, min_side=1))
    still = replace(run, augment=replace(run.augment, widen=1.0))
    split = read_data(run.data)
    shares = [
        np.mean([(TrainingRegions(split, each)[SampleRequest(number)].coverage > 0).mean() for number in range(20)])
        for each in (still, run)
    ]
    assert shares[1] < 0.8 * shares[0]


# Resuming.


def interrupt(run, folder, monkeypatch, after):
    """Train until a step, then stop; the last checkpoint stays."""
    step = loop.take_step

    def step_or_die(state, batch):
        if state.step == after:
            raise KeyboardInterrupt
        return step(state, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", step_or_die)
        with pytest.raises(KeyboardInterrupt):
            train(run, folder)
    assert not (folder / loop.FINAL).exists()


@pytest.mark.parametrize(
    "schedule",
    [{}, {"average": 0.9, "steps": 8}, {"head_steps": 4}, {"frozen": ("layer1",)}, {"optimiser": "adam"}],
    ids=str,
)
def test_resumed_run_ends_like_the_uninterrupted_one(objects, tmp_path, monkeypatch, schedule):
    run = settings(objects, network={"dropout": 0.3}, augment=AugmentSettings(), **schedule)
    uninterrupted = load_checkpoint(train(run, tmp_path / "uninterrupted"))
    interrupt(run, tmp_path / "broken", monkeypatch, after=5)
    assert load_checkpoint(tmp_path / "broken" / loop.CHECKPOINT).step == 3
    resumed = load_checkpoint(train(run, tmp_path / "broken"))
    assert resumed.step == uninterrupted.step
    assert resumed.temperature == uninterrupted.temperature
    same_weights(resumed, uninterrupted)


def test_finished_run_is_not_trained_again(objects, tmp_path):
    run = settings(objects)
    first = load_checkpoint(train(run, tmp_path))
    again = load_checkpoint(train(run, tmp_path))
    same_weights(first, again)
    assert again.record == first.record


def test_refuses_to_resume_a_run_with_other_settings(objects, tmp_path):
    run = settings(objects, steps=3)
    train(run, tmp_path)
    with pytest.raises(SettingsError, match="has a run with other settings; give another folder"):
        train(replace(run, schedule=replace(run.schedule, steps=5)), tmp_path)
    train(replace(run, run=replace(run.run, log_every=1)), tmp_path)  # `run` may change.


def test_refuses_to_resume_a_run_with_other_classes(tmp_path):
    folder = write_two_objects(tmp_path / "data", images=8, side=32)
    train(settings(folder, steps=3), tmp_path / "run")
    content = json.loads((folder / "annotations.json").read_text())
    content["categories"].append({"id": 9, "name": "ring"})
    (folder / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(SettingsError, match="has a run with other classes"):
        train(settings(folder, steps=3), tmp_path / "run")


# Files and logs of a run.


def test_final_checkpoint_has_everything_that_prediction_needs(objects, tmp_path):
    run = settings(objects, average=0.5)
    final = load_checkpoint(train(run, tmp_path))
    assert final.settings == run
    assert final.categories == (Category(3, "square"), Category(7, "disc"))
    assert {name.split(".")[0] for name in final.tensors} == {"model"}
    network = load_network(final)
    assert not network.training
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, final.tensors[f"model.{name}"], rtol=0, atol=0)


def test_record_counts_what_was_used(objects, tmp_path):
    train(settings(objects), tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["regions_train"] + record["regions_holdout"] == 200
    assert record["classes"] == 2
    assert record["settings"]["schedule"]["steps"] == 6
    assert record["temperature"] > 0
    assert 0 <= record["holdout_accuracy"] <= 1


def test_run_without_held_out_images_is_not_calibrated(objects, tmp_path):
    final = load_checkpoint(train(settings(objects, holdout=0.0, steps=2), tmp_path))
    assert final.temperature == 1
    assert "holdout_accuracy" not in final.record


def test_logged_numbers_are_those_of_the_step(objects, tmp_path, monkeypatch):
    seen, logged = [], []
    step = loop.take_step

    def watched(run, batch):
        with torch.no_grad():
            set_training_mode(run.network, head_only=False)
            logits = run.network(batch.images, batch.masks)
        seen.append((F.cross_entropy(logits, batch.targets).item(), (logits.argmax(1) == batch.targets).float().mean()))
        return step(run, batch)

    monkeypatch.setattr(loop, "take_step", watched)
    monkeypatch.setattr(
        loop.SummaryWriter, "add_scalar", lambda _log, name, value, number: logged.append((name, value, number))
    )
    run = settings(objects, label_smoothing=0.0, lr_trunk=1e-3, lr_new=4e-3, run={"log_every": 1, "validate_every": 3})
    final = load_checkpoint(train(run, tmp_path))
    values = {(name, number): value for name, value, number in logged}
    for number, (loss, right) in enumerate(seen, start=1):
        factor = rate_factor(number - 1, run.schedule)
        assert values["train/loss", number] == pytest.approx(loss, rel=1e-4)
        assert values["train/accuracy", number] == pytest.approx(float(right))
        assert values["rate/0.001", number] == pytest.approx(1e-3 * factor)
        assert values["rate/0.004", number] == pytest.approx(4e-3 * factor)
    assert values["holdout/micro_accuracy", 6] == pytest.approx(final.record["holdout_accuracy"], abs=1e-4)
    assert {number for name, number in values if name == "holdout/loss"} == {3, 6}


def test_speed_is_of_the_last_interval_and_of_training_alone(objects, tmp_path, monkeypatch):
    """A step takes 0.5 s, later 0.25 s; validating and saving take 100 s."""
    now, logged = [0.0], {}
    step, logits, save = loop.take_step, loop._predict_holdout, Checkpoint.save

    def takes(seconds, call):
        def slow(*args):
            now[0] += seconds(*args)
            return call(*args)

        return slow

    monkeypatch.setattr(monitoring.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(loop, "take_step", takes(lambda run, _batch: 0.5 if run.step < 2 else 0.25, step))
    monkeypatch.setattr(loop, "_predict_holdout", takes(lambda *_: 100, logits))
    monkeypatch.setattr(Checkpoint, "save", takes(lambda *_: 100, save))
    monkeypatch.setattr(
        loop.SummaryWriter, "add_scalar", lambda _log, name, value, number: logged.update({(name, number): value})
    )
    run = settings(objects, steps=5, run={"log_every": 2, "validate_every": 1, "checkpoint_every": 1})
    train(run, tmp_path)
    speeds = {number: value for (name, number), value in logged.items() if name == "speed/images_per_s"}
    assert speeds == {2: pytest.approx(4 / 0.5), 4: pytest.approx(4 / 0.25), 5: pytest.approx(4 / 0.25)}


def test_speed_counts_the_actual_images_of_small_batches(objects, tmp_path, monkeypatch):
    """Windows of 40 x 40 pixels leave room for two samples of at most four."""
    now, logged = [0.0], []
    step = loop.take_step

    def slow(*args):
        now[0] += 0.5
        return step(*args)

    monkeypatch.setattr(monitoring.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(loop, "take_step", slow)
    monkeypatch.setattr(
        loop.SummaryWriter, "add_scalar", lambda _log, name, value, _number: logged.append((name, value))
    )
    window = WindowSettings(enabled=True, min_side=40, max_side=40, max_pixels=2 * 40 * 40)
    run = replace(settings(objects, steps=3, run={"log_every": 1}), view=ViewSettings(kind="whole"), window=window)
    train(run, tmp_path)
    assert [value for name, value in logged if name == "speed/images_per_s"] == [pytest.approx(2 / 0.5)] * 3


def test_each_validation_logs_held_out_metrics_and_draws_the_worst_regions(objects, tmp_path):
    run = settings(objects, run={"validate_every": 3})
    final = load_checkpoint(train(run, tmp_path))
    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    split = read_data(run.data)
    outputs = predict_holdout(load_network(final), split, run)
    logits, targets = outputs.logits, outputs.targets
    for name, value in holdout_scalars(logits, targets, split.names).items():
        assert [event.step for event in log.Scalars(name)] == [3, 6]
        assert log.Scalars(name)[-1].value == pytest.approx(value, rel=1e-4)
    assert "holdout/class/disc" in log.Tags()["scalars"]
    pictures = log.Images("holdout/hardest")
    assert [picture.step for picture in pictures] == [3, 6]
    drawn = np.array(Image.open(io.BytesIO(pictures[-1].encoded_image_string)))
    np.testing.assert_array_equal(drawn, hardest_sheet(logits, targets, split, run.view))


# The schedule.


def moved(objects, tmp_path, **schedule):
    """Return the parts of the network that a run changes."""
    run = settings(objects, holdout=0.0, **schedule)
    torch.manual_seed(run.schedule.seed)
    before = build_network(run.network, classes=2, probe_size=32).state_dict()
    after = load_checkpoint(train(run, tmp_path)).tensors_under("model")
    return {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def test_only_the_head_is_trained_first(objects, tmp_path):
    assert moved(objects, tmp_path / "a", steps=3, head_steps=3) == {"head"}
    assert moved(objects, tmp_path / "b", steps=4, head_steps=2) == {"head", "branch", "trunk"}


def test_learning_rates_reach_trunk_and_new_layers(objects, tmp_path):
    assert moved(objects, tmp_path / "a", steps=2, lr_trunk=0.0, weight_decay=0.0) == {"head", "branch"}
    assert moved(objects, tmp_path / "b", steps=2, lr_new=0.0, weight_decay=0.0) == {"trunk"}


def test_learning_rate_rises_then_stays_or_falls():
    schedule = ScheduleSettings(steps=110, warmup_steps=10, decay="constant")
    assert [rate_factor(step, schedule) for step in (0, 4, 9, 10, 60, 109)] == [0.1, 0.5, 1, 1, 1, 1]
    falls = replace(schedule, decay="cosine")
    assert rate_factor(35, falls) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    factors = [rate_factor(step, falls) for step in range(10, 111)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(0)
    assert rate_factor(0, ScheduleSettings(warmup_steps=0)) == 1


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network(NetworkSettings(trunk="test_resnet", sites=("conv1",), merge="both"), classes=3, probe_size=32)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_rates_and_decay_reach_the_optimiser(network, name, kind):
    schedule = ScheduleSettings(optimiser=name, lr_trunk=1e-3, lr_new=2e-3, weight_decay=0.3)
    optimiser = make_optimiser(network, schedule)
    assert type(optimiser) is kind
    groups = {p: (g["lr"], g["peak_lr"], g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}
    assert len(groups) == len(list(network.parameters()))
    for parameter_name, parameter in network.named_parameters():
        rate = 1e-3 if parameter_name.startswith("trunk.") else 2e-3
        assert groups[parameter] == (rate, rate, 0.3 if parameter.ndim > 1 else 0.0), parameter_name


def test_weight_decay_shrinks_the_weights(network):
    optimiser = make_optimiser(network, ScheduleSettings(lr_new=0.1, weight_decay=0.5))
    before = network.head.weight.detach().clone()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    torch.testing.assert_close(network.head.weight.detach(), before * (1 - 0.1 * 0.5))


def test_batch_statistics_stay_as_pretrained(network):
    set_training_mode(network, head_only=False)
    before = {name: b.clone() for name, b in network.trunk.named_buffers()}
    network(torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8), torch.zeros(4, 32, 32, dtype=torch.uint8))
    assert network.training
    for name, buffer in network.trunk.named_buffers():
        torch.testing.assert_close(buffer, before[name], rtol=0, atol=0)


def test_frozen_modules_never_change_and_all_others_do(objects, tmp_path):
    run = settings(objects, network={"sites": ("layer2",)}, frozen=("conv1", "layer1"), label_smoothing=0.0)
    first = load_checkpoint(train(replace(run, schedule=replace(run.schedule, steps=1)), tmp_path / "one"))
    last = load_checkpoint(train(replace(run, schedule=replace(run.schedule, steps=9)), tmp_path / "nine"))
    for name, tensor in first.tensors.items():
        kept = name.startswith(("model.trunk.conv1.", "model.trunk.layer1.")) or "running_" in name or "tracked" in name
        assert torch.equal(last.tensors[name], tensor) == kept, name


def test_refuses_to_freeze_what_is_not_there(objects, tmp_path):
    with pytest.raises(SettingsError, match=r"test_resnet has no 'layer9', ''; it has conv1"):
        train(settings(objects, frozen=("layer1", "layer9", "")), tmp_path)


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_average_is_what_its_decay_says(objects, tmp_path, monkeypatch, decay):
    """After copies in the first half: decay times the old average plus the rest times the new weights."""
    seen = []
    step = loop.take_step

    def watched(run, batch):
        result = step(run, batch)
        seen.append((run.network.head.weight.detach().clone(), run.average.module.head.weight.detach().clone()))
        return result

    monkeypatch.setattr(loop, "take_step", watched)
    train(settings(objects, holdout=0.0, steps=6, average=decay), tmp_path)
    for _, (last, average) in zip(range(3), seen, strict=False):
        torch.testing.assert_close(average, last)
    for (_, before), (last, average) in pairwise(seen[2:]):
        torch.testing.assert_close(average, decay * before + (1 - decay) * last)


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_gradients_are_clipped_to_the_norm_of_the_setting(objects, tmp_path, monkeypatch, clip):
    norms = []
    step = torch.optim.AdamW.step

    def watched(optimiser, *args, **more):
        grads = [p.grad for g in optimiser.param_groups for p in g["params"] if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(grads)))
        return step(optimiser, *args, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    train(settings(objects, holdout=0.0, steps=2, clip=clip), tmp_path)
    assert len(norms) == 2
    assert all(norm == pytest.approx(1e-3, rel=1e-3) if clip else norm > 1e-2 for norm in norms)


# Losses and calibration by hand.

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
TARGETS = torch.tensor([0, 2])


def log_probability(row, index):
    values = [math.exp(value) for value in LOGITS[row].tolist()]
    return math.log(values[index] / sum(values))


def test_cross_entropy_is_the_mean_over_the_batch():
    expected = -(log_probability(0, 0) + log_probability(1, 2)) / 2
    assert region_losses(LOGITS, TARGETS, ScheduleSettings(label_smoothing=0.0)).mean().item() == pytest.approx(
        expected
    )


def test_smoothing_gives_every_class_its_share():
    right = -(log_probability(0, 0) + log_probability(1, 2)) / 2
    even = -sum(log_probability(row, index) for row in range(2) for index in range(3)) / 6
    loss = region_losses(LOGITS, TARGETS, ScheduleSettings(label_smoothing=0.2)).mean()
    assert loss.item() == pytest.approx(0.8 * right + 0.2 * even)


@pytest.mark.parametrize("loss", ["cross_entropy", "published"])
def test_in_a_blank_crop_every_class_is_equally_right(loss):
    settings = ScheduleSettings(loss=loss)
    losses = region_losses(LOGITS, torch.tensor([NO_CLASS, 2]), settings)
    each = torch.stack([region_losses(LOGITS, torch.full((2,), index), settings) for index in range(3)])
    torch.testing.assert_close(losses, torch.stack([each[:, 0].mean(), each[2, 1]]))
    even = region_losses(torch.zeros(1, 3), torch.tensor([NO_CLASS]), settings)
    assert even.item() < losses[0].item()


def test_logged_accuracy_leaves_out_blank_crops(objects, tmp_path, monkeypatch):
    counts, logged, step = [], {}, loop.take_step

    def watched(run, batch):
        values = step(run, batch)
        counts.append((values["right"].item(), (batch.targets[: len(batch.images)] != NO_CLASS).sum().item()))
        return values

    monkeypatch.setattr(loop, "take_step", watched)
    monkeypatch.setattr(
        loop.SummaryWriter, "add_scalar", lambda _log, name, value, number: logged.setdefault((name, number), value)
    )
    run = settings(objects, steps=12, batch_size=2, run={"log_every": 1})
    train(replace(run, augment=replace(run.augment, blank=0.5)), tmp_path)
    assert {named for _, named in counts} == {0, 1, 2}
    for number, (right, named) in enumerate(counts, start=1):
        assert logged.get(("train/accuracy", number)) == (right / named if named else None)


def test_run_with_blank_crops_learns_to_be_unsure_of_them(objects, tmp_path):
    run = settings(objects, steps=60, batch_size=16, lr_trunk=3e-3, lr_new=3e-3, label_smoothing=0.0)
    black, mask = torch.zeros(1, 32, 32, 3, dtype=torch.uint8), torch.zeros(1, 32, 32, dtype=torch.uint8)
    mask[:, 8:20, 8:20] = 255
    confidence = []
    for probability in (0.0, 0.3):
        with_blanks = replace(run, augment=replace(run.augment, blank=probability))
        network = load_network(load_checkpoint(train(with_blanks, tmp_path / f"{probability}")))
        with torch.no_grad():
            confidence.append(network(black, mask).softmax(dim=1).max().item())
    assert confidence[1] < 0.65
    assert confidence[0] > 0.9


def test_published_loss_is_the_mean_over_batch_and_classes():
    onehot, probabilities = F.one_hot(TARGETS, 3), LOGITS.softmax(dim=1)
    expected = (-onehot * torch.log(probabilities + 1e-7)).mean()
    assert region_losses(LOGITS, TARGETS, ScheduleSettings(loss="published")).mean().item() == pytest.approx(
        expected.item()
    )


def test_published_loss_is_bounded_where_cross_entropy_is_not():
    hopeless = region_losses(torch.tensor([[200.0, 0.0]]), torch.tensor([1]), ScheduleSettings(loss="published"))
    assert hopeless.item() == pytest.approx(-math.log(1e-7) / 2, rel=1e-4)


# Settings that reach other functions.


class _Passed(Exception):  # noqa: N818 (ends a run at the call that a test looks at)
    pass


def arguments_of(name, run, folder, monkeypatch):
    """Train until a function of the loop is called; return its arguments."""

    def stop(*args, **more):
        raise _Passed(args, more)

    with monkeypatch.context() as patch:
        patch.setattr(loop, name, stop)
        with pytest.raises(_Passed) as passed:
            train(run, folder)
    return passed.value.args


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_device_and_precision_reach_the_accelerator(objects, tmp_path, monkeypatch, device, precision):
    run = settings(objects, precision=precision, run={"device": device})
    (given,), more = arguments_of("make_accelerator", run, tmp_path, monkeypatch)
    assert (given, more) == (device, {"bf16": precision == "bfloat16"})


@pytest.mark.parametrize("workers", [0, 3])
def test_workers_reach_the_loader_of_training_samples(objects, tmp_path, monkeypatch, workers):
    run = settings(objects)
    run = replace(run, data=replace(run.data, workers=workers))
    (_, given), _ = arguments_of("read_batches", run, tmp_path, monkeypatch)
    assert given == workers


def test_weights_reach_the_trunk(objects, tmp_path, monkeypatch):
    (_,), more = arguments_of("build_network", replace(settings(objects), weights="w"), tmp_path, monkeypatch)
    assert more["weights"] == "w"


def test_note_reaches_the_record(objects, tmp_path):
    train(settings(objects, steps=1, holdout=0.0, run={"note": "half the rate"}), tmp_path)
    assert json.loads((tmp_path / loop.RECORD).read_text())["settings"]["run"]["note"] == "half the rate"
