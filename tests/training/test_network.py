import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from maskwise.errors import ModelError, SettingsError
from maskwise.training.builder import build_network
from maskwise.training.settings import NetworkSettings

STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4")
WIDTHS = (64, 256, 512, 1024, 2048)
SMALL_VIT = {"img_size": 64, "depth": 2}
SMALL_SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2)}


def build(*, classes=5, weights="random", seed=0, **settings):
    """Build a network in which only the branch is zero: new ResNets have zero residual paths."""
    torch.manual_seed(seed)
    settings = {"trunk": "resnet18", **settings}
    network = build_network(NetworkSettings(**settings), classes=classes, weights=weights, probe_size=64).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            # Untrained EfficientNets would fade out: their features shrink at every stage.
            module.running_var.fill_(1.0 if settings["trunk"].startswith("resnet") else 0.05)
    nn.init.normal_(network.head.weight)
    return network


def outline(**settings):
    """Build a network of names and shapes without values."""
    with torch.device("meta"):
        return build_network(NetworkSettings(**settings), classes=80, probe_size=64)


def samples(count=2, height=64, width=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(count, height, width, dtype=torch.uint8)
    for number in range(count):
        masks[number, 3 + 5 * number : height // 2, width // 3 :] = 255
    return images, masks


def logits(network, images, masks):
    with torch.no_grad():
        return network(images, masks)


def enliven(branch):
    for parameter in branch.parameters():
        nn.init.normal_(parameter, std=0.3)


# An untrained branch is the identity.


def assert_changes_nothing(**settings):
    steered = build(**settings)
    bare = build(**{**settings, "sites": ()})
    bare.trunk.load_state_dict(steered.trunk.state_dict())
    bare.head.load_state_dict(steered.head.state_dict())
    torch.testing.assert_close(logits(steered, *samples()), logits(bare, *samples()), rtol=0, atol=0)
    enliven(steered.branch)
    assert (logits(steered, *samples()) - logits(bare, *samples())).abs().max() > 1e-3


@pytest.mark.parametrize("merge", ["multiply", "add", "both"])
@pytest.mark.parametrize("sites", [("conv1",), ("layer2",), STAGES, ("input",), ("features",)])
def test_untrained_branch_changes_nothing(sites, merge):
    assert_changes_nothing(sites=sites, merge=merge)


@pytest.mark.parametrize(
    ("trunk", "options", "sites"),
    [
        ("resnet50", {}, ("conv1",)),
        ("convnext_atto", {}, ("stem", "stages.2")),
        ("efficientnet_b0", {}, ("conv_stem",)),
        ("vit_tiny_patch16_224", SMALL_VIT, ("patch_embed", "blocks.1")),
        ("swin_tiny_patch4_window7_224", SMALL_SWIN, ("patch_embed", "layers.1")),
    ],
)
def test_any_trunk_takes_the_branch(trunk, options, sites):
    assert_changes_nothing(trunk=trunk, trunk_options=options, sites=sites, merge="both")


# Masks that share an image.


@pytest.mark.parametrize("sites", [(), ("features",), ("conv1",), ("input", "layer2")])
def test_masks_that_share_an_image_get_the_logits_they_would_get_alone(sites):
    network = build(sites=sites, merge="both", pool="mask")
    enliven(network.branch)
    images, masks = samples(4)
    image_of = torch.tensor([1, 0, 1, 1])
    with torch.no_grad():
        together = network(images[:2], masks, image_of)
    torch.testing.assert_close(together, logits(network, images[image_of], masks), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("sites", "shares"), [((), True), (("features",), True), (("layer4",), False)])
def test_the_trunk_runs_once_per_image_if_no_mask_acts_inside_it(sites, shares):
    network = build(sites=sites)
    seen = []
    network.trunk.conv1.register_forward_hook(lambda _module, inputs, _features: seen.append(len(inputs[0])))
    images, masks = samples(3)
    with torch.no_grad():
        network(images[:1], masks, torch.zeros(3, dtype=torch.int64))
    assert network.shares == shares
    assert seen == [1 if shares else 3]


# Published variants.


@pytest.mark.parametrize("trunk", ["resnet50", "resnet101"])
def test_trunk_and_head_are_named_and_shaped_as_torchvisions(trunk):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, trunk)(num_classes=80).state_dict()
    ours = outline(trunk=trunk, sites=()).state_dict()
    assert {name.removeprefix("trunk.").replace("head.", "fc."): t.shape for name, t in ours.items()} == {
        name: t.shape for name, t in theirs.items()
    }


@pytest.mark.parametrize("merge", ["multiply", "add", "both"])
def test_branch_is_shaped_as_published(merge):
    network = outline(trunk="resnet50", sites=STAGES, merge=merge)
    kinds = ("multiply", "add") if merge == "both" else (merge,)
    expected = [
        entry
        for number, width in enumerate(WIDTHS)
        for kind in kinds
        for entry in ((f"{number}.{kind}.weight", (width, 1, 3, 3)), (f"{number}.{kind}.bias", (width,)))
    ]
    assert [(name, tuple(t.shape)) for name, t in network.branch.state_dict().items()] == expected


@pytest.mark.parametrize(
    ("settings", "trunk_count", "maps"),
    [
        ({"trunk": "resnet50", "sites": STAGES, "merge": "both"}, 23_508_032, 2 * sum(WIDTHS)),
        ({"trunk": "resnet50", "sites": ("conv1",), "merge": "multiply"}, 23_508_032, 64),
        ({"trunk": "resnet50", "sites": ("layer4",), "merge": "hard"}, 23_508_032, 0),
        ({"trunk": "resnet101", "sites": ("conv1",), "merge": "add", "branch_stride": 2}, 42_500_160, 64),
    ],
)
def test_parameters_count_up(settings, trunk_count, maps):
    """A map has 3 x 3 weights and a bias; the head has 2048 weights and a bias per class."""
    counted = sum(parameter.numel() for parameter in outline(**settings).parameters())
    assert counted == trunk_count + 10 * maps + 80 * 2049


def test_current_coco_net_starts_by_adding_ones():
    steered = build(sites=("conv1",), merge="add", initial="add_ones")
    assert (steered.branch[0].add.weight == 0).all()
    assert (steered.branch[0].add.bias == 1).all()
    bare = build(sites=())
    bare.load_state_dict(steered.state_dict(), strict=False)
    bare.trunk.conv1.register_forward_hook(lambda _module, _inputs, features: features + 1)
    torch.testing.assert_close(logits(steered, *samples()), logits(bare, *samples()), rtol=0, atol=0)


def test_ges_branch_reads_the_mask_at_full_size():
    network = build(sites=("conv1",), merge="add", branch_stride=2, initial="default")
    branch = network.branch[0].add
    assert branch.stride == (2, 2)
    assert branch.weight.abs().min() > 0
    images, masks = samples(1, 33, 47)
    masks[0, 20, 31] = 255
    seen = {}
    network.trunk.bn1.register_forward_hook(lambda _m, inputs, _out: seen.update(steered=inputs[0]))
    logits(network, images, masks)
    added = seen["steered"] - network.trunk.conv1(pixels_of(images))
    torch.testing.assert_close(added, branch(masks[:, None].float() / 255), atol=1e-4, rtol=1e-4)


def pixels_of(images, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)):
    """Normalise pixels by hand; the defaults are ImageNet's."""
    return torch.from_numpy((images.numpy() - np.array(mean)) / np.array(std)).float().permute(0, 3, 1, 2)


