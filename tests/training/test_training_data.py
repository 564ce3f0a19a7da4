import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from maskwise.data.images import load_image
from maskwise.data.regions import Category
from maskwise.errors import AnnotationError, MaskError, SettingsError
from maskwise.training.batches import NO_CLASS, ExtraRegion, Sample, collate
from maskwise.training.data import (
    ResumableBatchSampler,
    SampleRequest,
    TrainingRegions,
    UnaugmentedRegions,
    batch_shape,
    read_data,
    read_source,
)
from maskwise.training.settings import (
    AugmentSettings,
    DataSettings,
    NetworkSettings,
    ScheduleSettings,
    SourceSettings,
    TrainSettings,
    WindowSettings,
)
from maskwise.views.view import PADDING_RGB, ViewSettings
from two_objects import write_two_objects

COCO = SourceSettings(images="images", annotations="annotations.json")
STILL = AugmentSettings(
    flip=0, scale=(1.0, 1.0), shift=0, brightness=0, contrast=0, saturation=0, mask_jitter=0
)  # No augmentation.


def data(folder, *sources, **more):
    return DataSettings(data_root=str(folder), sources=sources or (COCO,), workers=0, **more)


def run(folder, *, holdout=0.0, class_power=0.5, image_first=False, **more):
    settings = data(folder, holdout=holdout, class_power=class_power, image_first=image_first)
    return TrainSettings(**{"data": settings, "view": ViewSettings(size=32), **more})


def edit(folder, change):
    content = json.loads((folder / "annotations.json").read_text())
    change(content)
    (folder / "annotations.json").write_text(json.dumps(content))


@pytest.fixture
def label_maps(coco_folder):
    """Label maps beside the COCO file: 0 background, 1 tyre, 2 disc."""
    for name in ("maps", "photos"):
        (coco_folder / name).mkdir()
    labels = np.zeros((40, 50), np.uint8)
    labels[5:10, 5:10], labels[20:30, 20:30] = 1, 2
    Image.fromarray(labels).save(coco_folder / "maps" / "m.png")
    Image.new("RGB", (50, 40)).save(coco_folder / "photos" / "m.jpg")
    (coco_folder / "classes.txt").write_text("background\ntyre\ndisc\n")
    return SourceSettings(images="photos", label_maps="maps", classes_file="classes.txt", ignore=("background",))


# Reading.


def test_classes_with_the_same_name_become_one_class(coco_folder, label_maps):
    split = read_data(data(coco_folder, COCO, replace(label_maps, rename={"tyre": "ring"}), holdout=0.0))
    assert split.categories == (Category(3, "square"), Category(7, "disc"), Category(1, "ring"))
    assert Counter(region.name for region in split.train) == {"square": 8, "disc": 9, "ring": 1}


def test_class_whose_id_is_taken_gets_a_free_id(coco_folder, label_maps):
    edit(coco_folder, lambda content: content["categories"][0].update(id=1))
    edit(coco_folder, lambda content: [a.update(category_id=1) for a in content["annotations"][::2]])
    split = read_data(data(coco_folder, COCO, label_maps, holdout=0.0))
    assert split.categories == (Category(1, "square"), Category(7, "disc"), Category(8, "tyre"))


def test_classes_are_renamed_and_ignored_by_the_sources_own_names(coco_folder):
    source = replace(COCO, ignore=("disc",), rename={"square": "disc"})
    regions = read_source(source, coco_folder)
    assert regions.categories == (Category(3, "disc"),)
    assert [region.name for region in regions.regions] == ["disc"] * 8


def test_refuses_to_rename_a_class_that_is_not_there(coco_folder):
    with pytest.raises(AnnotationError, match="cannot rename class 'sofa'"):
        read_source(replace(COCO, rename={"sofa": "couch"}), coco_folder)


def test_small_components_are_left_out(coco_folder, label_maps):
    regions = read_source(replace(label_maps, min_area=50), coco_folder)
    assert [region.name for region in regions.regions] == ["disc"]


def test_crowds_are_skipped(coco_folder):
    edit(coco_folder, lambda content: content["annotations"][3].update(iscrowd=1))
    assert 103 not in [region.region_id for region in read_data(data(coco_folder)).train]


