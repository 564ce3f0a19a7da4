"""Mutation run over the light floor: change one expression at a time and see whether a test fails.

Draws mutants at random from all modules that need no torch. For each, only the light tests that execute the changed
line run, in a copy of the tree. A mutant that no test notices survives.

Run from the repository's root (about a quarter of an hour on two cores):
python benchmarks/mutants.py -o benchmarks/results/mutants
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).parents[1]
LEFT_OUT = (
    "training", "cli/train.py", "cli/average.py", "cli/compare.py", "cli/export.py", "cli/import_eppel.py",
    "reports/figures.py",
)  # fmt: skip
"""Parts that need torch, and the layout of Matplotlib's figures."""
SECONDS = 240
"""Time limit of the tests of one mutant."""
TESTS = ["tests/light", "-m", "not data"]

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Pow: ast.Mult,
}  # fmt: skip
WITHOUT_MEANING = (ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom)
TYPES = ("Literal", "Annotated", "UInt8", "Bool", "Int64", "Int32", "Float64", "Float32")
GUARDS = ("strict", "pad_edge", "box", "log_to_driver", "flush", "kind", "ensure_ascii", "gc", "seed", "random_state")
"""Arguments without an effect on results: guards, hints for speed, seeds, and the looks of tables."""
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil", "argmax": "argmin"}


@dataclass(frozen=True)
class Mutant:
    """One change: the text between two places of a line becomes another."""

    path: str
    line: int
    start: int
    end: int
    before: str
    after: str


FIELDS = ("path", "line", "start", "end", "before", "after")


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: killed, survived, or timed out (which counts as killed)."""

    mutant: Mutant
    state: str
    tests: int
    seconds: float


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Yield the changes of a module that have a meaning: no texts, no annotations, no messages."""
    source = path.read_text()
    lines = source.splitlines()
    for node in _meaningful(ast.parse(source)):
        for changed in _changes(node):
            if node.lineno == node.end_lineno:
                before = lines[node.lineno - 1].encode()[node.col_offset : node.end_col_offset].decode()
                after = ast.unparse(ast.fix_missing_locations(changed))
                if after != ast.unparse(node):
                    name = path.relative_to(ROOT).as_posix()
                    after = (
                        f"({after})"
                        if isinstance(changed, (ast.BinOp, ast.BoolOp, ast.Compare, ast.UnaryOp))
                        else after
                    )
                    yield Mutant(name, node.lineno, node.col_offset, node.end_col_offset, before, after)


def _meaningful(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield expressions outside annotations, texts, raised errors, asserts and decorators."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "type_comment", "exc", "cause"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, WITHOUT_MEANING):
                continue
            if isinstance(child, ast.Assign) and ast.unparse(child.targets[0]).lstrip("_").isupper():
                continue  # A setting: another value is another setting, not a fault.
            if isinstance(child, ast.AnnAssign) and ast.unparse(child.target).isupper():
                continue
            if isinstance(child, ast.keyword) and child.arg in GUARDS:
                continue
            if isinstance(child, ast.Call) and ast.unparse(child.func).endswith("default_rng"):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Subscript) and ast.unparse(child.value) in TYPES:
                continue
            if isinstance(child, ast.expr):
                yield child
            yield from _meaningful(child)


