"""Write an evaluation as a folder: numbers, a page and pictures."""

from __future__ import annotations

import os

from maskwise.data.atomic_files import make_folder, write_json, write_text
from maskwise.data.problems import write_problems
from maskwise.errors import MissingExtraError
from maskwise.extras import needs_extra
from maskwise.reports.evaluation_page import write_evaluation_page
from maskwise.reports.markdown import BY_SIZE, CONFUSION, report_markdown
from maskwise.tasks.evaluation import PREDICTION_COLUMNS, Evaluation

PAGE = "report.html"


def write_report(evaluation: Evaluation, folder: str | os.PathLike[str]) -> MissingExtraError | None:
    """Write `report.html`, `report.md`, `predictions.json`, two pictures and `report.json`; each whole, that one last.

    `predictions.json` has `columns` and `data`, a row per region; pandas reads it with `orient="split"`. If faults were
    left out, `problems.json` lists them.

    Args:
        evaluation: see `evaluate`.
        folder: made if missing; files of these names in it are replaced.

    Returns:
        None; or, without matplotlib, why there are no pictures and what to install.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    folder, missing = make_folder(folder), None
    try:
        with needs_extra("report"):
            from maskwise.reports.figures import confusion_figure, save_figure, size_figure
    except MissingExtraError as error:
        missing = error
    else:
        save_figure(confusion_figure(evaluation.confusion, evaluation.classes), folder / CONFUSION)
        save_figure(size_figure(evaluation.report.by_size), folder / BY_SIZE)
    rows = {"columns": PREDICTION_COLUMNS, "data": evaluation.predictions}
    write_json(folder / "predictions.json", rows, indent=None)
    write_problems(folder / "problems.json", evaluation.problems)
    write_evaluation_page(evaluation, folder / PAGE)
    write_text(folder / "report.md", report_markdown(evaluation.report, pictures=missing is None))
    write_json(folder / "report.json", evaluation.report.to_dict())
    return missing
