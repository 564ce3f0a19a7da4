"""`maskwise audit`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from maskwise.cli.options import DeviceFlag, MinKnown, Mode, ModelFile, Threads, wrong_usage
from maskwise.cli.region_options import RegionFlags


@dataclass(frozen=True, kw_only=True)
class Command:
    """Find labels that look wrong, and correct them on a page.

    Every region is judged by something that has not seen its label: the model if it knows the names, else heads fitted
    to other images. Also listed: regions that look like none of the classes, are outlined twice, or have hardly any
    pixels; with --unlabelled also things that no label covers. Writes audit.json, audit.csv and audit.html into a
    folder; the page saves corrections.json.

    Examples:
      maskwise audit photos labels.json -o audit
      maskwise audit photos labels.json --how cross-validated -o audit
      maskwise audit photos labels.json --unlabelled -o audit
      maskwise audit photos labels.json --apply corrections.json -o fixed.json
    """

    regions: Annotated[RegionFlags, tyro.conf.arg(name="")]
    """The labelled regions."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("audit")
    """Folder to write; with --apply the COCO file to write."""
    apply: Path | None = None
    """Corrections that the page saved: write the corrected COCO file instead of looking for suspicions."""
    how: Literal["auto", "model", "cross-validated"] = "auto"
    """Who judges: the model, or heads fitted to other images; auto asks the model if it knows the names."""
    unlabelled: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also look for things of the classes that have no label; takes seconds per image."""
    limit: int = 200
    """Suspicions on the page; the other files have all."""
    min_known: MinKnown = None
    mode: Mode = "exact"
    model: ModelFile = None
    device: DeviceFlag = "cpu"
    threads: Threads = None

    def run(self) -> None:
        """Audit, or apply corrections."""
        self.regions.check("audit")
        if self.limit < 1:
            wrong_usage("audit", f"--limit {self.limit}: give at least 1")
        if self.apply is not None:
            self._apply(self.apply)
            return
        from maskwise.data.atomic_files import make_folder
        from maskwise.model.predictor import Predictor
        from maskwise.model.segmenter import Segmenter
        from maskwise.reports.audit_folder import WHY, write_audit
        from maskwise.tasks.auditing import audit

        regions = self.regions.read()
        predictor = Predictor(
            self.model, mode=self.mode, device=self.device, threads=self.threads, min_known=self.min_known
        )
        make_folder(self.output)
        segmenter = Segmenter(threads=self.threads) if self.unlabelled else None
        result = audit(regions, predictor, how=self.how, on_error=self.regions.on_error, segmenter=segmenter)
        write_audit(result, self.output, title=self.regions.name, limit=self.limit)
        counts = Counter(one.kind for one in result.suspicions)
        print(f"{len(result.regions)} regions, {len(result.suspicions)} suspicions (judge: {result.how})")
        for kind, count in counts.most_common():
            print(f"  {count} {WHY[kind]}")
        print(f"{self.output / 'audit.html'}: the page")

    def _apply(self, corrections: Path) -> None:
        from maskwise.tasks.corrections import apply_corrections, read_corrections

        if self.regions.annotations is None:
            wrong_usage("audit", "--apply needs ANNOTATIONS, a COCO file")
        done = apply_corrections(self.regions.annotations, read_corrections(corrections), self.output)
        print(
            f"{self.output}: {done.renamed} annotations have a new name, {done.removed} were taken out,"
            f" {done.added} are new"
        )
