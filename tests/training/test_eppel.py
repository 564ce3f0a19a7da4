"""Published weight files, made here from plain torch definitions that follow the publications, not our code."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from maskwise.errors import ModelError, SettingsError
from maskwise.model.model_file import graph_inputs
from maskwise.model.session import open_session
from maskwise.training.eppel import import_weights
from maskwise.training.exporting import export_model
from maskwise.training.loop import load_network

WIDTHS = (64, 256, 512, 1024, 2048)


class Published(nn.Module):
    """Trunk `Net` and a branch with the name and the merge of one release."""

    def __init__(self, trunk, classes, sites, merge, layer):
        super().__init__()
        self.Net = getattr(torchvision.models, trunk)(num_classes=classes)
        self.sites, self.merge, self.layer = sites, merge, layer
        stride = 2 if layer == "AttentionROI" else 1
        kinds = 2 if merge == "both" else 1
        convolutions = [nn.Conv2d(1, width, 3, stride, 1) for width in WIDTHS[:sites] for _ in range(kinds)]
        if layer == "ValeLayers":
            self.ValeLayers = nn.ModuleList(convolutions)
        else:
            setattr(self, layer, convolutions[0])

    def steer(self, x, mask, site):
        if site >= self.sites:
            return x
        if self.layer == "AttentionROI":
            return x + self.AttentionROI(mask)
        small = F.interpolate(mask, x.shape[-2:], mode="bilinear", align_corners=False)
        if self.layer == "Attentionlayer":
            return x + self.Attentionlayer(small)
        if self.merge == "both":
            return x * self.ValeLayers[2 * site](small) + self.ValeLayers[2 * site + 1](small)
        return x * self.ValeLayers[site](small) if self.merge == "multiply" else x + self.ValeLayers[site](small)

    def forward(self, images, masks):
        pixels = (images.permute(0, 3, 1, 2).float() - torch.tensor([123.68, 116.779, 103.939]).view(3, 1, 1)) / 65
        mask = (masks > 0).float()[:, None]
        net = self.Net
        x = self.steer(net.conv1(pixels), mask, 0)
        x = net.maxpool(net.relu(net.bn1(x)))
        for site, stage in enumerate((net.layer1, net.layer2, net.layer3, net.layer4), start=1):
            x = self.steer(stage(x), mask, site)
        return net.fc(x.mean(dim=(2, 3)))


RELEASES = {
    "COCO, README": ("resnet50", 80, 5, "both", "ValeLayers"),
    "COCO, first": ("resnet50", 80, 1, "multiply", "ValeLayers"),
    "COCO, current": ("resnet50", 80, 1, "add", "Attentionlayer"),
    "materials": ("resnet50", 44, 1, "add", "ValeLayers"),
    "GES": ("resnet101", 205, 1, "add", "AttentionROI"),
    "compared": ("resnet50", 80, 5, "add", "ValeLayers"),
}


def published(release, seed=0):
    torch.manual_seed(seed)
    network = Published(*RELEASES[release]).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 0.6)
            module.running_mean.normal_(std=0.1)
    for name, parameter in network.named_parameters():
        if not name.startswith("Net."):
            nn.init.normal_(parameter, mean=0.3, std=0.1)
    return network


def views(height, width, seed=0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((2, height, width), dtype=np.uint8)
    masks[0, 5 : height // 2, 7:50] = 255
    masks[1, 20:, : width // 2] = 255
    return rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8), masks


def merge_to_give(release):
    _, _, _, merge, layer = RELEASES[release]
    return merge if layer == "ValeLayers" and merge != "both" else None


@pytest.mark.parametrize("release", RELEASES)
def test_imported_network_gives_the_authors_logits_on_any_size(release, tmp_path):
    theirs = published(release)
    torch.save(theirs.state_dict(), tmp_path / "weights.torch")
    checkpoint = import_weights(tmp_path / "weights.torch", merge=merge_to_give(release))
    checkpoint.save(tmp_path / "ours.safetensors")
    ours = load_network(checkpoint)
    for height, width in ((64, 64), (97, 150), (160, 131)):
        images, masks = (torch.from_numpy(array) for array in views(height, width))
        with torch.no_grad():
            expected, got = theirs(images, masks), ours(images, masks)
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("release", ["COCO, README", "COCO, current", "GES"])
def test_its_model_file_gives_the_authors_logits_too(release, tmp_path):
    theirs = published(release)
    torch.save(theirs.state_dict(), tmp_path / "weights.torch")
    import_weights(tmp_path / "weights.torch").save(tmp_path / "ours.safetensors")
    export_model(tmp_path / "ours.safetensors", tmp_path / "ours.onnx", "fp32")
    session, info = open_session(tmp_path / "ours.onnx")
    assert (info.view.kind, info.temperature) == ("whole", 1.0)
    for height, width in ((64, 96), (161, 130)):
        images, masks = views(height, width)
        with torch.no_grad():
            expected = theirs(torch.from_numpy(images), torch.from_numpy(masks)).numpy()
        got = session.run(["logits"], graph_inputs(images, masks))[0]
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_files_from_before_torch_counted_batches_are_read(tmp_path):
    tensors = {k: v for k, v in published("COCO, first").state_dict().items() if not k.endswith("tracked")}
    torch.save(tensors, tmp_path / "old.torch", _use_new_zipfile_serialization=False)
    load_network(import_weights(tmp_path / "old.torch", merge="multiply"))


def test_classes_are_numbered_or_named(tmp_path):
    torch.save(published("materials").state_dict(), tmp_path / "w.torch")
    assert import_weights(tmp_path / "w.torch", merge="add").categories[43].name == "class 43"
    names = tuple(f"material {n}" for n in range(44))
    assert import_weights(tmp_path / "w.torch", names=names, merge="add").categories[7].name == "material 7"
    with pytest.raises(ModelError, match="has 44 classes, but 3 names were given"):
        import_weights(tmp_path / "w.torch", names=names[:3], merge="add")


def test_merge_is_required_if_the_file_does_not_say_it_and_refused_if_it_does(tmp_path):
    torch.save(published("materials").state_dict(), tmp_path / "w.torch")
    with pytest.raises(SettingsError, match="multiplies or adds; give --merge"):
        import_weights(tmp_path / "w.torch")
    for release in ("COCO, README", "COCO, current", "GES"):
        torch.save(published(release).state_dict(), tmp_path / "w.torch")
        for merge in ("multiply", "add"):
            with pytest.raises(SettingsError, match="do not give merge"):
                import_weights(tmp_path / "w.torch", merge=merge)


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


@pytest.mark.parametrize(
    "write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_nothing_but_tensors_is_unpickled(tmp_path, write):
    write({"Net.conv1.weight": Trap()}, tmp_path / "trap.torch")
    with pytest.raises(ModelError, match=r"trap\.torch: is not a file of tensors only"):
        import_weights(tmp_path / "trap.torch")


def test_other_layouts_are_refused_with_what_was_expected_and_found(tmp_path):
    good = published("COCO, current").state_dict()
    branch = {name: t for name, t in good.items() if not name.startswith("Net.")}
    cases = {
        "another branch": ({**good, "Extra.weight": torch.ones(3)}, r"Expected Net\.conv1.*Found 320 .* and 3 others"),
        "no branch": ({k: v for k, v in good.items() if k not in branch}, "0 others: none"),
        "a part": ({k: v for k, v in good.items() if "layer4.2.conv3" not in k}, "missing .*layer4.2.conv3.weight"),
        "wide": ({**good, "Attentionlayer.weight": torch.ones(32, 1, 3, 3)}, r"wrong shape .*\(32, 1, 3, 3\)"),
        "no head": ({k: v for k, v in good.items() if "fc" not in k}, r"missing .*head"),
        "scalar": ({**good, "Attentionlayer.weight": torch.ones(())}, "wrong shape"),
        "numbered": ({0: torch.ones(1)}, "not a dictionary of tensors"),
        "nested": ({"state_dict": good}, "not a dictionary of tensors"),
    }
    for name, (content, match) in cases.items():
        torch.save(content, tmp_path / "w.torch")
        with pytest.raises(ModelError, match=match):
            pytest.fail(f"{name}: {import_weights(tmp_path / 'w.torch')}")
    for content in (b"", b"not a zip", b".", b"\x80\x02(X"):
        (tmp_path / "w.torch").write_bytes(content)
        with pytest.raises(ModelError, match="is not a file of tensors"):
            import_weights(tmp_path / "w.torch")
    with pytest.raises(ModelError, match="no such weights file"):
        import_weights(tmp_path / "nowhere.torch")


def test_command_makes_a_checkpoint_that_export_takes(tmp_path):
    torch.save(published("materials").state_dict(), tmp_path / "w.torch")
    command = [
        sys.executable,
        "-m",
        "maskwise",
        "import-eppel",
        str(tmp_path / "w.torch"),
        "-o",
        str(tmp_path / "c.st"),
    ]
    done = subprocess.run([*command, "--merge", "add"], capture_output=True, text=True, check=True)
    assert "resnet50, add at conv1, 44 classes, numbered" in done.stdout
    failed = subprocess.run([*command[:4], str(tmp_path / "x"), "-o", "y"], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
