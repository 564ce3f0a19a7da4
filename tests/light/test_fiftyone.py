"""Detections of FiftyOne get names in place: with its own types where it is installed, else with stand-ins."""

from types import SimpleNamespace

import numpy as np
import pytest

from colour_model import colour_model
from maskwise import Predictor
from maskwise.errors import InputError, MaskError
from maskwise.integrations.fiftyone import apply_to_detections, mask_of_detection
from serving import GREEN_BOX, RED_BOX, png, scene

try:  # `make test-fiftyone` has it.
    from fiftyone import Classification, Detection, Detections, Sample
except ImportError:

    class Fields:
        """What FiftyOne's samples and labels have in common: attributes that are also items."""

        def __init__(self, **fields):
            self.__dict__.update(fields)

        def __getitem__(self, name):
            return self.__dict__[name]

        def __setitem__(self, name, value):
            self.__dict__[name] = value

    class Detection(Fields):
        label = confidence = mask = None

        def get_mask(self):
            return self.mask

    class Detections(Fields):
        pass

    class Classification(Fields):
        pass

    class Sample(Fields):
        in_dataset = False

        def has_field(self, name):
            return name in self.__dict__


def detection(box_xywh, mask=None, **fields):
    x, y, w, h = box_xywh
    return Detection(bounding_box=[x / 80, y / 60, w / 80, h / 60], mask=mask, **fields)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return Predictor(colour_model(tmp_path_factory.mktemp("model"), known=(8.0, 8.0, 0.0, -4.0)))


@pytest.fixture
def photo(tmp_path):
    (tmp_path / "scene.png").write_bytes(png(scene()))
    return str(tmp_path / "scene.png")


def test_masks_and_boxes_get_names_in_place(predictor, photo):
    upper = np.zeros((30, 24), dtype=bool)
    upper[:9, 3:] = True
    given = [detection(RED_BOX, label="thing"), detection(GREEN_BOX, upper)]
    sample = Sample(filepath=photo, segments=Detections(detections=given))
    assert apply_to_detections(sample, "segments", predictor) == []
    red, green = sample["segments"].detections
    assert (red.label, green.label) == ("person", "dog")
    assert red.confidence > 0.9
    assert green["top"][0] == "dog"
    assert green["top_scores"][0] == green.confidence
    assert green["is_none"] is False
    assert green["known"] == pytest.approx(1 / (1 + np.exp(4 - 8 * 290 / 255)), abs=0.02)
    np.testing.assert_array_equal(green.mask, upper)


def test_what_is_none_of_these_gets_no_name_or_the_given_one(predictor, photo):
    for none_label in (None, "nothing"):
        sample = Sample(filepath=photo, segments=Detections(detections=[detection((70, 2, 5, 6), label="thing")]))
        image = scene()
        image[:10, 66:] = (0, 0, 250)  # Blue: a cup, but not one of the classes.
        with open(photo, "wb") as file:
            file.write(png(image))
        apply_to_detections(sample, "segments", predictor, none_label=none_label)
        (one,) = sample["segments"].detections
        assert one.label == none_label
        assert one["is_none"] is True


def test_a_box_has_the_pixels_that_rounded_shares_mean():
    rounded = Detection(bounding_box=[0.125, 0.33333, 0.6, 0.16667], mask=None)
    assert mask_of_detection(rounded, (60, 80)).box_xywh == (10, 20, 48, 10)


def test_a_mask_lies_in_its_box_and_may_have_another_size_or_stick_out():
    left = np.zeros((10, 8), dtype=np.uint8)
    left[:, :2] = 1
    mask = mask_of_detection(detection((40, 20, 24, 30), left), (60, 80))
    assert mask.box_xywh == (40, 20, 6, 30)
    stuck_out = mask_of_detection(detection((-4, 50, 8, 20), np.tri(20, 8, dtype=bool)), (60, 80))
    assert stuck_out.box_xywh == (0, 54, 4, 6)
    assert stuck_out.area == 1 + 2 + 3 + 4 + 4 + 4
    with pytest.raises(MaskError, match="lies outside the image"):
        mask_of_detection(detection((90, 20, 8, 8), np.ones((8, 8))), (60, 80))


class Dataset(list):
    """What is used of a dataset or a view."""

    def iter_samples(self):
        return iter(self)


def test_a_dataset_is_named_in_order_and_bad_records_are_listed(predictor, photo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    empty = detection(RED_BOX, np.zeros((20, 20), dtype=bool))
    samples = Dataset(
        [
            Sample(filepath=photo, segments=Detections(detections=[detection(GREEN_BOX)])),
            Sample(filepath=str(tmp_path / "broken.png"), segments=Detections(detections=[detection(RED_BOX)])),
            Sample(filepath=photo, segments=None),
            Sample(filepath=photo, segments=Detections(detections=[empty, detection(RED_BOX)])),
        ]
    )
    problems = apply_to_detections(samples, "segments", predictor)
    assert [one.label for one in samples[0]["segments"].detections] == ["dog"]
    assert [one.label for one in samples[3]["segments"].detections] == [None, "person"]
    assert [message.message.split(": ", 1)[1][:20] for message in problems] == [
        "is not an image that",
        "detection 0: the mas",
    ]


def test_samples_of_a_dataset_are_saved(predictor, photo):
    saved = []
    held = Detections(detections=[detection(RED_BOX)])
    sample = SimpleNamespace(filepath=photo, in_dataset=True, has_field=lambda name: True, save=lambda: saved.append(1))
    kind = type("Held", (SimpleNamespace,), {"__getitem__": lambda self, name: held})
    apply_to_detections([kind(**vars(sample))], "segments", predictor)
    assert saved == [1]


def test_another_field_is_refused(predictor, photo):
    sample = Sample(filepath=photo, segments=Classification(label="cup"))
    with pytest.raises(InputError, match="has no field 'masks'; give the field that has the detections"):
        apply_to_detections(sample, "masks", predictor)
    with pytest.raises(InputError, match="has Classification; accepted are Detections"):
        apply_to_detections([sample], "segments", predictor)


def test_a_written_dataset_has_the_same_attributes():
    """`maskwise label --format fiftyone` writes what this sets."""
    from maskwise.data.masks import Mask
    from maskwise.data.regions import Category
    from maskwise.data.writers.fiftyone import _detection
    from maskwise.data.writers.records import NamedRegion

    region = NamedRegion(annotation_id=1, mask=None, category=None, score=0.5, known=0.5)
    written = _detection(region, Category(1, "cup"), Mask.from_box((0, 0, 2, 2), (4, 4)))
    assert {"top", "top_scores", "is_none", "known", "confidence", "label"} <= written.keys()
