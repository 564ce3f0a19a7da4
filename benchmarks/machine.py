"""Describe the machine of a measurement; run parts with cores and memory of their own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def processor() -> str:
    """Return the processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    """Return the commit that is checked out."""
    return subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def surroundings(*packages: str) -> dict[str, Any]:
    """Return the first entries of a record: machine, load of the last minute, commit, versions.

    Args:
        packages: whose versions matter.
    """
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1),
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in packages}},
    }


def described(record: dict[str, Any]) -> str:
    """Return the surroundings of a record as one line."""
    versions = ", ".join(f"{package} {number}" for package, number in record["versions"].items())
    return f"{record['machine']}, load {record['load']:g} at the beginning; {versions}; commit {record['commit'][:10]}."


def peak_megabytes() -> int:
    """Return the peak memory of this process, imports included.

    Of the program alone: `getrusage` counts what its parent held when it was started as well.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return round(int(kilobytes) * 1024 / 1e6)


def in_own_process(script: str, *args: object, cores: int | None = None) -> Any:
    """Run a script in a process with cores and memory of its own; return the JSON that it prints.

    Args:
        script: the file.
        args: its arguments.
        cores: how many it may use; all that this process may where left out.
    """
    command, mine = [sys.executable, script, *map(str, args)], os.sched_getaffinity(0)
    os.sched_setaffinity(
        0, sorted(mine)[:cores]
    )  # Inherited by the child before it imports libraries that count cores.
    try:
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    finally:
        os.sched_setaffinity(0, mine)


def write_results(output: Path, name: str, results: dict[str, Any], page: str, figure: Figure) -> None:
    """Write a benchmark's results as JSON, Markdown and a figure; print the Markdown."""
    from maskwise.data.atomic_files import make_folder, write_json, write_text
    from maskwise.reports.figures import save_figure

    folder = make_folder(output)
    write_json(folder / f"{name}.json", results)
    write_text(folder / f"{name}.md", page)
    save_figure(figure, folder / f"{name}.png")
    print(page)
