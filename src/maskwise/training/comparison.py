"""Compare variants: train each with the same budget and seeds, evaluate all on the same regions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
from maskwise.training.distributed import refuse_several
from maskwise.training.exporting import export_model
from maskwise.training.loop import network_of, probe_size, train
from maskwise.training.settings import (
    SourceSettings,
    TrainSettings,
    expand,
    read_toml,
    settings_from_dict,
    settings_to_dict,
    structure,
)

PICTURE = "comparison.png"
RESULT = "result.json"
USUAL_HW = (480, 640)
"""Height and width on which the cost of a whole-image model is counted, pixels: COCO's usual size."""


@dataclass(frozen=True, kw_only=True)
class VariantSettings:
    """One row of a comparison."""

    name: str
    """What the table calls it."""
    recipe: str = ""
    """Recipe that it starts from, relative to the comparison's file; none: the settings' own defaults."""
    change: dict[str, Any] = field(default_factory=dict)
    """What is its own, laid over `base`."""


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """A comparison; a TOML file has these sections."""

    evaluate: SourceSettings
    """The regions that all are judged on, relative to data_root."""
    variants: tuple[VariantSettings, ...]
    """The rows, in order."""
    base: dict[str, Any] = field(default_factory=dict)
    """Settings of a run that all have in common: the budget, the data, the view."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Every variant is trained once with each."""
    reference: str = ""
    """Source of the study that is repeated, for the page."""


@dataclass(frozen=True)
class Row:
    """A variant and what came of it with each seed.

    Attributes:
        name: of the variant.
        results: of each seed: `micro`, `macro`, `by_size` as in an evaluation's report, `seconds` of training, and
            `gmac`, 10^9 multiplications and additions of one region's pass.
    """

    name: str
    results: tuple[dict[str, Any], ...]

    def values(self, *keys: str) -> np.ndarray:
        """One figure of every seed; NaN where an evaluation had no region for it."""
        found = []
        for result in self.results:
            value: Any = result
            for key in keys:
                value = value[key]
            found.append(np.nan if value is None else value)
        return np.array(found, dtype=float)


