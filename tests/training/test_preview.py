from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from maskwise import load_image
from maskwise.cli import main
from maskwise.errors import ModelError, SettingsError
from maskwise.reports.contact_sheet import Tile, make_contact_sheet
from maskwise.training import loop
from maskwise.training.builder import build_network
from maskwise.training.data import read_data
from maskwise.training.loop import train
from maskwise.training.preview import PICTURE, check_files, dry_run
from maskwise.training.settings import (
    DataSettings,
    NetworkSettings,
    RunSettings,
    ScheduleSettings,
    SourceSettings,
    TeacherSettings,
    TrainSettings,
    WindowSettings,
)
from maskwise.views.view import ViewSettings

WINDOW = {"window": WindowSettings(enabled=True, min_side=30, max_side=60, max_pixels=6000)}


def settings(folder, *, holdout=0.3, schedule=None, **more):
    defaults = {"steps": 5, "batch_size": 4, "average": 0.0, "precision": "float32"}
    return TrainSettings(
        network=NetworkSettings(trunk="test_resnet", merge="both"),
        data=DataSettings(
            data_root=str(folder),
            sources=(SourceSettings(images="images", annotations="annotations.json"),),
            holdout=holdout,
            workers=0,
        ),
        schedule=ScheduleSettings(**{**defaults, **(schedule or {})}),
        run=RunSettings(device="cpu", export="fp32"),
        **{"weights": "random", "view": ViewSettings(size=32), **more},
    )


@pytest.mark.parametrize("more", [{}, {**WINDOW, "view": ViewSettings(kind="whole")}], ids=["crops", "windows"])
def test_picture_shows_the_samples_of_the_first_steps(coco_folder, tmp_path, monkeypatch, more):
    run = settings(coco_folder, **more)
    seen = []
    step = loop.take_step
    monkeypatch.setattr(loop, "take_step", lambda state, batch: seen.append(batch) or step(state, batch))
    train(run, tmp_path / "run")
    split = read_data(run.data)
    tiles = []
    for batch in seen:
        for image, mask, target, number in zip(batch.images, batch.masks, batch.targets, batch.numbers, strict=True):
            size = f"{image.shape[1]} x {image.shape[0]} pixels"
            lines = (split.names[target], split.train[number].image_path.name, size)
            tiles.append(Tile(image.numpy(), mask.numpy(), lines))
    path, _ = dry_run(run, tmp_path / "dry")
    assert len(tiles) > 10
    np.testing.assert_array_equal(load_image(path), make_contact_sheet(tiles[:10]))


def test_dry_run_writes_only_the_picture(coco_folder, tmp_path):
    path, _ = dry_run(settings(coco_folder), tmp_path / "a" / "run")
    assert path == tmp_path / "a" / "run" / PICTURE
    assert [file.name for file in path.parent.iterdir()] == [PICTURE]


def test_lines_count_the_data_and_the_schedule(coco_folder, tmp_path):
    _, facts = dry_run(settings(coco_folder, holdout=0.0), tmp_path)
    assert facts[0] == "16 regions to train on, 0 held out; 2 classes; 8 images"
    assert facts[1] == "5 steps of 4 samples: 1.2 epochs of 16 samples"  # 20 / 16
    _, facts = dry_run(settings(coco_folder, view=ViewSettings(kind="whole"), **WINDOW), tmp_path)
    split = read_data(settings(coco_folder).data)
    assert f"{len(split.train)} regions to train on, {len(split.holdout)} held out" in facts[0]
    epochs = 20 / len(split.train)
    assert facts[1] == f"5 steps of at most 4 samples: at most {epochs:.1f} epochs of {len(split.train)} samples"


@pytest.mark.parametrize(
    ("schedule", "still"),
    [
        ({}, ()),
        ({"frozen": ("conv1", "layer1")}, ("trunk.conv1.", "trunk.layer1.")),
        ({"head_steps": 5}, ("trunk.", "branch.")),
    ],
)
def test_trained_parameters_are_counted(coco_folder, tmp_path, schedule, still):
    run = settings(coco_folder, schedule=schedule)
    network = build_network(run.network, classes=2, probe_size=32)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    learn = sum(size for name, size in sizes.items() if not name.startswith(still))
    _, facts = dry_run(run, tmp_path)
    assert facts[2:] == [f"{learn:,} of {sum(sizes.values()):,} parameters are trained"]


def test_class_without_training_regions_is_named(coco_folder, tmp_path):
    labels = np.zeros((48, 48), np.uint8)
    labels[:4] = 1
    source = SourceSettings(images="images", label_maps="maps", classes_file="classes.txt", min_area=1000)
    (coco_folder / "maps").mkdir()
    Image.fromarray(labels).save(coco_folder / "maps" / "000.png")
    (coco_folder / "classes.txt").write_text("ground\nsky\n")
    run = settings(coco_folder, holdout=0.0)
    run = replace(run, data=replace(run.data, sources=(*run.data.sources, source)))
    _, facts = dry_run(run, tmp_path)
    assert facts[-1] == "classes without a region to train on: sky"


def test_refuses_what_the_run_would_refuse(coco_folder, tmp_path):
    with pytest.raises(SettingsError, match="test_resnet has no 'layer9'"):
        dry_run(settings(coco_folder, schedule={"frozen": ("layer9",)}), tmp_path)
    assert not (tmp_path / PICTURE).exists()


# Weights and teacher.


def test_nothing_is_downloaded(coco_folder, tmp_path, monkeypatch):
    create = timm.create_model

    def offline(name, *, pretrained, **more):
        assert not pretrained
        return create(name, pretrained=False, **more)

    monkeypatch.setattr(timm, "create_model", offline)
    run = settings(coco_folder, weights="timm")
    assert dry_run(run, tmp_path)[0].is_file()
    check_files(run)


def test_weights_that_are_missing_or_do_not_fit_are_reported(coco_folder, tmp_path):
    run = settings(coco_folder, weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(ModelError, match=r"w\.safetensors: no such weights file"):
        check_files(run)
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"w\.safetensors: does not fit the trunk"):
        check_files(run)
    trunk = timm.create_model("test_resnet", num_classes=0)
    save_file(trunk.state_dict(), tmp_path / "w.safetensors")
    check_files(run)


def test_teacher_that_is_missing_is_reported(coco_folder, tmp_path):
    with pytest.raises(ModelError, match=r"none\.onnx"):
        check_files(settings(coco_folder, teacher=TeacherSettings(model=str(tmp_path / "none.onnx"))))


def test_command_draws_the_picture_and_then_says_what_is_missing(coco_folder, tmp_path, capsys):
    (tmp_path / "recipe.toml").write_text(f"""
weights = "{tmp_path}/none.safetensors"
[network]
trunk = "test_resnet"
[view]
size = 32
[data]
data_root = "{coco_folder}"
[[data.sources]]
images = "images"
annotations = "annotations.json"
""")
    args = ["train", str(tmp_path / "recipe.toml"), "-o", str(tmp_path / "run"), "--dry-run"]
    assert main.run(args) == 1
    said = capsys.readouterr()
    assert f"{tmp_path / 'run' / PICTURE}: what the network sees" in said.out
    assert "parameters are trained" in said.out
    assert "none.safetensors: no such weights file" in said.err
    assert [file.name for file in (tmp_path / "run").iterdir()] == [PICTURE]
    assert main.run([*args, "--weights", "random"]) == 0
    assert [file.name for file in (tmp_path / "run").iterdir()] == [PICTURE]