@pytest.mark.parametrize("annotations", ["", "annotations.json"])
def test_refuses_a_source_of_neither_or_both_forms(coco_folder, annotations):
    source = SourceSettings(images="images", annotations=annotations, label_maps="maps" if annotations else "")
    with pytest.raises(SettingsError, match="give either annotations or label_maps"):
        read_source(source, coco_folder)


def test_refuses_data_without_regions_to_train_on(coco_folder):
    with pytest.raises(SettingsError, match=r"data\.sources is empty"):
        read_data(DataSettings())
    edit(coco_folder, lambda content: content["annotations"].clear())
    with pytest.raises(SettingsError, match="no region to train on"):
        read_data(data(coco_folder))


def test_holdout_is_by_image_and_apart(tmp_path):
    folder = write_two_objects(tmp_path / "many", images=200, side=12)
    split = read_data(data(folder, holdout=0.25))
    train, holdout = ({region.image_path for region in part} for part in (split.train, split.holdout))
    assert not train & holdout
    assert len(train | holdout) == 200
    assert len(split.train) + len(split.holdout) == 400
    assert len(holdout) == pytest.approx(50, abs=20)
    more = read_data(data(folder, holdout=0.5))
    assert holdout < {region.image_path for region in more.holdout}


# Sampling.


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_sample_depends_on_seed_and_number_alone(coco_folder):
    settings = run(coco_folder)
    split = read_data(settings.data)
    forward, backward = TrainingRegions(split, settings), TrainingRegions(split, settings)
    first = [forward[SampleRequest(number)] for number in range(6)]
    second = [backward[SampleRequest(number)] for number in reversed(range(6))][::-1]
    assert all(same(one, other) for one, other in zip(first, second, strict=True))
    assert not same(first[0], first[1])
    reseeded = TrainingRegions(split, replace(settings, schedule=ScheduleSettings(seed=1)))
    assert not all(same(one, reseeded[SampleRequest(number)]) for number, one in enumerate(first))


def uneven(folder):
    """15 discs and one square: the squares of all images but the first become discs."""
    edit(folder, lambda content: [a.update(category_id=7) for a in content["annotations"][2::2]])