def read_comparison(path: Path) -> tuple[CompareSettings, dict[str, TrainSettings]]:
    """Read a comparison; gives its settings and, by name, those of every variant's run (with the first seed).

    Raises:
        SettingsError: the file or a recipe cannot be read, a setting is unknown, or variants clash.
    """
    settings = structure(read_toml(path), CompareSettings, str(path))
    runs: dict[str, TrainSettings] = {}
    for variant in settings.variants:
        if _slug(variant.name) in map(_slug, runs):
            raise SettingsError(f"{path}: two variants are called {variant.name!r}, or nearly so")
        recipe = read_toml(path.parent / variant.recipe) if variant.recipe else {}
        content = _laid_over(_laid_over(recipe, settings.base), variant.change)
        runs[variant.name] = settings_from_dict(content, f"{path}: variant {variant.name!r}")
    if not runs or not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise SettingsError(f"{path}: names no variant or no seed, or a seed twice")
    if len({run.schedule.precision for run in runs.values()}) > 1:
        raise SettingsError(f"{path}: schedule.precision must be the same for all variants")
    return settings, runs


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both; where both have a table its entries are joined, and elsewhere the upper one holds."""
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _laid_over(out[key], value) if both else value
    return out


def compare_variants(path: Path, folder: Path) -> list[Row]:
    """Train and judge every variant with every seed, and write the table and the picture.

    Of each run its figures, record and log are kept in the folder, not its weights. A comparison that was stopped goes
    on where it was; the page is written anew after every run.

    Args:
        path: the comparison (TOML).
        folder: gets `comparison.json`, `comparison.md`, `comparison.png` and a folder per run; made if missing.

    Raises:
        SettingsError: see `read_comparison`; a run's settings do not fit; the folder has figures of others; or there
            are several processes.
        AnnotationError, ImageError, MaskError, ModelError: as in training and evaluation.
        InputError: the folder cannot be made.
    """
    refuse_several()
    settings, runs = read_comparison(path)
    make_folder(folder)
    for run in runs.values():  # A mistyped site should not come up after hours.
        with torch.device("meta"):
            build_network(run.network, classes=1, probe_size=probe_size(run))
    data = next(iter(runs.values())).data
    regions = read_source(settings.evaluate, Path(expand(data.data_root)))
    planned = [(name, seed, _seeded(run, name, seed)) for seed in settings.seeds for name, run in runs.items()]
    places = {(name, seed): folder / "runs" / f"{_slug(name)}-seed-{seed}" for name, seed, _ in planned}
    done = {}
    for name, seed, run in planned:
        result = _kept(places[name, seed], run, settings.evaluate)
        if result is not None:
            done[name, seed] = result
    if done:
        write_comparison(_rows(runs, settings.seeds, done), settings, runs, folder)
    for name, seed, run in planned:  # Seed by seed, so that a comparison stopped early has every row.
        if (name, seed) not in done:
            done[name, seed] = _result(run, regions, places[name, seed], settings.evaluate)
            write_comparison(_rows(runs, settings.seeds, done), settings, runs, folder)
    return _rows(runs, settings.seeds, done)


def _seeded(run: TrainSettings, name: str, seed: int) -> TrainSettings:
    return replace(run, schedule=replace(run.schedule, seed=seed), run=replace(run.run, name=name))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _rows(names: Iterable[str], seeds: Sequence[int], done: dict[tuple[str, int], dict[str, Any]]) -> list[Row]:
    rows = [Row(name, tuple(done[name, seed] for seed in seeds if (name, seed) in done)) for name in names]
    return [row for row in rows if row.results]


def _kept(folder: Path, run: TrainSettings, judged_on: SourceSettings) -> dict[str, Any] | None:
    """The figures of a run that is done; a setting that is younger than it had the value of today's default."""
    path = folder / RESULT
    if not path.is_file():
        return None
    result = read_json(path)
    try:
        kept = (
            settings_from_dict(result["settings"], str(path)),
            structure(result["judged_on"], SourceSettings, str(path)),
        )
    except (KeyError, TypeError, SettingsError) as error:
        raise SettingsError(f"{path}: does not say of which settings it is ({error}); empty the folder") from error
    if kept != (run, judged_on):
        raise SettingsError(f"{folder}: holds figures of other settings; empty the folder, or give another")
    return result


def _result(run: TrainSettings, regions: RegionSet, folder: Path, judged_on: SourceSettings) -> dict[str, Any]:
    """Train, judge, and keep the figures of one run."""
    final = train(run, folder)
    model = folder / "model.onnx"
    export_model(final, model, "fp32")
    report = evaluate(Predictor(model, mode="exact"), regions).report
    checkpoint = load_checkpoint(final)
    result = {
        "settings": settings_to_dict(run),
        "judged_on": asdict(judged_on),
        **{name: report[name] for name in ("regions", "micro", "macro", "top5", "ece", "by_size")},
        "record": checkpoint.record,
        "seconds": checkpoint.record["seconds"],
        "gmac": gmac(network_of(checkpoint), (run.view.size,) * 2 if run.view.kind == "crop" else USUAL_HW),
    }
    write_json(folder / RESULT, result)
    for path in folder.iterdir():  # Of a hundred runs the weights alone would take many gigabytes.
        if path.suffix in (".safetensors", ".onnx"):
            path.unlink()
    return result


