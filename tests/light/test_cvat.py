"""Shapes of CVAT get names: with its own SDK where it is installed, else with stand-ins of what is used of it."""

import logging
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from colour_model import colour_model
from maskwise import Mask, Predictor
from maskwise.errors import MaskError
from maskwise.integrations import cvat
from maskwise.model.segmenter import Segmenter
from serving import GREEN_BOX, RED_BOX, ColourSegmenter, scene

try:  # `make test-cvat` has it.
    import cvat_sdk.auto_annotation
    import cvat_sdk.datasets

    REAL = True
except ImportError:
    REAL = False

HW = (60, 80)
RED, GREEN = [10.0, 10.0, 30.0, 30.0], [40.0, 20.0, 64.0, 50.0]


class Record(SimpleNamespace):
    """Attributes are also items, as in the SDK's models."""


def stand_in():
    modules = {name: ModuleType(f"cvat_sdk.{name}") for name in ("auto_annotation", "models", "datasets")}
    package = ModuleType("cvat_sdk")
    vars(package).update(modules)
    functions = modules["auto_annotation"]

    def shape(label_id, *, type, **fields):
        return Record(label_id=label_id, frame=0, type=SimpleNamespace(value=type), **fields)

    functions.label_spec = lambda name, id: Record(name=name, id=id)
    functions.DetectionFunctionSpec = Record
    functions.shape = shape
    functions.polygon = lambda label_id, points: shape(label_id, type="polygon", points=points)
    functions.mask = lambda label_id, points: shape(label_id, type="mask", points=points)
    models = modules["models"]
    models.PatchedLabeledDataRequest = Record
    models.LabeledShapeRequest = lambda *, type, **fields: Record(type=SimpleNamespace(value=type), **fields)
    return {"cvat_sdk": package, **{f"cvat_sdk.{name}": module for name, module in modules.items()}}


@pytest.fixture(autouse=True)
def sdk(monkeypatch):
    if not REAL:
        for name, module in stand_in().items():
            monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return Predictor(colour_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def vague(tmp_path_factory):
    """The same names with probabilities below 0.7."""
    return Predictor(colour_model(tmp_path_factory.mktemp("vague"), weight=np.eye(3)))


class Colours(Segmenter):
    """Outlines the two rectangles."""

    def __init__(self):
        pass

    def segment(self, image, *, points_per_side=24):
        return ColourSegmenter().segment(image)


def given(kind, points, number=1, label=7, **fields):
    """A shape as the server has it."""
    fields = {"rotation": 0.0, "occluded": False, "z_order": 0, "group": 0, "source": "manual", **fields}
    kind = SimpleNamespace(value=kind)
    return SimpleNamespace(id=number, frame=0, label_id=label, type=kind, points=points, **fields)


def context(name="scene.png", least=None, polygons=False):
    return SimpleNamespace(frame_name=name, conf_threshold=least, conv_mask_to_poly=polygons)


IMAGE = Image.fromarray(scene())


@pytest.mark.parametrize(
    ("shape", "box", "area"),
    [
        (given("rectangle", RED), RED_BOX, 400),
        (given("polygon", [40, 20, 64, 20, 64, 50, 40, 50]), GREEN_BOX, 720),
        # Two rows of three: the first and the last pixel are missing.
        (given("mask", [1, 4, 1, 5, 2, 7, 3]), (5, 2, 3, 2), 4),
        (given("mask", [0, 5, 1, 5, 2, 7, 3]), (5, 2, 3, 2), 5),
        # 20 x 10 turned by a quarter around its middle.
        (given("rectangle", [30, 30, 50, 40], rotation=90.0), (35, 25, 10, 20), 200),
    ],
)
def test_shapes_are_masks(shape, box, area):
    mask = cvat.mask_of_shape(shape, HW)
    assert (mask.box_xywh, mask.area) == (box, area)


def test_an_ellipse_is_turned_clockwise():
    flat = cvat.mask_of_shape(given("ellipse", [40.0, 30.0, 60.0, 25.0]), HW)
    assert flat.box_xywh == (20, 25, 40, 10)
    assert flat.area == pytest.approx(np.pi * 20 * 5, rel=0.02)
    turned = cvat.mask_of_shape(given("ellipse", [40.0, 30.0, 60.0, 25.0], rotation=45.0), HW).to_array()
    assert turned[40, 50]  # Right and down.
    assert not turned[20, 50]


def test_masks_go_there_and_back(rng):
    for _ in range(20):
        bits = rng.random((60, 80)) < 0.3
        bits[rng.integers(60)] = bits[:, rng.integers(80)] = False
        mask = Mask.from_array(bits)
        points = cvat.mask_points(mask)
        np.testing.assert_array_equal(cvat.mask_of_shape(given("mask", points), HW).to_array(), bits)
        if REAL:
            from cvat_sdk import masks

            assert masks.encode_mask(bits) == points


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (given("points", [1.0, 2.0]), "a shape of type points with 2 numbers; accepted are rectangle"),
        (given("mask", [1, 4, 1, 5, 2, 7]), "a mask's runs do not fill its box"),
        (given("mask", [1, 4, 1, 5, 2, 80, 3]), "a mask's runs do not fill its box"),
        (given("mask", [1.5, 3.5, 1, 5, 2, 7, 3]), "are not run lengths and a box"),
    ],
)
def test_other_shapes_are_refused(shape, message):
    with pytest.raises(MaskError, match=message):
        cvat.mask_of_shape(shape, HW)