def _changes(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        yield ast.Compare(node.left, [COMPARISONS[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        if not any(
            isinstance(side, (ast.JoinedStr, ast.Constant)) and _is_text(side) for side in (node.left, node.right)
        ):
            yield ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        yield ast.BoolOp(node.op, node.values[1:]) if len(node.values) > 2 else node.values[1]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        yield ast.Constant(not node.value if type(node.value) is bool else node.value + 1)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in NAMES:
            func = (
                ast.Name(NAMES[name])
                if isinstance(node.func, ast.Name)
                else ast.Attribute(node.func.value, NAMES[name])
            )
            yield ast.Call(func, node.args, node.keywords)
        elif node.keywords and not node.args and node.keywords[-1].arg not in GUARDS:
            yield ast.Call(node.func, node.args, node.keywords[:-1])


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def copied_tree(folder: Path) -> Path:
    """Copy what the tests need."""
    for name in ("src", "tests", "examples", "docs", "recipes", "benchmarks", "fuzz"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md", "LICENSE", "NOTICE", "CHANGELOG.md", "Makefile"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "LICENSES", folder / "LICENSES")
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of tests in a copy."""
    return {**os.environ, "PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def tests_by_line(folder: Path) -> dict[tuple[str, int], list[str]]:
    """Run all light tests once; return for each line the tests that execute it, the most specific first."""
    config = folder / "coverage.ini"
    config.write_text("[run]\ndynamic_context = test_function\nsource = src/maskwise\n[json]\nshow_contexts = true\n")
    base = [sys.executable, "-m", "coverage"]
    run = [*base, "run", f"--rcfile={config}", "-m", "pytest", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(run, cwd=folder, env=environment(folder), check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the tests fail without any change:\n{done.stdout[-3000:]}")
    report = [*base, "json", f"--rcfile={config}", "-o", "lines.json"]
    subprocess.run(report, cwd=folder, env=environment(folder), check=True, stdout=subprocess.DEVNULL)
    lines: dict[tuple[str, int], set[str]] = defaultdict(set)
    for path, file in json.loads((folder / "lines.json").read_text())["files"].items():
        for line, contexts in file["contexts"].items():
            lines[path, int(line)] |= {node for node in map(_node_of, contexts) if node}
    weight = Counter(test for tests in lines.values() for test in tests)
    return {key: sorted(tests, key=lambda test: (weight[test], test)) for key, tests in lines.items()}


def tests_of(mutant: Mutant, tests: dict[tuple[str, int], list[str]]) -> list[str]:
    """Return the tests of a line; of one that runs at import (a default value), those of its function or its module."""
    if tests.get((mutant.path, mutant.line)):
        return tests[mutant.path, mutant.line]
    tree = ast.parse((ROOT / mutant.path).read_text())
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.lineno <= mutant.line <= (node.end_lineno or 0)
    ]
    first, last = (around[-1].lineno, around[-1].end_lineno or 0) if around else (0, 10**9)
    near = {
        test for (path, line), names in tests.items() if path == mutant.path and first <= line <= last for test in names
    }
    return sorted(near)


def _node_of(context: str) -> str | None:
    """Return pytest's name of a test function, from coverage's: tests.light.test_x.test_y."""
    module, _, function = context.rpartition(".")
    return f"tests/light/{module.rsplit('.', 1)[-1]}.py::{function}" if function.startswith("test_") else None


def judge(mutant: Mutant, folder: Path, tests: list[str]) -> Outcome:
    """Run the tests of a mutant in a copy of the tree."""
    start = time.monotonic()
    if not tests:
        return Outcome(mutant, "survived", 0, 0.0)
    path = folder / mutant.path
    original = path.read_text()
    lines = original.splitlines(keepends=True)
    line = lines[mutant.line - 1].encode()
    lines[mutant.line - 1] = (line[: mutant.start] + mutant.after.encode() + line[mutant.end :]).decode()
    path.write_text("".join(lines))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not data", *tests]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment(folder), timeout=SECONDS, check=False, capture_output=True
        )
        state = "survived" if done.returncode == 0 else "killed"
    except subprocess.TimeoutExpired:
        state = "timed out"
    finally:
        path.write_text(original)
    return Outcome(mutant, state, len(tests), round(time.monotonic() - start, 1))


def page(outcomes: list[Outcome], notes: dict[str, str]) -> str:
    """Return the results as Markdown; survivors with a note do no harm and are not counted."""
    survivors = [outcome.mutant for outcome in outcomes if outcome.state == "survived"]
    harmless = {one: notes[key] for one in survivors if (key := _key(one)) in notes}
    counted, dead = len(outcomes) - len(harmless), len(outcomes) - len(survivors)
    late = sum(outcome.state == "timed out" for outcome in outcomes)
    text = [
        "# Mutants of the light floor",
        f"{dead} of {counted} mutants that change a result die ({dead / counted:.1%}), {late} of them by the time"
        f" limit. {len(harmless)} more change no result. Made by `make mutants`; the survivors of the draw were judged"
        " again with the tests written since (`--again`).",
        "Survivors:",
        "\n".join(_line(one) for one in survivors if one not in harmless) or "None.",
        "Changes without effect, and why:",
        "\n".join(f"{_line(one)} {note}" for one, note in harmless.items()) or "None.",
    ]
    return "\n\n".join(text) + "\n"


def _key(mutant: Mutant) -> str:
    """Return the key of a mutant in the notes: it stays when lines move."""
    line = (ROOT / mutant.path).read_text().splitlines()[mutant.line - 1].strip()
    return f"{mutant.path}: {line}: {mutant.before} -> {mutant.after}"


def _line(mutant: Mutant) -> str:
    return f"- `{mutant.path}:{mutant.line}`: `{mutant.before}` became `{mutant.after}`."


def main() -> None:
    """Draw mutants, run their tests, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="results, without suffix")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="judge the survivors of the results again, by new tests")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    package = ROOT / "src" / "maskwise"
    modules = [
        path for path in sorted(package.rglob("*.py")) if not path.relative_to(package).as_posix().startswith(LEFT_OUT)
    ]
    kept: list[Outcome] = []
    drawn = random.Random(args.seed).sample([mutant for path in modules for mutant in mutants_of(path)], args.count)
    if args.again:
        record = json.loads(args.output.with_suffix(".json").read_text())
        before = [
            Outcome(Mutant(**{key: one[key] for key in FIELDS}), one["state"], one["tests"], 0.0) for one in record
        ]
        kept = [outcome for outcome in before if outcome.state != "survived"]
        drawn = [outcome.mutant for outcome in before if outcome.state == "survived"]
    notes_path = args.output.with_name(args.output.name + "-notes.json")
    notes = json.loads(notes_path.read_text()) if notes_path.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        folders: Queue[Path] = Queue()
        for number in range(args.workers):
            folders.put(copied_tree(Path(temporary, str(number))))
        first = folders.get()
        tests = tests_by_line(first)
        folders.put(first)

        def run(mutant: Mutant) -> Outcome:
            folder = folders.get()
            outcome = judge(mutant, folder, tests_of(mutant, tests))
            folders.put(folder)
            print(f"{outcome.state:9} {mutant.path}:{mutant.line} {mutant.before} -> {mutant.after}", flush=True)
            return outcome

        with ThreadPoolExecutor(args.workers) as threads:
            outcomes = kept + list(threads.map(run, drawn))
    record = [{**asdict(outcome.mutant), "state": outcome.state, "tests": outcome.tests} for outcome in outcomes]
    args.output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    args.output.with_suffix(".md").write_text(page(outcomes, notes))


if __name__ == "__main__":
    main()