def bilinear(mask, height, width):
    """Resize one mask: pixel centres, no smoothing, edges repeated."""
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = np.clip((i + 0.5) * mask.shape[0] / height - 0.5, 0, mask.shape[0] - 1)
            x = np.clip((j + 0.5) * mask.shape[1] / width - 0.5, 0, mask.shape[1] - 1)
            top, left = int(y), int(x)
            below, right = min(top + 1, mask.shape[0] - 1), min(left + 1, mask.shape[1] - 1)
            upper = mask[top, left] * (1 - (x - left)) + mask[top, right] * (x - left)
            lower = mask[below, left] * (1 - (x - left)) + mask[below, right] * (x - left)
            out[i, j] = upper * (1 - (y - top)) + lower * (y - top)
    return out


@pytest.mark.parametrize("size", [(64, 64), (49, 75)])
@pytest.mark.parametrize("site", ["input", "conv1", "layer4"])
def test_hard_mask_blanks_features_at_its_site(site, size):
    network = build(sites=(site,), merge="hard")
    trunk = network.trunk
    assert not list(network.branch.parameters())
    images, masks = samples(1, *size)

    def blank(features):
        resized = bilinear(masks[0].numpy() / 255, *features.shape[2:])
        return features * torch.from_numpy(resized).float()

    with torch.no_grad():
        features = pixels_of(images)
        features = blank(features) if site == "input" else features
        features = trunk.conv1(features)
        features = blank(features) if site == "conv1" else features
        features = trunk.maxpool(trunk.bn1(features).relu())
        features = trunk.layer4(trunk.layer3(trunk.layer2(trunk.layer1(features))))
        features = blank(features) if site == "layer4" else features
        expected = features.mean(dim=(2, 3)) @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(logits(network, images, masks), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("normalisation", "constants"),
    [("published", ((123.68, 116.779, 103.939), (65, 65, 65))), ("trunk", ())],
)
def test_normalisation_reaches_the_pixels(normalisation, constants):
    network = build(sites=(), normalisation=normalisation)
    seen = []
    network.trunk.conv1.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    images, masks = samples()
    logits(network, images, masks)
    torch.testing.assert_close(seen[0], pixels_of(images, *constants), atol=1e-5, rtol=1e-5)