def gmac(network: torch.nn.Module, image_hw: tuple[int, int]) -> float:
    """10^9 multiplications and additions of one pass over one view.

    Args:
        network: takes images and masks.
        image_hw: height and width of the view, pixels.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *image_hw, 3, dtype=torch.uint8), torch.zeros(1, *image_hw, dtype=torch.uint8))
    return float(f"{counter.get_total_flops() / 2e9:.4g}")


def write_comparison(
    rows: Sequence[Row], settings: CompareSettings, runs: dict[str, TrainSettings], folder: Path
) -> None:
    """Write `comparison.md`, `comparison.png` and `comparison.json`, each whole or not at all.

    Args:
        rows: what was found; with as many seeds as are done.
        settings: of the comparison.
        runs: settings of every row's run.
        folder: must be there.
    """
    save_figure(comparison_figure(rows), folder / PICTURE)
    write_text(folder / "comparison.md", markdown(rows, settings, runs))
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


def markdown(rows: Sequence[Row], settings: CompareSettings, runs: dict[str, TrainSettings]) -> str:
    """The page to read.

    Args:
        rows: what was found.
        settings: of the comparison.
        runs: settings of every row's run.
    """
    sizes = [("by_size", "coco", name, "micro") for name in COCO_SIZES]
    overall = [
        (
            row.name,
            spread(row.values("micro")),
            spread(row.values("macro")),
            *(spread(row.values(*keys)) for keys in sizes),
            f"{row.values('gmac').mean():.2f}",
            f"{row.values('seconds').mean():.0f}",
        )
        for row in rows
    ]
    header = ("variant", "regions (micro)", "classes (macro)", *COCO_SIZES, "GMAC a region", "training, s")
    bins = [
        (label, key)
        for key, label in zip(PUBLISHED_BINS, published_labels(), strict=True)
        if rows[0].results[0]["by_size"]["published"][key]["regions"]
    ]
    by_bin = [
        (row.name, *(spread(row.values("by_size", "published", key, "micro")) for _, key in bins)) for row in rows
    ]
    counts = [str(rows[0].results[0]["by_size"]["published"][key]["regions"]) for _, key in bins]
    return (
        "\n\n".join(
            [
                f"# {len(rows)} variants compared",
                _introduction(rows, settings, runs),
                table(header, overall),
                f"![Accuracy of every variant, by size]({PICTURE})",
                "By pixels of the mask:",
                table(("variant", *(label for label, _ in bins)), [("(regions)", *counts), *by_bin]),
            ]
        )
        + "\n"
    )


def _introduction(rows: Sequence[Row], settings: CompareSettings, runs: dict[str, TrainSettings]) -> str:
    samples = sorted({run.schedule.steps * run.schedule.batch_size for run in runs.values()})
    seeds = sorted({len(row.results) for row in rows})
    return (
        f"Each trained on {_range(samples)} samples and judged on the same"
        f" {rows[0].results[0]['regions']} regions of `{settings.evaluate.images}`; mean over"
        f" {_range(seeds)} seeds, and the seeds' standard deviation after ±."
        " Accuracies in %. " + (f"Source of the study: {settings.reference}." if settings.reference else "")
    ).strip()


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def spread(values: np.ndarray) -> str:
    """Mean and standard deviation of shares, in percent.

    >>> spread(np.array([0.5, 0.52])), spread(np.array([0.5])), spread(np.array([np.nan]))
    ('51.0 ± 1.4', '50.0', '')
    """
    if np.isnan(values).all():
        return ""
    mean = percent(float(values.mean())).removesuffix(" %")
    return mean if len(values) < 2 else f"{mean} ± {100 * values.std(ddof=1):.1f}"


def comparison_figure(rows: Sequence[Row]) -> Figure:
    """A panel for all regions and one for each of COCO's sizes: a dot per seed, a bar for the mean."""
    panels = [("all regions", ("micro",)), ("mean over classes", ("macro",))]
    panels += [(f"{name} regions", ("by_size", "coco", name, "micro")) for name in COCO_SIZES]
    figure = Figure(figsize=(13, 0.36 * len(rows) + 1.4), dpi=110, layout="constrained")
    for axes, (title, keys) in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
        _draw_panel(axes, title, [row.values(*keys) for row in rows])
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
    figure.axes[0].invert_yaxis()
    return figure


def _draw_panel(axes: Axes, title: str, values: list[np.ndarray]) -> None:
    for number, of_row in enumerate(values):
        axes.plot(of_row, np.full(len(of_row), number), "o", color=BLUE, markersize=4, alpha=0.6)
        axes.plot(of_row.mean(), number, "|", color="#c23b22", markersize=14, markeredgewidth=2)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10)
