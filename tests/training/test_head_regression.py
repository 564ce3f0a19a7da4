"""Networks whose head is fitted by logistic regression to pooled layers of one or two crops."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_model import CATEGORIES, SETTINGS, tiny_checkpoint

from maskwise import Predictor, load_image
from maskwise.data.coco_regions import regions_from_coco
from maskwise.errors import SettingsError
from maskwise.model.model_file import graph_inputs
from maskwise.model.session import open_session
from maskwise.tasks.evaluation import evaluate
from maskwise.training import exporting
from maskwise.training.batches import Sample, collate
from maskwise.training.builder import build_network
from maskwise.training.checkpoint import load_checkpoint
from maskwise.training.data import TrainingRegions, UnaugmentedRegions, read_data
from maskwise.training.holdout import HeldOutOutputs, predict_holdout, split_known
from maskwise.training.loop import FINAL, load_network, train
from maskwise.training.settings import AugmentSettings, DataSettings, NetworkSettings, SourceSettings, TrainSettings
from maskwise.views.view import ViewSettings
from two_objects import write_two_objects

VIT = NetworkSettings(trunk="vit_tiny_patch16_224", trunk_options={"img_size": 64, "depth": 3}, sites=(), pool="layers")
TWO_CROPS = ViewSettings(size=64, context=1.2, min_side=8, wide_context=3.0, wide_min_side=16)


def seeded_network(crops=1, network=VIT):
    torch.manual_seed(0)
    built = build_network(network, classes=3, probe_size=64, crops=crops).eval()
    torch.nn.init.normal_(built.head.weight)
    torch.nn.init.normal_(built.head.bias)
    return built


def images_and_masks(count=4):
    rng = np.random.default_rng(1)
    images = torch.from_numpy(rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8))
    masks = torch.zeros(count, 64, 64, dtype=torch.uint8)
    for number in range(count):
        masks[number, 3 + number : 40, 20 : 30 + 5 * number] = 255
    return images, masks


def test_embeddings_are_means_class_token_and_maximum_of_the_last_blocks():
    """Worked out patch by patch with NumPy from the features of the two last blocks."""
    network = seeded_network()
    images, masks = images_and_masks(2)
    masks[1] = 0
    masks[1, 50:54, 50:54] = 255  # Covers a sixteenth of one patch of 16 x 16.
    pixels = (images.permute(0, 3, 1, 2).float() - network.mean_rgb) / network.std_rgb
    with torch.no_grad():
        got = network.embed(images, masks).numpy()
        layers = network.trunk.forward_intermediates(
            pixels, indices=2, norm=True, return_prefix_tokens=True, intermediates_only=True
        )
        final = network.trunk.forward_features(pixels).numpy()
    for number in range(2):
        share = masks[number].numpy().reshape(4, 16, 4, 16).mean(axis=(1, 3)) / 255
        means = [np.average(one[number].numpy().reshape(192, 16), axis=1, weights=share.ravel()) for one, _ in layers]
        covered = share >= min(0.3, share.max())
        maximum = final[number, 1:].reshape(4, 4, 192)[covered].max(axis=0)
        expected = np.concatenate([*means, final[number, 0], maximum])
        np.testing.assert_allclose(got[number], expected, atol=1e-4)


def test_masks_of_one_crop_share_a_pass_of_the_trunk():
    network = seeded_network()
    images, masks = images_and_masks()
    alone = network.embed(images[[1, 1, 0, 1]], masks)
    shared = network.embed(images[:2], masks, torch.tensor([1, 1, 0, 1]))
    torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-5)
    assert network.shares


def test_each_crop_has_its_columns_of_the_head_and_its_own_scale():
    network = seeded_network(crops=2)
    network.embedding_mean.copy_(torch.tensor([1.0, 3.0])[:, None].expand_as(network.embedding_mean))
    network.embedding_std.copy_(torch.tensor([2.0, 5.0])[:, None].expand_as(network.embedding_std))
    plain = seeded_network()
    images, masks = images_and_masks()
    with torch.no_grad():
        raw = plain.embed(images, masks).numpy()
        got = network(images, masks, None, torch.tensor([0, 1, 1, 0])).numpy()
        weight, bias = network.head.weight.numpy(), network.head.bias.numpy()
    width = raw.shape[1]
    for number, crop in enumerate([0, 1, 1, 0]):
        standard = (raw[number] - (1, 3)[crop]) / (2, 5)[crop]
        expected = weight[:, crop * width : (crop + 1) * width] @ standard + bias / 2
        np.testing.assert_allclose(got[number], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("storage", ["fp32", "int8"])
def test_model_file_of_two_crops_gives_torchs_numbers(tmp_path, storage, coco_folder):
    source = SourceSettings(images=str(coco_folder / "images"), annotations=str(coco_folder / "annotations.json"))
    data = DataSettings(sources=(source,), holdout=0.5, workers=0)
    settings = replace(SETTINGS, network=VIT, view=TWO_CROPS, data=data)
    checkpoint = tiny_checkpoint(tmp_path / "c.safetensors", settings)
    exporting.export_model(checkpoint, tmp_path / "m.onnx", storage)
    session, info = open_session(tmp_path / "m.onnx")
    assert info.view == TWO_CROPS
    images, masks = images_and_masks()
    crop_of = np.array([1, 0, 0, 1])
    logits, embeddings = session.run(None, graph_inputs(images.numpy(), masks.numpy(), crop_of=crop_of))
    network = load_network(load_checkpoint(checkpoint))
    with torch.no_grad():
        expected = network(images, masks, None, torch.from_numpy(crop_of)).numpy()
    close = {"fp32": 1e-3, "int8": 0.2}[storage]
    np.testing.assert_allclose(logits, expected, atol=close * np.abs(expected).max())
    assert embeddings.shape == (4, 4 * 192)
    assert logits.shape == (4, len(CATEGORIES))


@pytest.fixture
def settings(tmp_path):
    folder = write_two_objects(tmp_path / "coco", images=16)
    source = SourceSettings(images=str(folder / "images"), annotations=str(folder / "annotations.json"))
    augment = AugmentSettings(mask_jitter=0.5)
    schedule = replace(
        SETTINGS.schedule, steps=0, head_c=1.0, head_copies=1, batch_size=4, average=0.0, precision="float32"
    )
    return TrainSettings(
        network=VIT,
        weights="random",
        view=TWO_CROPS,
        data=DataSettings(sources=(source,), holdout=0.3, workers=0),
        augment=augment,
        schedule=schedule,
        run=replace(SETTINGS.run, export="fp32"),
    )


def test_a_head_fitted_to_a_random_trunk_names_objects_of_other_images(settings, tmp_path):
    """Colour and shape survive random weights; every region has two crops, from the training data to the model file."""
    final = train(settings, tmp_path / "run")
    record = load_checkpoint(final).record
    assert record["head_regions"] == 2 * record["regions_train"]
    exporting.export_run(final)
    others = write_two_objects(tmp_path / "others", images=10, seed=1)
    regions = regions_from_coco(others / "annotations.json", others / "images")
    report = evaluate(Predictor(tmp_path / "run" / "model.onnx", mode="exact"), regions).report
    assert report.micro == 1.0
    embedded = load_network(load_checkpoint(tmp_path / "run" / FINAL))
    assert not torch.equal(embedded.embedding_std, torch.ones_like(embedded.embedding_std))


def test_embeddings_of_an_interrupted_run_are_kept(settings, tmp_path, monkeypatch):
    first = load_checkpoint(train(settings, tmp_path / "run"))
    monkeypatch.setattr("maskwise.training.head_regression._embed", None)  # Would fail if called.
    second = load_checkpoint(train(settings, tmp_path / "run"))
    for name, tensor in first.weights.items():
        assert torch.equal(second.weights[name], tensor), name


def test_training_goes_on_from_the_fitted_head(settings, tmp_path):
    """A step later the head still names everything; both crops of a region give one loss."""
    longer = replace(settings, schedule=replace(settings.schedule, steps=2, warmup_steps=1, lr_new=1e-5, lr_trunk=1e-6))
    final = load_checkpoint(train(longer, tmp_path / "run"))
    assert final.step == 2
    assert final.record["holdout_accuracy"] == 1.0


def test_held_out_logits_are_the_sum_over_both_crops(settings):
    split = read_data(settings.data)
    network = seeded_network(crops=2)
    outputs = predict_holdout(network, split, settings)
    plain = UnaugmentedRegions(split.holdout, TWO_CROPS, split.categories)
    for number, logits in enumerate(outputs.logits):
        sample = plain[number]
        pixels, coverage = zip((sample.pixels, sample.coverage), sample.wide, strict=True)
        images, masks = (torch.from_numpy(np.stack(one)) for one in (pixels, coverage))
        with torch.no_grad():
            both = network(images, masks, None, torch.tensor([0, 1]))
        torch.testing.assert_close(logits, both.sum(dim=0), rtol=1e-3, atol=1e-3)


def test_copies_mirror_both_crops_or_none(settings):
    """The wide crop of a mirrored copy shows the same side of the object."""
    plain = replace(
        settings,
        augment=AugmentSettings(
            flip=0.5, scale=(1.0, 1.0), shift=0.0, mask_jitter=0.0, brightness=0, contrast=0, saturation=0
        ),
    )
    split = read_data(plain.data)
    samples, unaugmented = TrainingRegions(split, plain), UnaugmentedRegions(split.train, TWO_CROPS, split.categories)
    seen = set()
    for seed in range(12):
        copy, original = samples.augmented(3, np.random.default_rng(seed)), unaugmented[3]
        mirrored = not np.array_equal(copy.pixels, original.pixels)
        step = -1 if mirrored else 1
        np.testing.assert_array_equal(copy.pixels[:, ::step], original.pixels)
        np.testing.assert_array_equal(copy.wide[0][:, ::step], original.wide[0])
        np.testing.assert_array_equal(copy.wide[1][:, ::step], original.wide[1])
        seen.add(mirrored)
    assert seen == {True, False}


def test_a_batch_has_first_all_narrow_crops_and_then_all_wide_ones():
    def sample(number):
        pixels, coverage = np.full((4, 4, 3), number, np.uint8), np.full((4, 4), number, np.uint8)
        return Sample(pixels, coverage, number, 10 + number, wide=(pixels + 100, coverage + 50))

    batch = collate([sample(1), sample(2)])
    assert batch.images[:, 0, 0, 0].tolist() == [1, 2, 101, 102]
    assert batch.masks[:, 0, 0].tolist() == [1, 2, 51, 52]
    assert batch.image_of.tolist() == [0, 1, 2, 3]
    assert batch.crop_of.tolist() == [0, 0, 1, 1]
    assert batch.targets.tolist() == [1, 2]
    assert batch.add_crops(torch.tensor([[1.0], [2.0], [10.0], [20.0]])).tolist() == [[11.0], [22.0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": replace(VIT, pool="mask")}, "head_c needs network.pool 'layers'"),
        ({"data": DataSettings(regions_per_view=2)}, "wide_context gives every region a second crop"),
        ({"augment": AugmentSettings(blank=0.1)}, "wide_context gives every region a second crop"),
        ({"schedule": replace(SETTINGS.schedule, steps=0)}, "nothing would be trained"),
        ({"schedule": replace(SETTINGS.schedule, steps=-1)}, "must be 0 or more"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(changes, message):
    fields = {"network": VIT, "view": TWO_CROPS, "schedule": replace(SETTINGS.schedule, steps=0, head_c=1.0), **changes}
    with pytest.raises(SettingsError, match=message):
        TrainSettings(**fields)


def test_pooled_layers_need_a_vit_without_sites():
    for wrong in (replace(VIT, sites=("features",)), NetworkSettings(trunk="resnet18", sites=(), pool="layers")):
        with pytest.raises(SettingsError, match="pool 'layers' needs a ViT"):
            build_network(wrong, classes=2, probe_size=64)


def write_nothing(folder):
    """A COCO file with a square of plain ground in every image."""
    content = json.loads((folder / "annotations.json").read_text())
    annotations = []
    for image in content["images"]:
        boxes = np.array([a["bbox"] for a in content["annotations"] if a["image_id"] == image["id"]])
        places = [(x, y) for y in range(0, 38, 2) for x in range(0, 38, 2)]
        free = [(x, y) for x, y in places if not np.any((boxes[:, 0] < x + 10) & (boxes[:, 0] + boxes[:, 2] > x)
                & (boxes[:, 1] < y + 10) & (boxes[:, 1] + boxes[:, 3] > y))]  # fmt: skip
        x, y = free[len(free) // 2]
        annotations.append(
            {"id": len(annotations) + 1, "image_id": image["id"], "category_id": 1, "bbox": [x, y, 10, 10]}
        )
    content |= {"annotations": annotations, "categories": [{"id": 1, "name": "ground"}]}
    (folder / "nothing.json").write_text(json.dumps(content))
    return folder / "nothing.json"


def test_a_model_learns_to_say_none_of_these(settings, tmp_path):
    """From the training data to the model file: plain ground is none of the classes, objects of other images are."""
    folder = tmp_path / "coco"
    nothing = SourceSettings(images=str(folder / "images"), annotations=str(write_nothing(folder)))
    data = replace(settings.data, nothing=(nothing,))
    final = train(replace(settings, data=data), tmp_path / "run")
    record = load_checkpoint(final).record
    assert 0 < record["head_nothing"] < 16  # Without those of the images that are held out.
    exporting.export_run(final)
    others = write_two_objects(tmp_path / "others", images=10, seed=1)
    predictor = Predictor(tmp_path / "run" / "model.onnx", mode="exact")
    assert predictor.info.min_known == pytest.approx(record["min_known"], abs=1e-6)
    assert [category.name for category in predictor.info.categories] == ["square", "disc"]
    ground = regions_from_coco(write_nothing(others), others / "images")
    objects = regions_from_coco(others / "annotations.json", others / "images")
    said = [
        [predictor.predict(load_image(one.image_path), [one.read_mask()])[0].is_none for one in regions.regions]
        for regions in (objects, ground)
    ]
    assert np.mean(said[0]) < 0.2
    assert np.mean(said[1]) > 0.8


def test_the_limit_keeps_97_of_a_hundred_held_out_regions():
    logits = torch.cat([torch.zeros(100, 2), torch.logit(torch.arange(1, 101) / 101)[:, None]], dim=1)
    numbers = torch.arange(100)
    outputs, limit = split_known(HeldOutOutputs(logits, numbers, numbers, ()), classes=2)
    assert outputs.logits.shape == (100, 2)
    assert (torch.arange(1, 101) / 101 >= limit).sum() == 97
    assert split_known(outputs, classes=2) == (outputs, None)


def test_nothing_is_learned_by_the_regression_alone(settings):
    with pytest.raises(SettingsError, match=r"data\.nothing needs schedule\.head_c"):
        replace(
            settings,
            data=replace(settings.data, nothing=(SourceSettings(images="a", annotations="b.json"),)),
            schedule=replace(settings.schedule, head_c=0.0, steps=3),
        )
