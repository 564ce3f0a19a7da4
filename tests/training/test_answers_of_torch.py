"""What the predictor says, compared with torch on the same crops; and which storage `auto` chooses."""

import numpy as np
import pytest
import torch
from tiny_model import tiny_checkpoint, tiny_model

from maskwise import Mask, Predictor
from maskwise.training import exporting
from maskwise.training.checkpoint import load_checkpoint
from maskwise.training.exporting import load_network
from maskwise.training.holdout import HeldOutOutputs


def test_the_predictor_shows_the_network_what_torch_is_shown(tmp_path):
    """Red is far from blue in the image: swapped channels would change the answers."""
    path = tiny_model(tmp_path)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 90, (80, 100, 3), dtype=np.uint8)
    image[..., 0] += 150
    masks = [Mask.from_box(box, (80, 100)) for box in ((10, 5, 31, 22), (50, 40, 17, 35))]
    predictor = Predictor(path, mode="exact")
    network = load_network(load_checkpoint(tmp_path / "tiny-0.safetensors")).eval()
    expected = []
    for mask in masks:
        pixels, coverage = predictor.info.view.view(mask).render(image, mask)
        with torch.no_grad():
            logits = network(
                *(torch.from_numpy(array[None]) for array in (pixels, coverage)), torch.zeros(1, dtype=int)
            )
        expected.append(logits.numpy()[0])
    got = predictor.run(image, masks).logits
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
    swapped = predictor.run(np.ascontiguousarray(image[..., ::-1]), masks).logits
    assert np.abs(swapped - got).max() > 0.05


def outputs_with_accuracy(share):
    """Outputs for 1,000 regions of class 1 in a list of three; the share given is named rightly, the others class 2."""
    right = round(share * 1000)
    logits = torch.zeros(1000, 3)
    logits[:right, 1] = 1
    logits[right:, 2] = 1
    return HeldOutOutputs(logits, torch.ones(1000, dtype=torch.int64), torch.arange(1000), skipped=())


@pytest.mark.parametrize(("fp16", "int8", "chosen"), [(0.90, 0.80, "fp16"), (0.80, 0.90, "int8"), (0.9, 0.899, "int8")])
def test_auto_takes_8_bits_only_where_they_cost_little(tmp_path, monkeypatch, fp16, int8, chosen):
    checkpoint = load_checkpoint(tiny_checkpoint(tmp_path / "c.safetensors"))

    class Held:
        holdout = (0,)

        def with_holdout(self, numbers):
            return self

    accuracy = {"fp16": fp16, "int8": int8}
    monkeypatch.setattr(exporting, "read_data", lambda _data: Held())
    monkeypatch.setattr(exporting, "store_as_fp16", lambda *_: None)
    monkeypatch.setattr(exporting, "quantise_statically", lambda *_: None)
    monkeypatch.setattr(exporting, "quantise_dynamically", lambda *_: None)
    monkeypatch.setattr(
        exporting, "predict_holdout_with_graph", lambda path, *_: outputs_with_accuracy(accuracy[path.stem])
    )
    monkeypatch.setattr(exporting, "holdout_temperature", lambda *_: 1.0)
    stored = exporting._store(load_network(checkpoint), tmp_path / "plain.onnx", checkpoint, "auto")
    assert stored.storage == chosen
