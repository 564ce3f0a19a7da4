"""Compare variants: train each with the same budget and seeds, then evaluate all on the same regions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch.utils.flop_counter import FlopCounterMode

from maskwise.data.atomic_files import make_folder, read_json, write_json, write_text
from maskwise.data.regions import RegionSet
from maskwise.errors import SettingsError
from maskwise.model.predictor import Predictor
from maskwise.reports.figures import BLUE, save_figure
from maskwise.reports.formatting import percent, table
from maskwise.reports.markdown import published_labels
from maskwise.tasks.evaluation import COCO_SIZES, PUBLISHED_BINS, evaluate
from maskwise.training.builder import build_network
from maskwise.training.checkpoint import load_checkpoint
from maskwise.training.data import read_source
from maskwise.training.distributed import require_single_process
from maskwise.training.exporting import export_model
from maskwise.training.loop import load_network, probe_size, train
from maskwise.training.settings import (
    SourceSettings,
    TrainSettings,
    data_folder,
    parse_settings,
    read_toml,
    settings_from_dict,
    settings_to_dict,
)

PICTURE = "comparison.png"
RESULT = "result.json"
USUAL_HW = (480, 640)
"""Height and width on which the operations of a whole-image model are counted, pixels: the usual size in COCO."""


@dataclass(frozen=True, kw_only=True)
class VariantSettings:
    """One row of a comparison."""

    name: str
    """Name in the table."""
    recipe: str = ""
    """Recipe to start from, relative to the comparison's file; empty: the default settings."""
    change: dict[str, Any] = field(default_factory=dict)
    """Settings of this variant, applied after `base`."""


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """A comparison; a TOML file has these sections."""

    evaluate: SourceSettings
    """Regions on which all variants are evaluated; paths are absolute, or relative to data_root."""
    variants: tuple[VariantSettings, ...]
    """The variants, in the order of the table."""
    base: dict[str, Any] = field(default_factory=dict)
    """Settings that all variants share, applied after their recipes: budget, data, view."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; every variant is trained once with each."""
    reference: str = ""
    """Source of the study that is repeated, for the page; empty: none."""


@dataclass(frozen=True)
class VariantResults:
    """A variant and its results, one per seed.

    Attributes:
        name: of the variant.
        results: for each seed `micro`, `macro` and `by_size` as in an evaluation's report, `seconds` of training, and
            `gmac`, 10^9 multiply-adds per region.
    """

    name: str
    results: tuple[dict[str, Any], ...]

    def values(self, *keys: str) -> Float64[np.ndarray, " seeds"]:
        """Return one figure of every seed; NaN if the evaluation had no region for it.

        Args:
            *keys: path of the figure in a result, for example "by_size", "coco", "small", "micro".
        """
        values = []
        for result in self.results:
            value: Any = result
            for key in keys:
                value = value[key]
            values.append(np.nan if value is None else value)
        return np.array(values, dtype=float)


def read_comparison(path: Path) -> tuple[ComparisonSettings, dict[str, TrainSettings]]:
    """Read a comparison.

    Returns:
        Its settings, and the run settings of every variant by name. Their seed is not set yet.

    Raises:
        SettingsError: the file or a recipe cannot be read, a setting is unknown, or variants clash.
    """
    settings = parse_settings(read_toml(path), ComparisonSettings, str(path))
    runs: dict[str, TrainSettings] = {}
    for variant in settings.variants:
        if _slug(variant.name) in map(_slug, runs):
            raise SettingsError(f"{path}: two variants have the name {variant.name!r}, or nearly the same")
        recipe = read_toml(path.parent / variant.recipe) if variant.recipe else {}
        content = _merged(_merged(recipe, settings.base), variant.change)
        runs[variant.name] = settings_from_dict(content, f"{path}: variant {variant.name!r}")
    if not runs or not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise SettingsError(f"{path}: has no variant, no seed, or a seed twice")
    if len({run.schedule.precision for run in runs.values()}) > 1:
        raise SettingsError(f"{path}: schedule.precision must be the same for all variants")
    return settings, runs


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return base with changes; tables that both have are merged, other values of base are replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both_tables = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both_tables else value
    return merged


