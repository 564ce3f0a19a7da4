"""Own classes from a few regions: accuracy of `maskwise fit` against examples per class, on clothing and street scenes.

Beside it, the same number of regions in a linear layer on an ImageNet ResNet-50's features averaged under the mask
(a view of twice the region's box, as in the data's own baseline), and models that were trained on all regions.
Embeddings and figures are kept in a folder, so that a stopped run goes on. Nothing is chosen by the val parts.
With `--only fit`, after the built-in model has changed, the rest is kept from the output.

Run from the repository's root:
python benchmarks/fit.py -o benchmarks/results/fit --fine-tuned camvid=runs/camvid --fine-tuned clothing=runs/clothing
"""

from __future__ import annotations

import argparse
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from maskwise import Predictor
from maskwise.data.atomic_files import make_folder, read_json, whole_file, write_json, write_text
from maskwise.data.label_maps import regions_from_label_maps
from maskwise.data.regions import RegionSet
from maskwise.data.sampling import sample_per_class
from maskwise.model.session import built_in_model
from maskwise.reports.figures import BLUE, save_figure
from maskwise.reports.formatting import percent, table
from maskwise.tasks.embedding import embed_regions
from maskwise.tasks.evaluation import evaluate
from maskwise.tasks.linear_heads import choose_head
from maskwise.tasks.metrics import calibration_error, macro_accuracy, micro_accuracy
from maskwise.training.builder import build_network
from maskwise.training.checkpoint import Checkpoint
from maskwise.training.exporting import export_model
from maskwise.training.settings import NetworkSettings, RunSettings, TrainSettings, expand_variables
from maskwise.views.view import ViewSettings

SETS = {"clothing": ("null",), "camvid": ()}
"""Data sets, and the classes that are ignored in each."""
MIN_AREA = 300
PER_CLASS = (1, 2, 5, 10, 20, 50, None)
"""None: all regions."""
DRAWS = 3
FEW = 20
"""Above this number of examples per class only one draw is made: fitting takes long."""
RESNET50 = NetworkSettings(trunk="resnet50", trunk_options={}, sites=(), pool="mask", stride_in_1x1=True)
METHODS = {"fit": "maskwise fit", "probe": "linear layer on ResNet-50 (ImageNet)"}
COLOURS = {"fit": BLUE, "probe": "#8a8a8a", "fine-tuned": "#c23b22"}


@dataclass(frozen=True)
class Embedded:
    """Embeddings of the regions of one part of a data set."""

    regions: RegionSet
    embeddings: np.ndarray
    regions_per_s: float

    @property
    def images(self) -> np.ndarray:
        """Return the image index of each region."""
        return np.unique([str(region.image_path) for region in self.regions.regions], return_inverse=True)[1]


def read(name: str, part: str) -> RegionSet:
    """Return the labelled regions of one part of a data set, without small ones and ignored classes."""
    folder = Path(expand_variables("${MASKWISE_DATA}")) / name
    regions = regions_from_label_maps(
        folder / part / "labels", folder / part / "images", folder / "classes.txt", min_area=MIN_AREA
    )
    return regions.without(SETS[name])


def resnet50(path: Path) -> Path:
    """Return a model file of the pretrained ResNet-50 with mask pooling and a random head."""
    settings = TrainSettings(
        network=RESNET50, view=ViewSettings(context=2.0), run=RunSettings(name="resnet50-imagenet")
    )
    weights = expand_variables("${MASKWISE_WEIGHTS}/resnet50_v1_imagenet.safetensors")
    network = build_network(settings.network, classes=2, weights=weights)
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    categories = read("camvid", "val").categories[:2]
    checkpoint = path.with_suffix(".safetensors")
    Checkpoint(settings, categories, 0, 1.0, {}, tensors).save(checkpoint)
    export_model(checkpoint, path, "fp32")
    return path