def test_stride_moves_into_the_1x1_convolution():
    stages = build(trunk="resnet50", stride_in_1x1=True, sites=()).trunk
    for stage in (stages.layer2, stages.layer3, stages.layer4):
        assert (stage[0].conv1.stride, stage[0].conv2.stride) == ((2, 2), (1, 1))
    plain = build(trunk="resnet50", sites=()).trunk
    assert (plain.layer2[0].conv1.stride, plain.layer2[0].conv2.stride) == ((1, 1), (2, 2))


# Laws of every network.


@pytest.mark.parametrize("pool", ["mean", "mask", "both"])
@pytest.mark.parametrize("trunk", ["resnet18", "convnext_atto"])
@pytest.mark.parametrize("size", [(64, 96), (75, 50), (131, 67)])
def test_whole_images_of_any_size_are_taken(trunk, pool, size):
    network = build(trunk=trunk, sites=("conv1",) if trunk == "resnet18" else ("stem",), pool=pool)
    enliven(network.branch)
    outputs = logits(network, *samples(2, *size))
    assert outputs.shape == (2, 5)
    assert outputs.isfinite().all()


@pytest.mark.parametrize("initial", ["identity", "add_ones", "default"])
@pytest.mark.parametrize("merge", ["multiply", "add", "both"])
def test_gradients_reach_every_weight_of_the_branch(merge, initial):
    network = build(sites=STAGES, merge=merge, initial=initial)
    network(*samples()).square().sum().backward()
    for name, parameter in network.branch.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("settings", [{"sites": ("conv1",), "merge": "both"}, {"sites": (), "pool": "mask"}])
