"""Compare crops and features of a frozen trunk: fit a head to each and cross-validate it.

Regions are those of the recipe's first source, at most `PER_CLASS` of a class. Heads are what `maskwise fit` fits; each
names regions of images that it has not seen. Features are kept under runs/frozen-probe and used again.

Run from the repository's root:
python benchmarks/frozen_probe.py recipes/resnet50.toml recipes/dinov2-linear.toml -o benchmarks/results/frozen-probe
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskwise.data.atomic_files import make_folder, whole_file, write_json, write_text
from maskwise.data.regions import RegionSet
from maskwise.data.sampling import sample_per_class
from maskwise.reports.formatting import percent, table
from maskwise.tasks.linear_heads import choose_head
from maskwise.training.batches import RegionBatch, read_batches
from maskwise.training.builder import build_network
from maskwise.training.data import UnaugmentedRegions, read_source
from maskwise.training.settings import TrainSettings, expand_variables, read_recipe

PER_CLASS = 250
CACHE = Path("runs/frozen-probe")
EARLIER = 4
"""Number of last blocks to look at, for trunks of tokens."""


@dataclass(frozen=True)
class Look:
    """A way to crop regions, and the size at which the trunk sees the crops.

    Attributes:
        context: side of the view over that of the region's box.
        size: side of what the trunk sees, pixels.
        tokens: of trunks of tokens, how many of those nearest the region go through the blocks; 0: all.
    """

    context: float
    size: int
    tokens: int = 0

    @property
    def name(self) -> str:
        """Name in the table."""
        chosen = f", {self.tokens} tokens nearest the region" if self.tokens else ""
        return f"{self.context:g} x box at {self.size}{chosen}"


LOOKS = (Look(1.5, 224), Look(3.0, 224), Look(1.2, 154), Look(1.5, 154), Look(3.0, 154))
TOKEN_LOOKS = (Look(1.5, 308, 256),)
"""Only for trunks of tokens."""
PAIRS = ((Look(1.2, 154), Look(3.0, 154)), (Look(1.5, 224), Look(3.0, 154)))
"""Pairs of crops whose features are concatenated."""


def features(look: Look, regions: RegionSet, settings: TrainSettings) -> dict[str, np.ndarray]:
    """Return the frozen trunk's features of regions by feature name; each regions x channels."""
    path = CACHE / f"{settings.run.name}-{look.context:g}-{look.size}-{look.tokens}.npz"
    if path.is_file():
        with np.load(path) as kept:
            if len(next(iter(kept.values()))) == len(regions.regions):
                return dict(kept)
    network = build_network(replace(settings.network, sites=(), pool="mask"), classes=1, weights=settings.weights)
    network = network.eval().to(memory_format=torch.channels_last)
    view = replace(settings.view, context=look.context, size=look.size)
    samples = UnaugmentedRegions(regions.regions, view, regions.categories)
    of_batch = _of_tokens if network.features.layout == "tokens" else _of_maps
    parts: dict[str, list[Tensor]] = {}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for batch in read_batches(samples, 1, batch_size=64):
            for name, rows in of_batch(network, batch, look.tokens).items():
                parts.setdefault(name, []).append(rows.float().clone())
    results = {name: torch.cat(rows).numpy() for name, rows in parts.items()}
    make_folder(CACHE)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **results)
    return results


def _of_maps(network: nn.Module, batch: RegionBatch, _tokens: int) -> dict[str, Tensor]:
    both = []
    for pool in ("mask", "mean"):
        network.pool = pool
        both.append(network.embed(batch.images, batch.masks))
    return {"region": both[0], "view": both[1]}


