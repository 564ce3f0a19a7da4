"""Evaluation with a model whose answers are known, up to the written folder."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwise.cli.evaluate import Command
from maskwise.cli.region_options import RegionFlags
from maskwise.data.label_maps import regions_from_label_maps
from maskwise.data.masks import Mask
from maskwise.data.regions import Category, LabelledRegion, Regions, RegionSet
from maskwise.errors import AnnotationError, InputError, MaskError
from maskwise.model.model_file import ModelInfo
from maskwise.model.prediction import ImageOutputs
from maskwise.model.predictor import Predictor
from maskwise.reports.markdown import report_markdown
from maskwise.reports.report_folder import write_report
from maskwise.tasks.evaluation import evaluate
from maskwise.views.view import ViewSettings

CLASSES = ("cat", "dog", "cow")
SIDE = 40


class FakePredictor(Predictor):
    """Calls a region by the image's colour at its first pixel: red 0 is cat, 1 dog, 2 cow. Is 80 % sure."""

    def __init__(self, classes: tuple[str, ...] = CLASSES, mode: str = "exact"):
        self.mode = mode
        categories = tuple(Category(10 * i, name) for i, name in enumerate(classes))
        self.info = ModelInfo(name="by colour", categories=categories, view=ViewSettings())

    def run_many(self, images, **_asked):
        for image, masks in images:
            logits = np.log(self.answer(image, masks))
            yield ImageOutputs(self.info.categories, temperature=1.0, crops=len(masks), logits=logits)

    def answer(self, image, masks):
        """The probabilities."""
        rest = 0.2 / (len(self.classes) - 1)
        rows = np.full((len(masks), len(self.classes)), rest, np.float32)
        for row, mask in zip(rows, masks, strict=True):
            row[image[..., 0][mask.to_array()][0]] = 0.8
        return rows


def region_set(folder: Path, images: list[list[tuple[str, str, int]]], *, crowds: tuple[str, ...] = ()) -> RegionSet:
    """Regions (true name, what the model will say, pixels) one per row of their image; ids are image/row."""
    regions = []
    for number, records in enumerate(images):
        path = folder / f"{number}.png"
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        for row, (name, said, area) in enumerate(records):
            pixels[row] = CLASSES.index(said) if said in CLASSES else 0
            array = np.zeros((SIDE, SIDE), bool)
            array[row, :area] = True
            region_id = f"{number}/{row}"
            crowd = region_id in crowds
            mask = Mask.from_array(array)
            regions.append(LabelledRegion(path, number, region_id, name, float(area), crowd, lambda mask=mask: mask))
        Image.fromarray(pixels).save(path)
    names = dict.fromkeys(region.name for region in regions)
    return RegionSet(tuple(Category(i, name) for i, name in enumerate(names)), Regions.of(regions))


@pytest.fixture
def four_images(tmp_path: Path) -> RegionSet:
    images = [
        [("cat", "cat", 5), ("cat", "dog", 9)],
        [("dog", "dog", 5), ("cat", "cat", 5)],
        [("cat", "cow", 5), ("cat", "dog", 5)],
        [("dog", "dog", 5), ("unicorn", "cat", 5)],
    ]
    return region_set(tmp_path, images, crowds=("1/1",))


def test_the_headline_counts_known_regions_without_crowds(four_images: RegionSet):
    report = evaluate(FakePredictor(), four_images, data="four.json").report.to_dict()
    assert (report["model"], report["data"]) == ("by colour", "four.json")
    assert (report["regions"], report["images"], report["crowds"]) == (6, 4, 1)
    assert report["micro"] == pytest.approx(3 / 6)
    assert report["macro"] == pytest.approx((1 / 4 + 2 / 2) / 2)
    assert report["top5"] == 1
    assert report["ece"] == pytest.approx(0.8 - 3 / 6, abs=1e-6)
    assert report["log_loss"] == pytest.approx(-(3 * math.log(0.8) + 3 * math.log(0.1)) / 6, abs=1e-6)
    assert report["micro_ci95"][0] <= report["micro"] <= report["micro_ci95"][1]


def test_unknown_classes_are_counted_and_left_out(four_images: RegionSet):
    evaluation = evaluate(FakePredictor(), four_images)
    assert evaluation.report.to_dict()["unknown_classes"] == {"unicorn": 1}
    assert "unicorn" not in json.dumps([evaluation.predictions, evaluation.report.to_dict()["per_class"]])


