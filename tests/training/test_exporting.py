from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from timm.models.vision_transformer import LayerScale
from tiny_model import CATEGORIES, SETTINGS, tiny_checkpoint, tiny_model

from maskwise.errors import ModelError
from maskwise.model.model_file import graph_inputs
from maskwise.model.session import open_session
from maskwise.training import exporting
from maskwise.training.checkpoint import load_checkpoint
from maskwise.training.data import read_data
from maskwise.training.loop import load_network
from maskwise.training.settings import SourceSettings
from maskwise.views.view import ViewSettings


def views(count=5, height=64, width=64):
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    masks = np.zeros((count, height, width), dtype=np.uint8)
    masks[:, 10:30, 12:40] = 255
    return images, masks


def torch_logits(checkpoint, images, masks):
    with torch.no_grad():
        return load_network(load_checkpoint(checkpoint))(torch.from_numpy(images), torch.from_numpy(masks)).numpy()


@pytest.mark.parametrize(("storage", "close"), [("fp32", 1e-4), ("fp16", 2e-2)])
def test_model_file_gives_torchs_numbers_on_any_batch(tmp_path, storage, close):
    checkpoint = tiny_checkpoint(tmp_path / "c.safetensors")
    report = exporting.export_model(checkpoint, tmp_path / "m.onnx", storage)
    assert report.storage == storage
    session, _ = open_session(tmp_path / "m.onnx")
    for count in (1, 5):
        images, masks = views(count)
        logits, embeddings = session.run(None, graph_inputs(images, masks))
        np.testing.assert_allclose(logits, torch_logits(checkpoint, images, masks), atol=close * np.abs(logits).max())
        assert embeddings.shape[0] == count


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_storage_of_the_settings_is_the_default(tmp_path, storage):
    checkpoint = tiny_checkpoint(
        tmp_path / "c.safetensors", replace(SETTINGS, run=replace(SETTINGS.run, export=storage))
    )
    assert exporting.export_model(checkpoint, tmp_path / "m.onnx").storage == storage


def test_whole_image_model_takes_any_size(tmp_path):
    settings = replace(SETTINGS, view=ViewSettings(kind="whole"))
    checkpoint = tiny_checkpoint(tmp_path / "c.safetensors", settings)
    exporting.export_model(checkpoint, tmp_path / "m.onnx", "fp32")
    session, _ = open_session(tmp_path / "m.onnx")
    for height, width in ((64, 96), (111, 70)):
        images, masks = views(2, height, width)
        got = session.run(["logits"], graph_inputs(images, masks))[0]
        np.testing.assert_allclose(got, torch_logits(checkpoint, images, masks), rtol=1e-3, atol=1e-4)


def test_scales_of_a_vits_blocks_become_part_of_the_layers_before_them(tmp_path):
    vit = {"trunk": "vit_tiny_patch16_224", "trunk_options": {"img_size": 64, "depth": 2, "init_values": 0.3}}
    settings = replace(SETTINGS, network=replace(SETTINGS.network, sites=("features",), **vit))
    network = load_network(load_checkpoint(tiny_checkpoint(tmp_path / "c.safetensors", settings)))
    folded, (images, masks) = exporting.fold_layer_scales(network), map(torch.from_numpy, views())
    scales = [sum(isinstance(module, LayerScale) for module in one.modules()) for one in (network, folded)]
    assert scales == [4, 0]
    with torch.no_grad():
        torch.testing.assert_close(folded(images, masks), network(images, masks), rtol=1e-4, atol=1e-5)


def test_metadata_has_everything_that_prediction_needs(tmp_path):
    _, info = open_session(tiny_model(tmp_path))
    assert info.categories == CATEGORIES
    assert info.view == SETTINGS.view
    assert info.temperature == 2.0
    assert info.name == "tiny"
    assert info.training["regions_train"] == 3


def test_model_file_names_no_folder_of_the_machine(tmp_path):
    content = tiny_model(tmp_path).read_bytes()
    for trace in (b"export.py", b"network.py", b"site-packages", str(tmp_path).encode()):
        assert trace not in content


def test_refuses_a_graph_with_other_numbers_and_writes_nothing(tmp_path, monkeypatch):
    written = exporting._write_graph

    def spoil(network, checkpoint, path):
        written(network, checkpoint, path)
        network.head.weight.data.add_(1.0)

    monkeypatch.setattr(exporting, "_write_graph", spoil)
    with pytest.raises(ModelError, match="differ from torch's"):
        exporting.export_model(tiny_checkpoint(tmp_path / "c.safetensors"), tmp_path / "m.onnx", "fp32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.safetensors"]


def test_fp16_takes_half_the_space(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "c.safetensors")
    sizes = {s: exporting.export_model(checkpoint, tmp_path / f"{s}.onnx", s).megabytes for s in ("fp32", "fp16")}
    assert sizes["fp16"] < 0.75 * sizes["fp32"]


def test_refuses_what_is_no_checkpoint(tmp_path):
    (tmp_path / "c.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelError, match="not a safetensors file"):
        exporting.export_model(tmp_path / "c.safetensors", tmp_path / "m.onnx", "fp32")


def on_two_objects(coco_folder, **network):
    source = SourceSettings(images="images", annotations="annotations.json")
    data = replace(SETTINGS.data, data_root=str(coco_folder), sources=(source,), holdout=0.5)
    split = read_data(data)
    assert split.train
    assert split.holdout
    return replace(SETTINGS, data=data, network=replace(SETTINGS.network, **network))


def test_int8_is_calibrated_on_training_regions_and_measured_on_the_held_out_set(tmp_path, coco_folder):
    checkpoint = tiny_checkpoint(tmp_path / "c.safetensors", on_two_objects(coco_folder))
    report = exporting.export_model(checkpoint, tmp_path / "m.onnx", "int8")
    assert report.storage == "int8"
    assert report.accuracies.keys() == {"fp16", "int8"}
    onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])


def test_int8_takes_less_space_than_fp16_in_vits_too(tmp_path, coco_folder):
    vit = {"trunk": "vit_tiny_patch16_224", "trunk_options": {"img_size": 64, "depth": 2}, "sites": ("blocks.0",)}
    checkpoint = tiny_checkpoint(tmp_path / "c.safetensors", on_two_objects(coco_folder, **vit))
    sizes = {s: exporting.export_model(checkpoint, tmp_path / f"{s}.onnx", s).megabytes for s in ("int8", "fp16")}
    assert sizes["int8"] < 0.7 * sizes["fp16"]


def test_int8_of_a_transformer_has_nearly_the_logits_of_float(tmp_path, coco_folder):
    vit = {"trunk": "vit_tiny_patch16_224", "trunk_options": {"img_size": 64, "depth": 2}, "sites": ("features",)}
    checkpoint = tiny_checkpoint(tmp_path / "c.safetensors", on_two_objects(coco_folder, **vit))
    exporting.export_model(checkpoint, tmp_path / "m.onnx", "int8")
    session, info = open_session(tmp_path / "m.onnx")
    assert info.shares
    images, masks = views(3)
    got = session.run(["logits"], graph_inputs(images, masks))[0]
    expected = torch_logits(checkpoint, images, masks)
    assert 0 < np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