@pytest.mark.parametrize(("power", "squares"), [(0.0, 1 / 2), (1.0, 1 / 16), (0.5, 1 / (1 + 15**0.5))])
def test_class_power_decides_how_often_a_class_is_sampled(coco_folder, power, squares):
    uneven(coco_folder)
    settings = run(coco_folder, class_power=power)
    regions, rng = TrainingRegions(read_data(settings.data), settings), np.random.default_rng(0)
    drawn = [regions.regions[regions.draw(rng)].name == "square" for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(squares, abs=0.04)


@pytest.mark.parametrize("image_first", [True, False])
def test_image_first_samples_an_image_before_the_region(coco_folder, image_first):
    """The first image has one disc, the seven others two."""
    uneven(coco_folder)
    settings = run(coco_folder, class_power=0.0, image_first=image_first)
    regions, rng = TrainingRegions(read_data(settings.data), settings), np.random.default_rng(0)
    several = (regions.regions[regions.draw(rng)] for _ in range(4000))
    drawn = Counter(region.image_id for region in several if region.name == "disc")
    assert drawn[0] / drawn.total() == pytest.approx(1 / 8 if image_first else 1 / 15, abs=0.02)


@pytest.mark.parametrize(
    ("image_first", "drawn"),
    [
        (False, [3, 1, 5, 4, 6, 1, 1, 3, 9, 1, 1, 9, 1, 13, 10, 9, 9, 15, 15, 7, 0, 15, 4, 15]),
        (True, [0, 1, 3, 8, 11, 1, 1, 8, 9, 1, 1, 9, 1, 6, 5, 9, 9, 6, 6, 11, 8, 15, 8, 14]),
    ],
)
def test_samples_of_a_seed_never_change_between_versions(coco_folder, image_first, drawn):
    """Otherwise a run from an older version would resume with other samples. The numbers come from version 0.1."""
    edit(coco_folder, lambda content: [a.update(category_id=7) for i, a in enumerate(content["annotations"]) if i % 8])
    edit(coco_folder, lambda content: content["annotations"].reverse())
    again = replace(COCO, rename={"square": "ring"})
    sources = data(coco_folder, COCO, again, holdout=0.25, image_first=image_first)
    split = read_data(sources)
    assert [region.region_id for region in split.train][:8] == [101, 100, 103, 102, 113, 112, 115, 114]
    regions = TrainingRegions(split, TrainSettings(data=sources))
    assert [regions.draw(np.random.default_rng((3, 0, number))) for number in range(24)] == drawn


def test_sample_without_augmentation_is_what_prediction_sees(coco_folder):
    settings = run(coco_folder, augment=STILL)
    split = read_data(settings.data)
    plain = UnaugmentedRegions(split.train, settings.view, split.categories)
    seen = [plain[number] for number in range(len(plain))]
    regions = TrainingRegions(split, settings)
    for number in range(10):
        assert any(same(regions[SampleRequest(number)], sample) for sample in seen)


def test_sample_has_the_number_of_its_region(coco_folder):
    settings = run(coco_folder, augment=STILL)
    split = read_data(settings.data)
    plain = UnaugmentedRegions(split.train, settings.view, split.categories)
    regions = TrainingRegions(split, settings)
    for number in range(10):
        sample = regions[SampleRequest(number)]
        assert same(sample, plain[sample[3]])


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_calibration_weights_classes_as_sampled_and_uses_only_sources_that_calibrate(coco_folder, power):
    """The second source has the same regions, so sampled and calibrating regions differ."""
    there = data(coco_folder).sources[0]
    split = read_data(data(coco_folder, there, replace(there, calibrate=False), holdout=0.4))
    weights = split.calibration_weights(power)
    half = len(split.holdout) // 2
    assert not weights[half:].any()
    by_class = Counter()
    for region, weight in zip(split.holdout, weights.tolist(), strict=True):
        by_class[region.name] += weight
    learned = Counter(region.name for region in split.train)
    drawn = {name: count**power for name, count in learned.items() if name in by_class}
    assert len(drawn) == 2
    for name, expected in drawn.items():
        assert by_class[name] / sum(by_class.values()) == pytest.approx(expected / sum(drawn.values()))


def test_refuses_sources_if_none_calibrates(coco_folder):
    with pytest.raises(SettingsError, match="no source has calibrate = true"):
        read_data(data(coco_folder, replace(COCO, calibrate=False)))


def test_target_is_the_class_of_the_region(coco_folder):
    split = read_data(data(coco_folder, holdout=0.0))
    plain = UnaugmentedRegions(split.train, ViewSettings(size=32), split.categories)
    for number, region in enumerate(split.train):
        pixels, coverage, target, its_number, *_ = plain[number]
        assert its_number == number
        assert split.categories[target].name == region.name
        red, _, blue = pixels[coverage == 255].mean(axis=0)
        assert (red > blue) == (region.name == "square")


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.9])
def test_blank_crops_have_the_probability_of_the_setting_and_no_class(coco_folder, probability):
    settings = shared(coco_folder, 6, blank=probability)
    blanked, plain = (TrainingRegions(read_data(run.data), run) for run in (settings, shared(coco_folder, 6)))
    blank = 0
    for number in range(200):
        sample, as_it_is = blanked[SampleRequest(number)], plain[SampleRequest(number)]
        assert sample.number == as_it_is.number
        np.testing.assert_array_equal(sample.coverage, as_it_is.coverage)
        if sample.target == NO_CLASS:
            blank += 1
            assert not sample.extra
            assert (sample.pixels != as_it_is.pixels).any()
        else:
            assert sample.target == as_it_is.target
            np.testing.assert_array_equal(sample.pixels, as_it_is.pixels)
    assert blank / 200 == pytest.approx(probability, abs=0.08)


def test_blank_crop_keeps_the_padding_outside_the_image(coco_folder):
    settings = shared(coco_folder, 6, blank=0.9, scale=(4.0, 4.0), widen=1.0)
    regions = TrainingRegions(read_data(settings.data), settings)
    samples = [
        sample for sample in (regions[SampleRequest(number)] for number in range(40)) if sample.target == NO_CLASS
    ]
    assert len(samples) > 20
    for sample in samples:
        outside = (sample.pixels == np.array(PADDING_RGB)).all(axis=2)
        assert 0.2 < outside.mean() < 1


# Several regions per crop.


def shared(folder, regions_per_view, **augment):
    """Both objects of an image lie in one crop, which is as wide as the image."""
    settings = replace(data(folder, holdout=0.0), regions_per_view=regions_per_view)
    return TrainSettings(
        data=settings,
        network=NetworkSettings(sites=("features",)),
        view=ViewSettings(size=48, min_side=48),
        augment=replace(STILL, **augment),
    )