def model_of(method: str, cache: Path) -> Path:
    """Return the model file whose embeddings a method uses."""
    if method == "fit":
        return built_in_model()
    probe = cache / "resnet50.onnx"
    return probe if probe.is_file() else resnet50(probe)


def digest(model: Path) -> str:
    """Return a short text that differs between models."""
    return hashlib.sha256(model.read_bytes()).hexdigest()[:8]


def embedded(name: str, part: str, method: str, model: Path, cache: Path) -> Embedded:
    """Return a part's embeddings, cached in a file between runs."""
    regions = read(name, part)
    path = cache / f"{name}-{part}-{method}-{digest(model)}.npz"
    if not path.is_file():
        started = time.monotonic()
        rows = embed_regions(Predictor(model, mode="exact"), regions.regions, what=f"{name} {part}, {method}")
        with whole_file(path) as temporary:
            np.savez(temporary, embeddings=rows, regions_per_s=len(rows) / (time.monotonic() - started))
    kept = np.load(path, allow_pickle=False)
    return Embedded(regions, kept["embeddings"], float(kept["regions_per_s"]))


def measure(train: Embedded, val: Embedded, method: str, per_class: int | None, seed: int) -> dict[str, Any]:
    """Fit a head to a draw of the training regions; return its figures on val, without classes that have no example."""
    numbers = {region.region_id: number for number, region in enumerate(train.regions.regions)}
    drawn = train.regions if per_class is None else sample_per_class(train.regions, per_class, seed=seed)
    chosen = np.array([numbers[region.region_id] for region in drawn.regions])
    names = sorted({region.name for region in drawn.regions})
    targets = np.array([names.index(region.name) for region in drawn.regions])
    started = time.monotonic()
    trial = choose_head(
        "auto" if method == "fit" else "linear", train.embeddings[chosen], targets, train.images[chosen]
    )[0]
    head = trial.fit(train.embeddings[chosen], targets)
    seconds = time.monotonic() - started
    asked = np.array([number for number, region in enumerate(val.regions.regions) if region.name in names])
    right = np.array([names.index(val.regions.regions[number].name) for number in asked])
    logits = head.logits(val.embeddings[asked]) / trial.temperature
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = (probabilities / probabilities.sum(axis=1, keepdims=True)).astype(np.float32)
    predicted = probabilities.argmax(axis=1)
    return {
        "regions": len(chosen),
        "classes": len(names),
        "head": trial.name,
        "micro": micro_accuracy(predicted, right),
        "macro": macro_accuracy(predicted, right),
        "ece": calibration_error(probabilities, right),
        "fit_s": round(seconds, 2),
        "total_s": round(seconds + len(chosen) / train.regions_per_s, 1),
    }


def curve(name: str, method: str, model: Path, cache: Path) -> list[dict[str, Any]]:
    """Return the figures of one method by examples per class: every draw and the mean."""
    train, val = (embedded(name, part, method, model, cache) for part in ("train", "val"))
    points = []
    for per_class in PER_CLASS:
        draws = []
        for seed in range(DRAWS if per_class and per_class <= FEW else 1):
            kept = cache / f"{name}-{method}-{digest(model)}-{per_class}-{seed}.json"
            if not kept.is_file():
                write_json(kept, measure(train, val, method, per_class, seed))
            draws.append(read_json(kept))
        mean = {key: float(np.mean([draw[key] for draw in draws])) for key in ("micro", "macro", "ece", "total_s")}
        points.append({"per_class": per_class, **mean, "val_regions": len(val.regions.regions), "draws": draws})
        print(name, method, per_class, mean, flush=True)
    return points


def fine_tuned(name: str, folder: Path) -> dict[str, Any]:
    """Return the figures of a trained run on the same regions."""
    report = evaluate(Predictor(folder / "model.onnx", mode="exact"), read(name, "val")).report.to_dict()
    run = read_json(folder / "run.json")
    return {**{key: report[key] for key in ("micro", "macro", "ece")}, "total_s": run["seconds"]}