def _of_tokens(network: nn.Module, batch: RegionBatch, tokens: int) -> dict[str, Tensor]:
    trunk, step = network.trunk, network.features.reduction
    pixels = (batch.images.permute(0, 3, 1, 2).float() - network.mean_rgb) / network.std_rgb
    grid = F.avg_pool2d(batch.masks.unsqueeze(1).float() / 255, step)
    coverage = grid.flatten(1)
    values = trunk._pos_embed(trunk.patch_embed(pixels))
    prefix = network.features.prefix
    if tokens:
        chosen = _nearest(grid).topk(tokens, dim=1).indices
        kept = values[:, prefix:].gather(1, chosen[..., None].expand(-1, -1, values.shape[2]))
        values, coverage = torch.cat([values[:, :prefix], kept], dim=1), coverage.gather(1, chosen)
    weight = coverage / coverage.sum(dim=1, keepdim=True).clamp(min=1e-6)
    layers = []
    for block in trunk.blocks:
        values = block(values)
        layers.append(torch.einsum("nt,ntc->nc", weight, values[:, prefix:].float()))
    last = trunk.norm(values).float()
    region = torch.einsum("nt,ntc->nc", weight, last[:, prefix:])
    return {
        "region": region,
        "view": last[:, prefix:].mean(dim=1),
        "class token": last[:, 0],
        "earlier blocks": torch.cat(layers[-EARLIER:-1], dim=1),
    }


def _nearest(grid: Tensor) -> Tensor:
    """Return a score per token, higher near the region; inside a large region, random."""
    near = sum(F.avg_pool2d(grid, 2 * reach + 1, 1, reach) / (reach + 1) for reach in (0, 1, 3, 6))
    scatter = torch.rand(grid.shape[2:], generator=torch.Generator().manual_seed(0))
    return (4 * near + 0.5 * scatter).flatten(1)


def rows_of(settings: TrainSettings) -> list[dict[str, object]]:
    """Return the table's rows of one trunk."""
    source = settings.data.sources[0]
    regions = read_source(source, Path(expand_variables(settings.data.data_root)), images_required=False)
    regions = sample_per_class(regions, PER_CLASS)
    tokens = settings.network.trunk.startswith("vit")
    results = {look: features(look, regions, settings) for look in (*LOOKS, *(TOKEN_LOOKS if tokens else ()))}
    tried = [(look.name, name, (results[look][name],)) for look in results for name in ("region", "view")]
    first = LOOKS[0]
    beside = [name for name in results[first] if name != "region"]
    tried += [(first.name, f"region, {name}", (results[first]["region"], results[first][name])) for name in beside]
    for pair in PAIRS:
        both = tuple(results[look]["region"] for look in pair)
        tried.append((" and ".join(look.name for look in pair), "region of each", both))
    targets = regions.regions.numbered({c.name: i for i, c in enumerate(_present(regions))})
    images = np.unique(regions.regions.images[regions.regions.image], return_inverse=True)[1]
    rows: list[dict[str, object]] = []
    for view, name, arrays in tried:
        for kind in ("mean", "linear") if view == first.name else ("mean",):
            started = time.monotonic()
            best = choose_head(kind, np.concatenate(arrays, axis=1), targets, images)[0]
            rows.append({
                "trunk": settings.network.trunk, "view": view, "features": name, "head": best.name,
                "micro": round(best.micro, 4), "macro": round(best.macro, 4), "likelihood": round(best.likelihood, 3),
                "regions": len(targets),
            })  # fmt: skip
            print(rows[-1], f"{time.monotonic() - started:.0f} s", flush=True)
    return rows


def _present(regions: RegionSet) -> list[object]:
    counts = regions.regions.counts()
    return [category for category in regions.categories if category.name in counts]


def page(rows: list[dict[str, object]]) -> str:
    """Return the results as Markdown."""
    header = ("trunk", "view", "features", "head", "micro", "macro", "log likelihood")
    lines = [
        (row["trunk"], row["view"], row["features"], row["head"], percent(row["micro"]), percent(row["macro"]),
         f"{row['likelihood']:.3f}")
        for row in rows
    ]  # fmt: skip
    return (
        "# Heads on frozen trunks\n\n"
        f"Regions of COCO train2017, at most {PER_CLASS} of a class ({rows[0]['regions']}); five-fold cross-validation"
        " over images. Of each kind of head the strength with the best likelihood is shown. mean: the nearest class"
        " mean under a covariance shrunk by so much; linear: logistic regression at that C. region: the features'"
        " mean under the mask; view: their mean over the whole view.\n\n" + table(header, lines) + "\n"
    )


def main() -> None:
    """Measure every crop, feature and head and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True, help="without suffix; gets .json and .md")
    args = parser.parse_args()
    rows = [row for recipe in args.recipes for row in rows_of(read_recipe(recipe))]
    write_json(args.output.with_suffix(".json"), {"rows": rows})
    write_text(args.output.with_suffix(".md"), page(rows))


if __name__ == "__main__":
    main()