def compare_variants(path: Path, folder: Path) -> list[VariantResults]:
    """Train and evaluate every variant with every seed, and write the table and the picture.

    The folder keeps each run's figures, record and log, but not its weights. A stopped comparison resumes when it is
    started again; the page is rewritten after every run.

    Args:
        path: the comparison (TOML).
        folder: gets `comparison.json`, `comparison.md`, `comparison.png` and a folder per run; made if missing.

    Raises:
        SettingsError: see `read_comparison`; a run's settings do not fit; the folder has results of other settings; or
            there are several processes.
        AnnotationError, ImageError, MaskError, ModelError: as in training and evaluation.
        InputError: the folder cannot be made.
    """
    require_single_process()
    settings, runs = read_comparison(path)
    make_folder(folder)
    for run in runs.values():  # Find a mistyped site now, not after hours.
        with torch.device("meta"):
            build_network(run.network, classes=1, probe_size=probe_size(run))
    data = next(iter(runs.values())).data
    regions = read_source(settings.evaluate, data_folder(data.data_root, (settings.evaluate,)))
    planned = [(name, seed, _seeded(run, name, seed)) for seed in settings.seeds for name, run in runs.items()]
    folders = {(name, seed): folder / "runs" / f"{_slug(name)}-seed-{seed}" for name, seed, _ in planned}
    done = {}
    for name, seed, run in planned:
        result = _earlier_result(folders[name, seed], run, settings.evaluate)
        if result is not None:
            done[name, seed] = result
    if done:
        write_comparison(_rows(runs, settings.seeds, done), settings, runs, folder)
    for name, seed, run in planned:  # Seed by seed, so that a comparison that is stopped early has every row.
        if (name, seed) not in done:
            done[name, seed] = _run_variant(run, regions, folders[name, seed], settings.evaluate)
            write_comparison(_rows(runs, settings.seeds, done), settings, runs, folder)
    return _rows(runs, settings.seeds, done)


def _seeded(run: TrainSettings, name: str, seed: int) -> TrainSettings:
    return replace(run, schedule=replace(run.schedule, seed=seed), run=replace(run.run, name=name))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _rows(
    names: Iterable[str], seeds: Sequence[int], done: dict[tuple[str, int], dict[str, Any]]
) -> list[VariantResults]:
    rows = [VariantResults(name, tuple(done[name, seed] for seed in seeds if (name, seed) in done)) for name in names]
    return [row for row in rows if row.results]


def _earlier_result(folder: Path, run: TrainSettings, judged_on: SourceSettings) -> dict[str, Any] | None:
    """Return the result of a finished run; None if there is none.

    Settings that are newer than the result had the value that is their default today.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    result: dict[str, Any] = read_json(path)
    try:
        earlier_run = settings_from_dict(result["settings"], str(path))
        earlier_source = parse_settings(result["judged_on"], SourceSettings, str(path))
    except (KeyError, TypeError, SettingsError) as error:
        raise SettingsError(f"{path}: has no settings that can be read ({error}); empty the folder") from error
    if earlier_run.without_fallbacks() != run.without_fallbacks() or earlier_source != judged_on:
        raise SettingsError(f"{folder}: has results of other settings; empty the folder, or give another")
    return result


def _run_variant(run: TrainSettings, regions: RegionSet, folder: Path, judged_on: SourceSettings) -> dict[str, Any]:
    """Train and evaluate one run; write and return its result."""
    final = train(run, folder)
    model = folder / "model.onnx"
    export_model(final, model, "fp32")
    figures = _evaluate(model, regions)
    checkpoint = load_checkpoint(final)
    result = {
        "settings": settings_to_dict(run),
        "judged_on": asdict(judged_on),
        **figures,
        "record": checkpoint.record,
        "seconds": checkpoint.record["seconds"],
        "gmac": count_gmac(load_network(checkpoint), (run.view.size,) * 2 if run.view.kind == "crop" else USUAL_HW),
    }
    write_json(folder / RESULT, result)
    for path in folder.iterdir():  # The weights of a hundred runs would take many gigabytes.
        if path.suffix in (".safetensors", ".onnx"):
            path.unlink()
    return result


def _evaluate(model: Path, regions: RegionSet) -> dict[str, Any]:
    """Return the figures of an evaluation that a result keeps."""
    report = evaluate(Predictor(model, mode="exact"), regions).report.to_dict()
    return {name: report[name] for name in ("regions", "micro", "macro", "top5", "ece", "by_size")}


def count_gmac(network: torch.nn.Module, image_hw: tuple[int, int]) -> float:
    """Return the multiply-adds of one pass over one crop, in 10^9.

    Args:
        network: takes images and masks.
        image_hw: height and width of the crop, pixels.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *image_hw, 3, dtype=torch.uint8), torch.zeros(1, *image_hw, dtype=torch.uint8))
    return float(f"{counter.get_total_flops() / 2e9:.4g}")


