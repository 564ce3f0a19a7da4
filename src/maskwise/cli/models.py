"""`maskwise models`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from maskwise.tasks.listing import ModelRecord


@dataclass(frozen=True, kw_only=True)
class Command:
    """List the models there are, and what their files say of them.

    `default` is the built-in model. Put model files (.onnx) into the folder that MASKWISE_MODELS names, or into the one
    that this command prints: `--model NAME` then finds NAME.onnx from anywhere.

    Examples:
      maskwise models
      maskwise models --classes
      maskwise models --measure --json
    """

    measure: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Measure the speed of each model on this machine, about four seconds each."""
    classes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also print the classes that each model knows."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON, classes included."""

    def run(self) -> None:
        """List."""
        import json

        from maskwise.model.model_folder import models_folder
        from maskwise.tasks.listing import list_models

        records = list(list_models(measure=self.measure))
        if self.json:
            print(json.dumps([record.to_dict() for record in records], indent=2, ensure_ascii=False))
            return
        for record in records:
            _show(record, classes=self.classes)
        there = "" if models_folder().is_dir() else " (not there yet)"
        print(f"\nfolder of your models: {models_folder()}{there}")


def _show(record: ModelRecord, *, classes: bool) -> None:
    """Print what is known of a model, a line for each thing."""
    from maskwise.reports.formatting import percent

    print(f"{record.name}: {record.path}, {record.size_mb} MB")
    if record.fault is not None:
        print(f"  cannot be used: {record.fault}")
        return
    shown = ", ".join(record.classes if classes else record.classes[:6])
    more = "" if classes or len(record.classes) <= 6 else ", ..."
    lines = {
        "knows": f"{len(record.classes)} classes: {shown}{more}",
        '"none of these"': "yes" if record.says_none else "no",
        "accuracy": "not recorded"
        if record.accuracy is None
        else f"{percent(record.accuracy)} of {record.accuracy_of}",
        "embedding": f"{record.features} numbers, {record.crops} crop(s) of a region",
        "licence": record.licence or "not recorded",
    }
    if record.regions_per_second is not None:
        lines["speed"] = f"{record.regions_per_second} regions per second, here and now"
    for key, value in lines.items():
        print(f"  {key}: {value}")