def test_permuting_a_batch_permutes_the_logits(settings):
    network = build(**settings)
    enliven(network.branch)
    images, masks = samples(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    outputs = logits(network, images, masks)
    torch.testing.assert_close(logits(network, images[order], masks[order]), outputs[order], atol=1e-4, rtol=1e-4)


def test_mask_pool_is_the_mean_under_the_mask():
    network = build(sites=(), pool="mask")
    images, masks = samples(1, 80, 100)
    with torch.no_grad():
        features = network.trunk.forward_features(pixels_of(images))[0].numpy()
        pooled = network.embed(images, masks)[0].numpy()
    covered = masks[0].numpy() / 255
    weights = np.array([[covered[y : y + 32, x : x + 32].mean() for x in (0, 32, 64, 96)] for y in (0, 32, 64)])
    np.testing.assert_allclose(pooled, (features * weights).sum((1, 2)) / weights.sum(), atol=1e-3, rtol=1e-4)


def test_region_of_three_pixels_still_counts():
    network = build(sites=(), pool="mask")
    images, masks = samples(1)
    masks[:] = 0
    masks[0, 40, 50:53] = 255
    with torch.no_grad():
        features = network.trunk.forward_features(pixels_of(images))
        torch.testing.assert_close(network.embed(images, masks)[0], features[0, :, 1, 1], atol=1e-3, rtol=1e-4)


def test_both_pools_are_concatenated():
    network = build(sites=(), pool="both")
    parts = []
    for pool in ("mean", "mask", "both"):
        network.pool = pool
        with torch.no_grad():
            parts.append(network.embed(*samples()))
    torch.testing.assert_close(parts[2], torch.cat(parts[:2], dim=1))


def test_margin_that_a_trunk_drops_gets_the_nearest_features():
    """ConvNeXt has no features for the last rows of 75 x 50; a region there gets the last ones."""
    network = build(trunk="convnext_atto", sites=(), pool="mask")
    images, masks = samples(1, 75, 50)
    masks[:] = 0
    masks[0, 70:, 5:9] = 255
    with torch.no_grad():
        features = network.trunk.forward_features(pixels_of(images))
        torch.testing.assert_close(network.embed(images, masks)[0], features[0, :, 1, 0], atol=1e-3, rtol=1e-3)


def test_dropout_reaches_the_embedding_only_in_training():
    network = build(sites=(), dropout=0.5)
    assert (logits(network, *samples()) == logits(network, *samples())).all()
    network.train()
    assert (network.dropout(torch.ones(1000)) == 0).float().mean() == pytest.approx(0.5, abs=0.1)
    assert network.dropout.p == 0.5


# What is refused.


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"sites": ("layer9",)}, r"trunk resnet18 has no module 'layer9'; accepted are input, features, conv1, bn1"),
        ({"trunk": "resnet999"}, r"trunk 'resnet999' is not a model of timm"),
        ({"trunk_options": {"wings": 2}}, "resnet18 does not take trunk_options"),
        ({"sites": ("layer1",), "branch_stride": 2}, r"branch_stride 2 needs features at half .*; layer1 is at 1/4"),
        ({"stride_in_1x1": True}, "stride_in_1x1 needs a ResNet with bottlenecks, not resnet18"),
        ({"trunk": "vit_tiny_patch16_224", "sites": ()}, "cannot take images of 64 pixels"),
        ({"trunk": "vit_tiny_patch16_224", "trunk_options": SMALL_VIT, "sites": ("fc_norm",)}, "fc_norm"),
    ],
)
def test_refuses_settings_that_do_not_fit_the_trunk(settings, text):
    with pytest.raises(SettingsError, match=text):
        build(**settings)


def test_weights_come_from_a_file(tmp_path):
    source = build(sites=(), seed=1)
    tensors = {name.removeprefix("trunk."): t for name, t in source.state_dict().items() if name.startswith("trunk.")}
    save_file({**tensors, "fc.weight": torch.zeros(3, 512)}, tmp_path / "w.safetensors")
    loaded = build_network(
        NetworkSettings(trunk="resnet18"), classes=5, weights=str(tmp_path / "w.safetensors"), probe_size=64
    )
    for name, tensor in loaded.trunk.state_dict().items():
        torch.testing.assert_close(tensor, tensors[name], rtol=0, atol=0)


def test_float16_weights_are_read(tmp_path):
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in build(sites=()).trunk.state_dict().items()}
    save_file(tensors, tmp_path / "w.safetensors")
    assert build(weights=str(tmp_path / "w.safetensors")).trunk.conv1.weight.dtype == torch.float32


def test_refuses_weights_that_cannot_be_used(tmp_path):
    with pytest.raises(ModelError, match=r"none\.safetensors: no such weights file; give a safetensors file"):
        build(weights=str(tmp_path / "none.safetensors"))
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "pickle.safetensors")
    (tmp_path / "garbage.safetensors").write_bytes(bytes(range(256)))
    for name in ("pickle", "garbage"):
        with pytest.raises(ModelError, match=rf"{name}\.safetensors: is not a safetensors file"):
            build(weights=str(tmp_path / f"{name}.safetensors"))
    save_file({"conv1.weight": torch.zeros(1), "wings": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(
        ModelError, match=r"missing \['bn1.weight'.*unknown \['wings'\], wrong shape \['conv1.weight'\]"
    ):
        build(weights=str(tmp_path / "other.safetensors"))


def test_timms_weights_that_cannot_be_downloaded_are_named(monkeypatch):
    def offline(*_args, **_more):
        raise OSError("no route")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(
        ModelError, match=r"timm's pretrained weights of resnet18 cannot be downloaded .*no route.*--weights FILE"
    ):
        build(weights="timm")


def test_wrong_shape_is_caught_while_tests_run():
    network = build(sites=("conv1",))
    images, masks = samples()
    with pytest.raises(Exception, match=r"[Tt]ype-check"):
        network(images, masks[:, :32])
    with pytest.raises(Exception, match=r"[Tt]ype-check"):
        network(images.float(), masks)
