"""The notebook of the examples: its cells run, and show what is kept in the file."""

import ast
import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_cell(source, names):
    """Run a cell; return the value of its last line, as a notebook shows it."""
    *first, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        first.append(last)
    exec(compile(ast.Module(first, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


@pytest.fixture(scope="module")
def values():
    """The value of every code cell, and the cell."""
    cells = json.loads((EXAMPLES / "maskwise.ipynb").read_text())["cells"]
    names, pairs = {}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(EXAMPLES)
        for cell in cells:
            if cell["cell_type"] == "code":
                pairs.append((cell, run_cell("".join(cell["source"]), names)))
    return pairs


def test_every_cell_runs_and_its_output_is_kept(values):
    assert len(values) == 6
    for cell, value in values:
        assert value is not None
        assert cell["outputs"], cell["source"]


def test_what_the_cells_show_is_right(values):
    predictions, best, picture, (is_none, known, _), _, alike = (value for _, value in values)
    assert [one.name for one in predictions] == ["cup", "spoon", "dining table"]
    assert best.name == "cup"
    assert picture.size == (450, 300)
    assert is_none
    assert known < 0.5
    assert alike[0] == 1
    assert alike[3] > 0.9 > max(alike[1], alike[2])