def write_comparison(
    rows: Sequence[VariantResults], settings: ComparisonSettings, runs: dict[str, TrainSettings], folder: Path
) -> None:
    """Write `comparison.md`, `comparison.png` and `comparison.json`, each whole or not at all.

    Args:
        rows: the results so far.
        settings: of the comparison.
        runs: run settings of every variant.
        folder: must exist.
    """
    save_figure(comparison_figure(rows), folder / PICTURE)
    write_text(folder / "comparison.md", comparison_page(rows, settings, runs))
    content = [
        {
            "name": row.name,
            "settings": settings_to_dict(runs[row.name]),
            "results": [
                {key: result[key] for key in result if key not in ("settings", "judged_on")} for result in row.results
            ],
        }
        for row in rows
    ]
    write_json(
        folder / "comparison.json",
        {"judged_on": asdict(settings.evaluate), "seeds": settings.seeds, "variants": content},
    )


def comparison_page(
    rows: Sequence[VariantResults], settings: ComparisonSettings, runs: dict[str, TrainSettings]
) -> str:
    """Return the page to read, as Markdown.

    Args:
        rows: the results so far.
        settings: of the comparison.
        runs: run settings of every variant.
    """
    sizes = [("by_size", "coco", name, "micro") for name in COCO_SIZES]
    overall = [
        (
            row.name,
            mean_and_deviation(row.values("micro")),
            mean_and_deviation(row.values("macro")),
            *(mean_and_deviation(row.values(*keys)) for keys in sizes),
            f"{row.values('gmac').mean():.2f}",
            f"{row.values('seconds').mean():.0f}",
        )
        for row in rows
    ]
    header = ("variant", "micro accuracy", "macro accuracy", *COCO_SIZES, "GMAC per region", "training, s")
    bins = [
        (label, key)
        for key, label in zip(PUBLISHED_BINS, published_labels(), strict=True)
        if rows[0].results[0]["by_size"]["published"][key]["regions"]
    ]
    by_bin = [
        (row.name, *(mean_and_deviation(row.values("by_size", "published", key, "micro")) for _, key in bins))
        for row in rows
    ]
    counts = [str(rows[0].results[0]["by_size"]["published"][key]["regions"]) for _, key in bins]
    return (
        "\n\n".join(
            [
                f"# Comparison of {len(rows)} variants",
                _introduction(rows, settings, runs),
                table(header, overall),
                f"![Accuracy of every variant, by size]({PICTURE})",
                "Micro accuracy by pixels of the mask:",
                table(("variant", *(label for label, _ in bins)), [("(regions)", *counts), *by_bin]),
            ]
        )
        + "\n"
    )


def _introduction(rows: Sequence[VariantResults], settings: ComparisonSettings, runs: dict[str, TrainSettings]) -> str:
    samples = sorted({run.schedule.steps * run.schedule.batch_size for run in runs.values()})
    seeds = sorted({len(row.results) for row in rows})
    text = (
        f"Every variant was trained on {_range(samples)} samples and evaluated on the same"
        f" {rows[0].results[0]['regions']} regions of `{settings.evaluate.images}`. Accuracies are in %: mean over"
        f" {_range(seeds)} seeds ± standard deviation."
    )
    return f"{text} Source of the study: {settings.reference}." if settings.reference else text


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def mean_and_deviation(values: Float64[np.ndarray, " seeds"]) -> str:
    """Return mean and standard deviation of fractions, in percent; empty if no value is a number.

    >>> mean_and_deviation(np.array([0.5, 0.52])), mean_and_deviation(np.array([0.5]))
    ('51.0 ± 1.4', '50.0')
    >>> mean_and_deviation(np.array([np.nan]))
    ''
    """
    if np.isnan(values).all():
        return ""
    mean = percent(float(values.mean())).removesuffix(" %")
    return mean if len(values) < 2 else f"{mean} ± {100 * values.std(ddof=1):.1f}"


def comparison_figure(rows: Sequence[VariantResults]) -> Figure:
    """Draw panels for micro accuracy, macro accuracy and each of COCO's sizes: a dot per seed, a bar for the mean."""
    panels: list[tuple[str, tuple[str, ...]]] = [("micro accuracy", ("micro",)), ("macro accuracy", ("macro",))]
    panels += [(f"{name} regions", ("by_size", "coco", name, "micro")) for name in COCO_SIZES]
    figure = Figure(figsize=(13, 0.36 * len(rows) + 1.4), dpi=110, layout="constrained")
    for axes, (title, keys) in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
        _draw_panel(axes, title, [row.values(*keys) for row in rows])
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
    figure.axes[0].invert_yaxis()
    return figure


def _draw_panel(axes: Axes, title: str, rows: Sequence[Float64[np.ndarray, " _"]]) -> None:
    for number, values in enumerate(rows):
        axes.plot(values, np.full(len(values), number), "o", color=BLUE, markersize=4, alpha=0.6)
        axes.plot(values.mean(), number, "|", color="#c23b22", markersize=14, markeredgewidth=2)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10)