def test_classes_tell_what_they_are_taken_for(four_images: RegionSet):
    report = evaluate(FakePredictor(), four_images).report.to_dict()
    cat = report["per_class"]["cat"]
    assert (cat["regions"], cat["accuracy"], cat["most_confused_with"]) == (4, 0.25, "dog")
    assert cat["ci95"] == pytest.approx((0.0456, 0.6994), abs=5e-4)
    assert report["per_class"]["dog"]["most_confused_with"] is None
    assert report["confusions"] == (
        {"true": "cat", "predicted": "dog", "count": 2},
        {"true": "cat", "predicted": "cow", "count": 1},
    )


def test_confusions_are_given_as_a_share_of_the_class(four_images):
    """Of four cats two are called dogs and one a cow."""
    page = report_markdown(evaluate(FakePredictor(), four_images).report)
    assert "| cat | dog | 2 | 50.0 % |" in page
    assert "| cat | cow | 1 | 25.0 % |" in page


@pytest.mark.parametrize(("mode", "said"), [("exact", False), ("shared", True)])
def test_page_says_where_regions_shared_views(four_images, mode, said):
    report = evaluate(FakePredictor(mode=mode), four_images).report
    assert report.mode == mode
    assert (f"Regions of an image share crops (mode {mode})." in report_markdown(report)) == said


class ByArea(FakePredictor):
    """Calls a mask of the given number of pixels a cat and any other a dog."""

    def __init__(self, area: int):
        super().__init__()
        self.area = area

    def answer(self, image, masks):
        return np.float32([[0.8, 0.1, 0.1] if mask.area == self.area else [0.1, 0.8, 0.1] for mask in masks])


