import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from colour_model import colour_model
from maskwise import Predictor, load_image
from maskwise.cli.main import run
from maskwise.data.coco_regions import regions_from_coco
from maskwise.data.regions import Regions
from maskwise.data.sampling import sample_per_class
from maskwise.errors import AnnotationError, InputError
from maskwise.tasks.embedding import embed_regions
from maskwise.tasks.evaluation import evaluate
from maskwise.tasks.fitting import fit_classes
from two_objects import write_two_objects


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return colour_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def objects(tmp_path_factory) -> Path:
    return write_two_objects(tmp_path_factory.mktemp("objects") / "coco", images=12)


def regions_of(folder):
    return regions_from_coco(folder / "annotations.json", folder / "images")


def test_fitted_model_names_regions_of_other_images(base, objects, tmp_path):
    found = fit_classes(regions_of(objects), tmp_path / "mine.onnx", model=base)
    assert found.regions == {"square": 12, "disc": 12}
    others = regions_of(write_two_objects(tmp_path / "others", images=10, seed=1))
    report = evaluate(Predictor(tmp_path / "mine.onnx"), others).report
    assert report.micro == 1.0  # A red square and a blue disc in every image: only the mask tells which.
    assert found.trials[0].micro == 1.0


def test_fitted_model_says_what_it_is(base, objects, tmp_path):
    found = fit_classes(regions_of(objects), tmp_path / "mine.onnx", model=base)
    info, of_base = Predictor(tmp_path / "mine.onnx").info, Predictor(base).info
    assert (info.name, info.view, info.batch_size) == ("mine", of_base.view, of_base.batch_size)
    assert [(c.id, c.name) for c in info.categories] == [(3, "square"), (7, "disc")]
    assert info.temperature == found.trials[0].temperature
    assert info.training["embeds"] == "colour"
    assert info.training["regions"] == {"square": 12, "disc": 12}
    assert info.training["images"] == 12
    fit_classes(regions_of(objects), tmp_path / "mine.onnx", model=base, name="shapes")
    assert Predictor(tmp_path / "mine.onnx").info.name == "shapes"


def test_only_the_last_layer_is_another(base, objects, tmp_path):
    regions = regions_of(objects)
    found = fit_classes(regions, tmp_path / "mine.onnx", model=base)
    embeddings = embed_regions(Predictor(base), regions.regions)
    predictor = Predictor(tmp_path / "mine.onnx")
    np.testing.assert_array_equal(embed_regions(predictor, regions.regions), embeddings)
    targets = np.array([["square", "disc"].index(region.name) for region in regions.regions])
    chosen = found.trials[0]
    logits = chosen.fit(embeddings, targets).logits(embeddings) / chosen.temperature
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = shifted / shifted.sum(axis=1, keepdims=True)
    image = load_image(regions.regions[0].image_path)
    got = predictor.probabilities(image, [region.read_mask() for region in regions.regions[:2]])
    np.testing.assert_allclose(got, expected[:2], atol=1e-4)


def test_fitted_model_can_be_fitted_to(base, objects, tmp_path):
    fit_classes(regions_of(objects), tmp_path / "first.onnx", model=base)
    renamed = regions_of(objects).renamed({"disc": "ball"})
    fit_classes(renamed, tmp_path / "second.onnx", model=tmp_path / "first.onnx")
    assert Predictor(tmp_path / "second.onnx").classes == ("square", "ball")
    first, second = ((tmp_path / f"{name}.onnx").stat().st_size for name in ("first", "second"))
    assert second < 1.1 * first  # The former last layer is not kept.


def test_embeddings_come_in_the_order_of_the_regions(base, objects):
    regions = regions_of(objects).regions
    order = np.random.default_rng(0).permutation(len(regions)).tolist()
    plain = embed_regions(Predictor(base), regions)
    shuffled = embed_regions(Predictor(base), [regions[number] for number in order])
    np.testing.assert_allclose(shuffled, plain[order], atol=1e-5)


