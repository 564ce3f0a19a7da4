"""Distributed runs: two processes on this machine with gloo."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from children import start_several, write_recipe
from test_loop import of_views, settings
from test_resume import curve
from tiny_model import tiny_model

from maskwise.cli import main
from maskwise.errors import SettingsError
from maskwise.training import distributed, loop
from maskwise.training.checkpoint import load_checkpoint
from maskwise.training.data import read_data
from maskwise.training.loop import train
from maskwise.training.settings import AugmentSettings, NetworkSettings, TeacherSettings
from two_objects import write_two_objects

CURVES = (
    *("train/loss", "train/loss_classes", "train/loss_teacher", "train/accuracy"),
    *("rate/0.001", "holdout/micro_accuracy"),
)


@pytest.fixture
def objects(tmp_path):
    """A folder of 20 images, one of them unreadable."""
    folder = write_two_objects(tmp_path / "data", images=20, side=32)
    (read_data(settings(folder).data).train[4].image_path).write_bytes(b"")
    return folder


def together(objects, **more):
    """A run in which two processes have unequal shares of each batch, and some parts are trained late or never."""
    schedule = {"steps": 8, "batch_size": 5, "head_steps": 2, "frozen": ("layer1",), "average": 0.9} | more
    run = {"log_every": 1, "validate_every": 4, "checkpoint_every": 2, "export": "fp32"}
    return settings(objects, augment=AugmentSettings(blank=0.3), run=run, **schedule)


def close(one, other):
    """Check that final weights differ only by the order of sums; return both records."""
    one, other = (load_checkpoint(folder / loop.FINAL) for folder in (one, other))
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(tensor, other.tensors[name], rtol=1e-3, atol=1e-5, msg=name)
    assert one.temperature == pytest.approx(other.temperature, rel=1e-3)
    return one.record, other.record


@pytest.mark.parametrize("several", [False, True], ids=["one region a view", "three"])
def test_two_processes_train_as_one(objects, tmp_path, several):
    run = replace(together(objects), teacher=TeacherSettings(model=str(tiny_model(tmp_path))))
    run = of_views(run) if several else run
    recipe, folder = write_recipe(run, tmp_path / "run.toml"), tmp_path / "two"
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "maskwise")
    subprocess.run([sys.executable, *launch, "train", str(recipe), "-o", str(folder)], check=True, timeout=240)
    train(run, tmp_path / "one")
    for name in CURVES:
        assert curve(folder, name) == pytest.approx(curve(tmp_path / "one", name), rel=1e-4), name
    losses = [curve(folder, name) for name in CURVES[:3]]
    assert losses[0] == pytest.approx({step: losses[1][step] + losses[2][step] for step in range(1, 9)}, rel=1e-5)
    record, alone = close(folder, tmp_path / "one")
    assert (record["processes"], alone["processes"]) == (2, 1)
    assert record["holdout_accuracy"] == alone["holdout_accuracy"]
    assert record["skipped_images"] == alone["skipped_images"]
    assert record["skipped_images"]["count"] == 1
    names = {path.name for path in folder.iterdir()}
    assert names == {loop.CHECKPOINT, loop.FINAL, loop.TEACHER, loop.RECORD, "tensorboard", "model.onnx"}
    assert len(list((folder / "tensorboard").iterdir())) == 1


def test_run_resumes_with_another_number_of_processes(objects, tmp_path):
    """Also covers a trunk with an unused parameter: a norm before its own classifier."""
    run = together(objects, frozen=("stem",))
    run = replace(run, network=NetworkSettings(trunk="test_convnext", sites=("stages.0",), merge="both"))
    anywhere = replace(run, run=replace(run.run, device="auto"))  # The children see no GPU and still find each other.
    recipe, folder = write_recipe(anywhere, tmp_path / "run.toml"), tmp_path / "broken"
    children = start_several(recipe, [folder, folder], {0: stop_after(5)})
    assert children[0].reached.wait(120)
    for child in children:  # The second may notice the end of the first.
        child.kill()
    assert load_checkpoint(folder / loop.CHECKPOINT).step == 4
    train(run, folder)
    train(run, tmp_path / "one")
    close(folder, tmp_path / "one")


class stop_after:  # noqa: N801 (a function that can be sent to another process)
    """Stop the process at a step until it is killed."""

    def __init__(self, step):
        self.step = step

    def __call__(self, reached):
        import signal

        really = loop.take_step

        def step(run, batch):
            if run.step == self.step:
                reached.set()
                signal.pause()
            return really(run, batch)

        loop.take_step = step


def test_error_in_one_process_ends_the_others(objects, tmp_path):
    """Nothing else ends them here; torchrun would, on its own machine."""
    content = json.loads((objects / "annotations.json").read_text())
    content["images"][9]["width"] = 40
    (objects / "annotations.json").write_text(json.dumps(content))
    recipe = write_recipe(together(objects, steps=100), tmp_path / "run.toml")
    ends = [child.end() for child in start_several(recipe, [tmp_path / "run"] * 2)]
    assert [code for code, _ in ends] == [1, 1]
    assert sum("009.png: annotation" in errors for _, errors in ends) == 1
    assert sum("another process of the run has ended" in errors for _, errors in ends) == 1
    assert not any("Traceback" in errors for _, errors in ends)


def test_refuses_machines_that_do_not_share_the_run_folder(objects, tmp_path):
    run = together(objects)
    recipe = write_recipe(run, tmp_path / "run.toml")
    train(replace(run, schedule=replace(run.schedule, steps=8)), tmp_path / "one")
    for code, errors in [child.end() for child in start_several(recipe, [tmp_path / "one", tmp_path / "other"])]:
        assert code == 1
        assert "the processes differ in steps done: 8, 0; all machines need" in errors
        assert "Traceback" not in errors


def test_processes_that_do_not_find_each_other_are_refused(objects, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # In this process accelerate already runs alone.
    with pytest.raises(SettingsError, match="WORLD_SIZE is 2, but 1 processes found each other; start them with"):
        distributed.make_accelerator("cpu", bf16=False)
    with monkeypatch.context() as patch:
        patch.setenv("LOCAL_WORLD_SIZE", "2")
        patch.setattr(torch.accelerator, "is_available", lambda: True)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        with pytest.raises(SettingsError, match="2 processes for 1 GPU on this machine; start one process per GPU"):
            distributed.make_accelerator("auto", bf16=False)
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(SettingsError, match="WORLD_SIZE is 'many'"):
        distributed.make_accelerator("cpu", bf16=False)


def test_comparison_is_refused_under_several_processes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main.run(["compare", "c.toml", "-o", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == (
        "maskwise compare: this command runs in one process, but was started in 2 (WORLD_SIZE); start it without"
        " torchrun or accelerate launch\n"
    )
    assert not (tmp_path / "out").exists()