def test_other_regions_in_a_crop_are_trained_on_too(coco_folder):
    settings = shared(coco_folder, 6)
    split = read_data(settings.data)
    plain = UnaugmentedRegions(split.train, settings.view, split.categories)
    regions = TrainingRegions(split, settings)
    for number in range(10):
        sample = regions[SampleRequest(number)]
        (other,) = sample.extra
        assert other.number != sample.number
        assert split.train.image[other.number] == split.train.image[sample.number]
        assert other.target == plain[other.number].target
        np.testing.assert_array_equal(other.coverage, plain[other.number].coverage)  # Both are seen in one crop.
        assert other.weight == 1


def test_crop_has_no_more_regions_than_the_setting(coco_folder):
    settings = shared(coco_folder, 1)
    regions = TrainingRegions(read_data(settings.data), settings)
    assert not any(regions[SampleRequest(number)].extra for number in range(10))


def test_extra_regions_are_flipped_with_their_crop(coco_folder):
    straight, flipped = (
        TrainingRegions(read_data(settings.data), settings)[SampleRequest(3)]
        for settings in (shared(coco_folder, 2), shared(coco_folder, 2, flip=1.0))
    )
    np.testing.assert_array_equal(flipped.extra[0].coverage, straight.extra[0].coverage[:, ::-1])


def test_regions_outside_a_crop_are_not_trained_on(coco_folder):
    settings = shared(coco_folder, 6)
    settings = replace(settings, view=ViewSettings(size=32, context=1.0, min_side=1))
    regions = TrainingRegions(read_data(settings.data), settings)
    assert not any(regions[SampleRequest(number)].extra for number in range(20))


def test_extra_regions_of_frequent_classes_weigh_less(coco_folder):
    """A class with n of 16 regions is sampled in proportion to n ** 0.5; each region weighs that share over n / 16."""
    edit(coco_folder, lambda content: [a.update(category_id=3) for a in content["annotations"][3:]])
    settings = shared(coco_folder, 6)
    split = read_data(settings.data)
    counts = split.train.counts()
    assert (counts["square"], counts["disc"]) == (15, 1)
    regions = TrainingRegions(split, settings)
    weights = {split.names[other.target]: other.weight for n in range(60) for other in regions[SampleRequest(n)].extra}
    assert weights["square"] == pytest.approx(15**0.5 / (15**0.5 + 1) * 16 / 15)
    assert weights["disc"] == 1


def test_refuses_several_regions_per_crop_if_the_mask_acts_inside_the_trunk(coco_folder):
    with pytest.raises(SettingsError, match=r"regions_per_view is 2, but at the sites conv1 the mask acts inside"):
        TrainSettings(data=replace(data(coco_folder), regions_per_view=2))


def windows(folder, **augment):
    window = WindowSettings(enabled=True, min_side=20, max_side=40, max_pixels=20 * 40 * 4)
    return run(folder, window=window, view=ViewSettings(kind="whole"), augment=replace(STILL, **augment))


def test_windows_have_the_size_of_their_batch(coco_folder):
    settings = windows(coco_folder)
    regions = TrainingRegions(read_data(settings.data), settings)
    for requests, _ in zip(ResumableBatchSampler(settings, 0), range(5), strict=False):
        batch = collate([regions[request] for request in requests])
        assert tuple(batch.images.shape[1:3]) == requests[0].window_hw == tuple(batch.masks.shape[1:])


def test_flip_reaches_windows_too(coco_folder):
    draw = SampleRequest(3, (24, 24))
    samples = []
    for flip in (0.0, 1.0):
        settings = windows(coco_folder, flip=flip)
        samples.append(TrainingRegions(read_data(settings.data), settings)[draw])
    for straight, flipped in zip(samples[0][:2], samples[1][:2], strict=True):
        np.testing.assert_array_equal(flipped, straight[:, ::-1])


def test_crop_that_already_has_the_crop_size_is_still_augmented(coco_folder):
    view = ViewSettings(size=32, context=2.0)  # The objects are 16 wide.
    settings = run(coco_folder, view=view, augment=replace(STILL, shift=0.4))
    split = read_data(settings.data)
    plain = UnaugmentedRegions(split.train, view, split.categories)
    regions = TrainingRegions(split, settings)
    assert not all(any(same(regions[SampleRequest(n)], plain[i]) for i in range(len(plain))) for n in range(5))