def test_crowds_are_not_learned_from(base, objects, tmp_path):
    regions = regions_of(objects)
    marked = replace(regions.regions, crowd=np.arange(len(regions.regions)) < 4)
    assert fit_classes(replace(regions, regions=marked), tmp_path / "mine.onnx", model=base).regions == {
        "square": 10,
        "disc": 10,
    }


def test_one_class_alone_is_refused(base, objects, tmp_path):
    regions = regions_of(objects)
    squares = regions.only(regions.regions.called(["square"]))
    with pytest.raises(AnnotationError, match="all regions are of class 'square'; label regions of another"):
        fit_classes(squares, tmp_path / "mine.onnx", model=base)
    assert not (tmp_path / "mine.onnx").exists()


def ids(regions):
    return [region.region_id for region in regions.regions]


def test_drawn_regions_are_of_as_many_images_as_there_are(objects):
    regions = regions_of(objects)
    one_image = [replace(region, image_path=Path("same.png")) for region in regions.regions[:16]]
    mixed = replace(regions, regions=Regions.of([*one_image, *regions.regions[16:]]))
    drawn = list(sample_per_class(mixed, 5).regions)
    assert [region.name for region in drawn].count("square") == 5
    paths = [region.image_path for region in drawn if region.name == "square"]
    assert len(set(paths)) == 5  # Eight of the twelve squares are in one image, and one alone is drawn from it.
    assert ids(sample_per_class(mixed, 5)) == [region.region_id for region in drawn]
    assert ids(sample_per_class(mixed, 5, seed=1)) != ids(sample_per_class(mixed, 5))
    assert ids(sample_per_class(mixed, 100)) == ids(mixed)


def fit_command(objects, *flags):
    return run(["fit", str(objects / "images"), str(objects / "annotations.json"), *map(str, flags)])


def test_command_writes_a_model_and_says_how_good_it_is(base, objects, tmp_path, capsys):
    assert fit_command(objects, "--model", base, "--per-class", 4, "-o", tmp_path / "mine.onnx") == 0
    out = capsys.readouterr().out
    assert "8 regions of 2 classes (fewest: 4 of square)" in out
    assert re.search(r"(linear|mean) \S+ \(chosen\) +\d+\.\d %", out)
    assert Predictor(tmp_path / "mine.onnx").info.training["regions"] == {"square": 4, "disc": 4}


def test_command_says_what_it_cannot_know(base, objects, tmp_path, capsys):
    assert fit_command(objects, "--model", base, "--per-class", 1, "-o", tmp_path / "mine.onnx") == 0
    assert "accuracy unknown and probabilities not calibrated" in capsys.readouterr().out


def test_command_refuses_to_write_over_its_inputs(objects, capsys):
    assert fit_command(objects, "-o", objects / "annotations.json") == 1
    assert "is the input itself" in capsys.readouterr().err
    json.loads((objects / "annotations.json").read_text())


def test_command_refuses_wrong_flags(objects, capsys):
    with pytest.raises(SystemExit, match="2"):
        fit_command(objects, "--per-class", 0)
    assert "maskwise fit: --per-class 0: give at least 1" in capsys.readouterr().err


def test_two_categories_of_one_name_are_one_class(base, objects, tmp_path):
    content = json.loads((objects / "annotations.json").read_text())
    content["categories"].insert(0, {"id": 1, "name": "disc"})
    (tmp_path / "twice.json").write_text(json.dumps(content))
    regions = regions_from_coco(tmp_path / "twice.json", objects / "images")
    fit_classes(regions, tmp_path / "mine.onnx", model=base)
    assert sorted(Predictor(tmp_path / "mine.onnx").classes) == ["disc", "square"]
    assert evaluate(Predictor(tmp_path / "mine.onnx"), regions).report.micro == 1.0


def test_model_that_embeds_is_not_written_over(base, objects):
    before = base.read_bytes()
    with pytest.raises(InputError, match="is the input itself"):
        fit_classes(regions_of(objects), base, model=base)
    assert base.read_bytes() == before