def test_noisy_masks_are_evaluated_if_asked(tmp_path: Path):
    """A disc and a crowd of another class: shifted it keeps its area, dilated, eroded and boxed it does not."""
    regions = region_set(tmp_path, [[("cat", "cat", 5), ("dog", "dog", 5)]], crowds=("0/1",))
    disc = Mask.from_array(np.hypot(*np.mgrid[-20:20, -20:20]) < 9)
    regions = replace(regions, regions=Regions.of(replace(r, read_mask=lambda: disc) for r in regions.regions))
    plain, asked = (evaluate(ByArea(disc.area), regions, mask_noise=noise) for noise in (False, True))
    assert plain.report.to_dict()["mask_noise"] == {}
    right = {kind: found["micro"] for kind, found in asked.report.to_dict()["mask_noise"].items()}
    assert right == {"dilate": 0, "erode": 0, "shift": 1, "box": 0}
    write_report(asked, tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text()
    assert "dilated or eroded by 15.0 % of the region's size (square root of its area), shifted by 10.0 %" in page
    assert "| exact | 100.0 % | 100.0 % |\n| dilate | 0.0 % | 0.0 % |" in page


def test_a_protocol_takes_the_first_images_of_each_class_with_their_crowds(four_images: RegionSet):
    # Cats: images 0 and 1 with its crowd, not 2, which is its third. Dogs: images 1 and 3.
    protocol = evaluate(FakePredictor(), four_images).report.to_dict()["protocols"]["eppel_n2"]
    assert (protocol["images_per_class"], protocol["classes"], protocol["regions"]) == (2, 2, 5)
    assert protocol["overall"] == pytest.approx(4 / 5)
    assert protocol["mean_of_class"] == pytest.approx((2 / 3 + 2 / 2) / 2)
    assert protocol["by_size"]["1000"] == {key: protocol[key] for key in ("regions", "mean_of_class", "overall")}
    assert protocol["by_size"]["2000"] == {"regions": 0, "mean_of_class": None, "overall": None}


def test_a_protocol_with_images_to_spare_takes_all(four_images: RegionSet):
    protocol = evaluate(FakePredictor(), four_images).report.to_dict()["protocols"]["eppel_n10"]
    assert (protocol["regions"], protocol["overall"]) == (7, pytest.approx(4 / 7))


def sized_region(folder: Path, mask_hw: tuple[int, int], area: float, image_hw: tuple[int, int]) -> LabelledRegion:
    path = folder / f"{mask_hw[0]}-{area}.png"
    Image.new("RGB", image_hw[::-1]).save(path)
    mask = Mask.from_array(np.ones(mask_hw, bool), image_hw=image_hw)
    return LabelledRegion(path, path.name, "r", "cat", area, False, lambda: mask)


def test_published_sizes_go_by_the_mask_and_cocos_by_the_stated_area(tmp_path: Path):
    shapes = [((31, 32), 992.0), ((40, 40), 1023.5), ((40, 50), 1024.0), ((100, 100), 9216.0)]
    regions = tuple(sized_region(tmp_path, hw, area, (100, 100)) for hw, area in shapes)
    by_size = evaluate(FakePredictor(), RegionSet((Category(0, "cat"),), Regions.of(regions))).report.to_dict()[
        "by_size"
    ]
    assert {name: found["regions"] for name, found in by_size["coco"].items()} == {"small": 2, "medium": 1, "large": 1}
    assert [found["regions"] for found in by_size["published"].values()] == [1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert list(by_size["published"])[-2:] == ["1000000", "above"]
    assert by_size["coco"]["small"]["micro"] == 1
    assert by_size["published"]["8000"] == {"regions": 0, "micro": None, "micro_ci95": (0, 1), "macro": None}


def test_refuses_a_set_without_a_known_class(tmp_path: Path):
    regions = region_set(tmp_path, [[("unicorn", "cat", 5), ("griffin", "cat", 5)]])
    with pytest.raises(AnnotationError, match="classes are unicorn, griffin; the model's are cat, dog, cow"):
        evaluate(FakePredictor(), regions)


def test_refuses_a_set_of_crowds_alone(tmp_path: Path):
    with pytest.raises(AnnotationError, match="without crowds"):
        evaluate(FakePredictor(), region_set(tmp_path, [[("cat", "cat", 5)]], crowds=("0/0",)))


def test_refuses_a_mask_of_another_size_and_names_it(tmp_path: Path):
    regions = region_set(tmp_path, [[("cat", "cat", 5)]])
    Image.new("RGB", (7, 9)).save(tmp_path / "0.png")
    with pytest.raises(MaskError, match=r"annotation id 0/0 of image 0\.png \(id 0\): the mask is 40 x 40"):
        evaluate(FakePredictor(), regions)


def plain(value: object) -> bool:
    """Whether JSON keeps a value as it is."""
    if isinstance(value, dict):
        return all(type(key) is str for key in value) and all(map(plain, value.values()))
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or type(value) in (int, str, bool) or (type(value) is float and math.isfinite(value))


def test_the_folder_holds_the_report_whole_and_no_machine_paths(four_images: RegionSet, tmp_path: Path):
    evaluation = evaluate(FakePredictor(), four_images)
    folder = tmp_path / "deep" / "evaluation"
    write_report(evaluation, folder)
    names = ["accuracy-by-size.png", "confusion.png", "predictions.json", "report.html", "report.json", "report.md"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert plain(json.loads(json.dumps(evaluation.report.to_dict())))
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(evaluation.report.to_dict()))
    page = (folder / "report.md").read_text()
    assert "(confusion.png)" in page
    assert "(accuracy-by-size.png)" in page
    assert "| unicorn | 1 |" in page
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in folder.iterdir())
    for name in names[:2]:
        Image.open(folder / name).verify()


def test_predictions_give_the_headline_again(four_images: RegionSet, tmp_path: Path):
    evaluation = evaluate(FakePredictor(), four_images)
    write_report(evaluation, tmp_path / "out")
    table = json.loads((tmp_path / "out" / "predictions.json").read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    names = {"image_id": 0, "region_id": "0/1", "true": "cat", "predicted": "dog"}
    assert rows[1] == names | {"probability": 0.8, "area": 9.0, "crowd": False}
    right = [row["true"] == row["predicted"] for row in rows if not row["crowd"]]
    assert sum(right) / len(right) == evaluation.report.to_dict()["micro"]


def test_the_report_is_written_where_nothing_is_wrong_and_one_class_is_there(tmp_path: Path):
    write_report(evaluate(FakePredictor(), region_set(tmp_path, [[("cat", "cat", 5)]])), tmp_path / "out")
    assert "Every region is predicted right." in (tmp_path / "out" / "report.md").read_text()


def test_refuses_an_output_that_is_a_file(four_images: RegionSet, tmp_path: Path):
    with pytest.raises(InputError, match="cannot be made a folder"):
        write_report(evaluate(FakePredictor(), four_images), tmp_path / "0.png")


@pytest.fixture
def label_maps(tmp_path: Path) -> Path:
    """Two images and their maps: cats left, told rightly; dogs right, which look like cows. 9 is void."""
    for folder in ("images", "maps"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        pixels, labels = np.zeros((20, 30, 3), np.uint8), np.full((20, 30), 9, np.uint8)
        labels[2:10, 2:10] = 0
        labels[2:10, 20:28], pixels[2:10, 20:28] = 1, 2
        labels[19, 29] = 0  # A stray pixel.
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(labels).save(tmp_path / "maps" / f"{name}.png")
    (tmp_path / "classes.txt").write_text("cat\nhound\n")
    return tmp_path


def test_label_maps_are_evaluated_end_to_end(label_maps: Path):
    sources = (label_maps / "maps", label_maps / "images", label_maps / "classes.txt")
    regions = regions_from_label_maps(*sources, min_area=2).renamed({"hound": "dog"})
    report = evaluate(FakePredictor(), regions).report.to_dict()
    assert (report["regions"], report["images"], report["micro"]) == (4, 2, 0.5)
    assert report["confusions"] == ({"true": "dog", "predicted": "cow", "count": 2},)


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskwise.model.predictor.Predictor", lambda *_args, **_settings: FakePredictor())


@pytest.mark.usefixtures("fake_model")
def test_the_command_renames_ignores_and_says_where_the_report_is(label_maps: Path, capsys: pytest.CaptureFixture[str]):
    images, maps, classes, out = (label_maps / name for name in ("images", "maps", "classes.txt", "out"))
    source = RegionFlags(images=images, label_maps=maps, classes=classes, rename=("hound=dog",), min_area=2)
    Command(regions=source, output=out).run()
    assert "50.0 %" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert (report["data"], report["regions"]) == (f"{label_maps.name}/maps", 4)
    Command(regions=RegionFlags(images=images, label_maps=maps, classes=classes, ignore=("hound",)), output=out).run()
    report = json.loads((out / "report.json").read_text())
    assert (report["regions"], report["unknown_classes"]) == (4, {})


@pytest.mark.parametrize(("min_area", "areas"), [(0.0, [1, 64]), (0.01, [64]), (2.0, [64]), (65.0, [])])
def test_small_regions_of_label_maps_are_given_as_a_share_or_in_pixels(
    tmp_path: Path, min_area: float, areas: list[int]
):
    """A square of 64 pixels and a single pixel, in an image of 600: one hundredth of it is 6."""
    for name in ("images", "maps"):
        (tmp_path / name).mkdir()
    labels = np.zeros((20, 30), dtype=np.uint8)
    labels[2:10, 2:10], labels[19, 29] = 1, 1
    Image.fromarray(labels).save(tmp_path / "maps/a.png")
    Image.fromarray(np.stack([labels] * 3, axis=2)).save(tmp_path / "images/a.png")
    (tmp_path / "classes.txt").write_text("background\ncat\n")
    source = RegionFlags(
        images=tmp_path / "images",
        label_maps=tmp_path / "maps",
        classes=tmp_path / "classes.txt",
        ignore=("background",),
        min_area=min_area,
    )
    source.check("evaluate")
    assert sorted(source.read().regions.areas().tolist()) == areas


@pytest.mark.usefixtures("fake_model")
def test_the_command_leaves_out_small_regions_of_a_coco_file(label_maps: Path):
    boxes = {1: [2, 2, 8, 8], 2: [29, 19, 1, 1]}
    annotations = [
        {"id": i, "image_id": 1, "category_id": 3, "bbox": box, "area": box[2] * box[3]} for i, box in boxes.items()
    ]
    images, categories = [{"id": 1, "file_name": "a.png"}], [{"id": 3, "name": "cat"}]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (label_maps / "coco.json").write_text(json.dumps(coco))
    out = label_maps / "out"
    source = RegionFlags(images=label_maps / "images", annotations=label_maps / "coco.json", min_area=2)
    Command(regions=source, output=out).run()
    assert json.loads((out / "report.json").read_text())["regions"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "either ANNOTATIONS"),
        ({"annotations": Path("a.json"), "label_maps": Path("maps")}, "either ANNOTATIONS"),
        ({"label_maps": Path("maps")}, "--label-maps goes with --classes, or with --palette"),
        ({"annotations": Path("a.json"), "rename": ("sofa",)}, "--rename sofa: give OLD=NEW"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_line(flags: dict, message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        Command(regions=RegionFlags(images=Path("images"), **flags)).run()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