# Batches.


@pytest.mark.parametrize("window", [WindowSettings(), WindowSettings(enabled=True, min_side=200, max_side=900)])
def test_shares_of_several_processes_make_up_the_batch(window):
    schedule = ScheduleSettings(steps=12, batch_size=7)
    settings = TrainSettings(schedule=schedule, window=window)
    whole = list(ResumableBatchSampler(settings, 0))
    shares = [list(ResumableBatchSampler(settings, 0, process, 3)) for process in range(3)]
    for step, batch in enumerate(whole):
        parts = [draw for share in shares for draw in share[step]]
        assert sorted(parts, key=lambda draw: draw.number) == batch
        assert len(batch) == batch_shape(settings, step)[1]


@pytest.mark.parametrize(
    ("window", "least"),
    [(WindowSettings(), 5), (WindowSettings(enabled=True, max_side=100, max_pixels=3 * 100 * 100), 3)],
)
def test_refuses_more_processes_than_a_batch_has_crops(window, least):
    settings = TrainSettings(schedule=ScheduleSettings(batch_size=5), window=replace(window, min_side=100))
    assert all(
        len(batch) == 1 for batch, _ in zip(ResumableBatchSampler(settings, 0, 0, least), range(9), strict=False)
    )
    with pytest.raises(SettingsError, match=f"may have only {least} crops for {least + 1} processes"):
        ResumableBatchSampler(settings, 0, 0, least + 1)


def test_sampler_starts_at_any_step():
    settings = TrainSettings(schedule=ScheduleSettings(steps=10, batch_size=4), window=WindowSettings(enabled=True))
    assert list(ResumableBatchSampler(settings, 6)) == list(ResumableBatchSampler(settings, 0))[6:]
    assert len(ResumableBatchSampler(settings, 6)) == 4


def test_no_sample_number_is_used_twice():
    numbers = [
        draw.number
        for batch in ResumableBatchSampler(TrainSettings(schedule=ScheduleSettings(steps=20)), 0)
        for draw in batch
    ]
    assert numbers == list(range(20 * 32))


def test_batch_stacks_its_samples(rng):
    samples = [
        Sample(
            rng.integers(0, 9, (4, 5, 3), dtype=np.uint8), rng.integers(0, 9, (4, 5), dtype=np.uint8), target, number
        )
        for target, number in ((2, 8), (0, 5))
    ]
    batch = collate(samples)
    assert batch.images.shape == (2, 4, 5, 3)
    assert batch.image_of.tolist() == [0, 1]
    assert batch.weights.tolist() == [1, 1]
    assert batch.targets.tolist() == [2, 0]
    assert batch.numbers.tolist() == [8, 5]
    assert torch.equal(batch.masks[1], torch.from_numpy(samples[1][1]))


def test_batch_has_the_sampled_regions_before_the_extra_ones():
    blank = np.zeros((4, 5, 3), np.uint8)
    covers = [np.full((4, 5), value, np.uint8) for value in range(5)]
    samples = [
        Sample(blank, covers[0], 2, 8, extra=(ExtraRegion(covers[1], 1, 9, 0.5), ExtraRegion(covers[2], 0, 7, 0.25))),
        Sample(blank, covers[3], 0, 5, extra=(ExtraRegion(covers[4], 2, 6, 1.0),)),
    ]
    batch = collate(samples)
    assert batch.image_of.tolist() == [0, 1, 0, 0, 1]
    assert batch.masks[:, 0, 0].tolist() == [0, 3, 1, 2, 4]
    assert batch.targets.tolist() == [2, 0, 1, 0, 2]
    assert batch.numbers.tolist() == [8, 5, 9, 7, 6]
    assert batch.weights.tolist() == [1, 1, 0.5, 0.25, 1]


def test_refuses_an_image_of_another_size_than_its_annotations(coco_folder):
    edit(coco_folder, lambda content: content["images"][0].update(width=60))
    split = read_data(data(coco_folder, holdout=0.0))
    plain = UnaugmentedRegions(split.train, ViewSettings(), split.categories)
    assert load_image(coco_folder / "images" / "000.png").shape == (48, 48, 3)
    with pytest.raises(MaskError, match=r"000\.png: annotation 100: the mask is 60 x 48 pixels, the image 48 x 48"):
        plain[0]