def test_the_function_has_the_models_classes_as_labels(predictor):
    function = cvat.NamingFunction(predictor, shapes={})
    assert [(label.id, label.name) for label in function.spec.labels] == [(0, "person"), (1, "dog"), (2, "cup")]


def test_the_function_names_the_shapes_that_are_there(predictor):
    shapes = [given("rectangle", GREEN), given("mask", cvat.mask_points(Mask.from_box(RED_BOX, HW)))]
    function = cvat.NamingFunction(predictor, shapes={"scene.png": shapes})
    named = function.detect(context(), IMAGE)
    assert [(one.label_id, one.type.value, list(one.points)) for one in named] == [
        (1, "rectangle", GREEN),
        (0, "mask", [0.0, 400.0, 10.0, 10.0, 29.0, 29.0]),
    ]
    named = function.detect(context(polygons=True), IMAGE)
    assert [(one.type.value, list(one.points)) for one in named][1] == ("polygon", [10, 10, 30, 10, 30, 30, 10, 30])
    assert function.detect(context("other.png"), IMAGE) == []


def test_improbable_names_are_left_out(vague):
    shapes = {"scene.png": [given("rectangle", GREEN)]}
    for function in (cvat.NamingFunction(vague, shapes=shapes), cvat.NamingFunction(vague, segmenter=Colours())):
        assert len(function.detect(context(least=0.2), IMAGE)) >= 1
        assert function.detect(context(least=0.9), IMAGE) == []


def test_the_function_finds_things_where_it_has_no_shapes(predictor):
    function = cvat.NamingFunction(predictor, segmenter=Colours())
    named = function.detect(context(), IMAGE)
    assert sorted((one.label_id, one.type.value) for one in named) == [(0, "mask"), (1, "mask")]
    assert {tuple(one.points[-4:]) for one in named} == {(10, 10, 29, 29), (40, 20, 63, 49)}
    assert [one.type.value for one in function.detect(context(polygons=True), IMAGE)] == ["polygon", "polygon"]


def task_of(shapes):
    labels = [SimpleNamespace(name=name, id=number) for name, number in (("dog", 70), ("thing", 7), ("person", 71))]
    media = SimpleNamespace(load_image=lambda: IMAGE)
    annotations = SimpleNamespace(shapes=shapes)
    sample = SimpleNamespace(frame_index=0, frame_name="scene.png", media=media, annotations=annotations)
    return SimpleNamespace(labels=labels, samples=[sample])


@pytest.fixture
def client(monkeypatch):
    """A client of a server with a task; notes what is sent to it."""
    shapes = [
        given("rectangle", GREEN, 1, group=3, source="manual"),
        given("points", [1.0, 2.0], 2),
        given("rectangle", RED, 3, label=71),
        given("polygon", [10, 10, 30, 10, 30, 30], 4, occluded=True),
        given("rectangle", [500.0, 500.0, 510.0, 510.0], 5),
    ]
    sent = []
    module = sys.modules["cvat_sdk.datasets"]
    monkeypatch.setattr(module, "TaskDataset", lambda client, task_id, load_annotations: task_of(shapes), raising=False)
    api = SimpleNamespace(
        partial_update_annotations=lambda action, task, *, patched_labeled_data_request: sent.append(
            (action, task, patched_labeled_data_request)
        )
    )
    return SimpleNamespace(tasks=SimpleNamespace(api=api), sent=sent)


def test_a_task_is_named_in_place(predictor, client):
    assert cvat.name_task(client, 12, predictor) == 2
    ((action, task, request),) = client.sent
    assert (action, task) == ("update", 12)
    changed = [(one.id, one.label_id, one.type.value, list(one.points), one.group) for one in request.shapes]
    assert changed == [(1, 70, "rectangle", GREEN, 3), (4, 71, "polygon", [10, 10, 30, 10, 30, 30], 0)]
    assert [one.occluded for one in request.shapes] == [False, True]


def test_nothing_is_sent_where_nothing_changes(vague, client):
    assert cvat.name_task(client, 12, vague, min_probability=0.9) == 0
    assert client.sent == []


def test_shapes_of_a_task_go_into_the_function(predictor, client):
    shapes = cvat.shapes_of(client, 12)
    assert [shape.id for shape in shapes["scene.png"]] == [1, 3, 4, 5]
    named = cvat.NamingFunction(predictor, shapes=shapes).detect(context(), IMAGE)
    assert [one.label_id for one in named] == [1, 0, 0]


if REAL:

    def test_the_sdk_takes_the_function(predictor, client, monkeypatch):
        from cvat_sdk.auto_annotation import annotate_task, driver

        monkeypatch.setattr(driver, "TaskDataset", lambda client, task_id, load_annotations: dataset)
        dataset = task_of([])
        more = {"type": "any", "sublabels": [], "attributes": []}
        dataset.labels = [cvat_sdk.models.Label._new_from_openapi_data(**vars(one), **more) for one in dataset.labels]
        client.logger = logging.getLogger("test")
        function = cvat.NamingFunction(predictor, shapes={"scene.png": [given("rectangle", GREEN)]})
        annotate_task(client, 12, function, allow_unmatched_labels=True)
        ((action, task, request),) = client.sent
        assert (action, task) == ("create", 12)
        assert [(one.label_id, one.frame, list(one.points)) for one in request.shapes] == [(70, 0, GREEN)]