def page(content: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    parts = [
        "# Own classes from a few regions",
        f"`maskwise fit` against examples per class, on regions of at least {MIN_AREA} pixels of images that it never"
        f" saw; mean of {DRAWS} draws for up to {FEW} examples a class, one draw above. Seconds:"
        " embedding and fitting, on the machine that ran it.",
        "![Accuracy against examples per class](fit.png)",
    ]
    for name, results in content["sets"].items():
        rows = []
        for fitted, probe in zip(results["fit"], results["probe"], strict=True):
            rows.append(
                (
                    "all" if fitted["per_class"] is None else fitted["per_class"],
                    fitted["draws"][0]["regions"],
                    percent(fitted["micro"]),
                    percent(fitted["macro"]),
                    percent(probe["micro"]),
                    percent(probe["macro"]),
                    percent(fitted["ece"]),
                    f"{fitted['total_s']:.0f}",
                )
            )
        if "fine-tuned" in results:
            tuned = results["fine-tuned"]
            rows.append(
                (
                    "all, trained",
                    "",
                    percent(tuned["micro"]),
                    percent(tuned["macro"]),
                    "",
                    "",
                    percent(tuned["ece"]),
                    tuned["total_s"],
                )
            )
        header = (
            "examples a class",
            "regions",
            "fit: micro",
            "fit: macro",
            "ResNet-50: micro",
            "ResNet-50: macro",
            "fit: calibration error",
            "seconds",
        )
        parts += [
            f"## {name}: {results['fit'][-1]['draws'][0]['classes']} classes,"
            f" {results['fit'][0]['val_regions']} regions",
            table(header, rows),
        ]
    return "\n\n".join(parts) + "\n"


def figure(content: dict[str, Any]) -> Figure:
    """Return a figure with a panel per data set: micro and macro accuracy against examples per class."""
    picture = Figure(figsize=(10, 4), dpi=110, layout="constrained")
    for axes, (name, results) in zip(picture.subplots(1, len(content["sets"])), content["sets"].items(), strict=True):
        places = np.arange(len(PER_CLASS))
        for method, label in METHODS.items():
            for measure_name, style in (("micro", "-"), ("macro", ":")):
                values = [point[measure_name] for point in results[method]]
                axes.plot(
                    places,
                    values,
                    style,
                    marker="o",
                    markersize=4,
                    color=COLOURS[method],
                    label=f"{label}, {'over regions' if measure_name == 'micro' else 'over classes'}",
                )
        if "fine-tuned" in results:
            axes.axhline(
                results["fine-tuned"]["micro"], color=COLOURS["fine-tuned"], linewidth=1, label="trained on all"
            )
        axes.set_xticks(places, ["all" if n is None else str(n) for n in PER_CLASS])
        axes.set_xlabel("examples a class")
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(color="#e6e6e6", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(name)
    picture.axes[-1].legend(fontsize=8, frameon=False, loc="lower right")
    return picture


def main() -> None:
    """Measure both data sets and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("runs/fit-embeddings"))
    parser.add_argument("--only", choices=METHODS, help="measure only this method; take the rest from the output")
    parser.add_argument("--fine-tuned", action="append", default=[], metavar="SET=RUN")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    make_folder(args.output)
    make_folder(args.cache)
    kept = read_json(args.output / "fit.json") if args.only else {"sets": {name: {} for name in SETS}}
    content: dict[str, Any] = {"min_area": MIN_AREA, "sets": kept["sets"]}
    for method in (args.only,) if args.only else METHODS:
        model = model_of(method, args.cache)
        for name in SETS:
            content["sets"][name][method] = curve(name, method, model, args.cache)
    for text in args.fine_tuned:
        name, _, folder = text.partition("=")
        content["sets"][name]["fine-tuned"] = fine_tuned(name, Path(folder))
    write_json(args.output / "fit.json", content)
    save_figure(figure(content), args.output / "fit.png")
    write_text(args.output / "fit.md", page(content))


if __name__ == "__main__":
    main()
