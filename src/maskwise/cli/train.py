"""`maskwise train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from maskwise.cli.options import parse_flags
from maskwise.extras import missing_extra
from maskwise.training.settings import TrainSettings, read_recipe


@dataclass(frozen=True, kw_only=True)
class Command:
    """Train a model on COCO files and label maps.

    A recipe (TOML) gives the settings; flags override it. The run folder gets checkpoints, a TensorBoard log, run.json
    and model.onnx. An interrupted run resumes when you repeat the command. For several GPUs or machines use torchrun or
    accelerate launch (docs/training.md).

    Preview the data first: --dry-run trains nothing and draws what the network would see.

    Examples:
      maskwise train recipes/resnet50.toml -o runs/resnet50 --dry-run
      maskwise train recipes/resnet50.toml -o runs/resnet50
      maskwise train recipes/resnet50.toml -o runs/short --schedule.steps 100
      torchrun --nproc-per-node 8 -m maskwise train recipes/resnet50.toml -o runs/resnet50
    """

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/model")
    """Run folder; made if missing."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train nothing: draw the first ten samples into dry-run.png, print counts, and try to load the weights."""
    settings: Annotated[TrainSettings, tyro.conf.arg(name="")] = field(default_factory=TrainSettings)
    """All settings."""

    def run(self) -> None:
        """Train, export, and print the path of the model file."""
        if self.dry_run:
            self._preview()
            return
        try:
            from maskwise.training.distributed import is_main_process
            from maskwise.training.exporting import export_run
            from maskwise.training.loop import train
        except ModuleNotFoundError as error:
            raise missing_extra(error, "train") from error
        final = train(self.settings, self.output)
        if is_main_process():
            print(export_run(final))

    def _preview(self) -> None:
        try:
            from maskwise.training.preview import check_files, dry_run
        except ModuleNotFoundError as error:
            raise missing_extra(error, "train") from error
        picture, lines = dry_run(self.settings, self.output)
        print(f"{picture}: what the network sees")
        print("\n".join(lines))
        check_files(self.settings)


def parse(args: list[str]) -> Command:
    """Read the flags. If the first argument is not a flag, it is a recipe with the flags' defaults.

    Raises:
        SettingsError: the recipe cannot be used.
    """
    settings = TrainSettings()
    if args and not args[0].startswith("-"):
        try:
            settings, args = read_recipe(args[0]), args[1:]
        except ModuleNotFoundError as error:
            raise missing_extra(error, "train") from error
    return parse_flags(Command, args, "maskwise train [RECIPE.toml]", Command(settings=settings))
