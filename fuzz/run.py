"""Fuzz every way in, with limits on memory and time, and count the calls.

Run from the repository's root: python fuzz/run.py --seconds 120 [-o benchmarks/results/fuzz]
Inputs that fail are kept in fuzz/failures/; make each a test. What was learned is kept in fuzz/corpus/ (not in git).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from seeds import seeds
from targets import TARGETS

from maskwise.data.atomic_files import write_json, write_text

HERE = Path(__file__).parent
MEGABYTES = 1024
"""Limit of memory of a process; libFuzzer's own data count too."""
SECONDS_PER_CALL = 10
LIMITS = (f"-rss_limit_mb={MEGABYTES}", f"-timeout={SECONDS_PER_CALL}", "-max_len=4096")


def fuzz(name: str, seconds: int) -> dict[str, Any]:
    """Fuzz one target in a process of its own.

    Args:
        name: the target.
        seconds: how long.

    Returns:
        Its name, calls, peak memory in megabytes, and the reason of a failure.
    """
    corpus, failures = HERE / "corpus" / name, HERE / "failures"
    for folder in (corpus, failures):
        folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(content)
    command = [sys.executable, str(HERE / "one.py"), name, *LIMITS, f"-max_total_time={seconds}"]
    command += ["-print_final_stats=1", "-verbosity=0", f"-artifact_prefix={failures}/{name}-", str(corpus)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, errors="replace")
    output = done.stdout + done.stderr
    stats = {key: int(value) for key, value in re.findall(r"stat::(\w+):\s+(\d+)", output)}
    return {
        "target": name,
        "calls": stats.get("number_of_executed_units", 0),
        "peak_megabytes": stats.get("peak_rss_mb", 0),
        "failure": "" if done.returncode == 0 else output[-3000:],
    }


def page(results: list[dict[str, Any]], seconds: int) -> str:
    """Return the results as Markdown."""
    rows = [
        f"| {one['target']} | {one['calls']:,} | {one['peak_megabytes']} | {'yes' if one['failure'] else ''} |"
        for one in results
    ]
    total = sum(one["calls"] for one in results)
    return "\n".join([
        "# Fuzzing",
        "",
        f"{total:,} calls in {seconds} s of two cores, guided by coverage (Atheris). Only Maskwise's own errors may"
        f" come out; a call may take {SECONDS_PER_CALL} s, a process {MEGABYTES} MB. Made by `make fuzz`.",
        "",
        "| target | calls | peak memory, MB | failed |",
        "|---|---|---|---|",
        *rows,
    ]) + "\n"  # fmt: skip


def main() -> None:
    """Fuzz all targets, two at a time; exit with 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120, help="for all targets together, on two cores")
    parser.add_argument("-o", "--output", type=Path, help="results, without suffix")
    parser.add_argument("--only", choices=TARGETS, help="fuzz this target alone")
    args = parser.parse_args()
    names = [args.only] if args.only else list(TARGETS)
    each = max(2 * args.seconds // len(names), 1) if len(names) > 1 else args.seconds
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda name: fuzz(name, each), names))
    text = page(results, args.seconds)
    print(text)
    for one in results:
        if one["failure"]:
            print(f"{one['target']}:\n{one['failure']}", file=sys.stderr)
    if args.output:
        write_json(args.output.with_suffix(".json"), {"seconds": args.seconds, "results": results})
        write_text(args.output.with_suffix(".md"), text)
    sys.exit(any(one["failure"] for one in results))


if __name__ == "__main__":
    main()
