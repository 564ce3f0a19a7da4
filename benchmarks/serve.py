"""Measure `maskwise serve` under load, 32 clients for a minute, beside `Predictor.run_many`; measure clicks.

The baseline has its photographs decoded and its masks ready; the server gets JPEG files and run lengths over HTTP, from
clients on the same cores. Both name every region in a crop of its own.

Run from the repository's root: python benchmarks/serve.py -o benchmarks/results/serve.json
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from machine import in_own_process, surroundings

CLIENTS = 32
SECONDS = 60
BASELINE_SECONDS = 20
ROUNDS = 3
"""Baseline and load take turns: the machine may be busy with something else."""
REGIONS = 8
CLICKS = 12
PHOTO = Path("examples/coffee.jpg")
BOUNDARY = "maskwise-benchmark"


def boxes() -> list[dict[str, list[int]]]:
    """Return the regions of each request: boxes of several sizes on the photograph."""
    return [{"box": [20 + 60 * number, 30 + 20 * number, 80 + 10 * number, 160]} for number in range(REGIONS)]


def form(**fields: str | bytes) -> bytes:
    """Return a multipart form; bytes are files."""
    parts = []
    for name, value in fields.items():
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'
        head += f'; filename="{name}.jpg"' if isinstance(value, bytes) else ""
        parts += [head.encode(), b"\r\n\r\n", value if isinstance(value, bytes) else value.encode(), b"\r\n"]
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


class Client:
    """A connection to the server that is kept open."""

    def __init__(self, port: int) -> None:
        """Connect to a port of this machine."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def post(self, path: str, body: bytes) -> tuple[int, Any, float]:
        """Send a form; returns status, answer and seconds."""
        started = time.monotonic()
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        self._connection.request("POST", path, body, headers)
        answer = self._connection.getresponse()
        content = json.loads(answer.read())
        return answer.status, content, time.monotonic() - started


def load(port: int, seconds: float) -> dict[str, Any]:
    """Let clients ask as fast as they get answers; returns seconds of each answer, statuses, regions per second."""
    body = form(image=PHOTO.read_bytes(), regions=json.dumps(boxes()))
    end = time.monotonic() + seconds
    times: list[float] = []
    statuses: list[int] = []

    def ask() -> None:
        client = Client(port)
        while time.monotonic() < end:
            status, answer, took = client.post("/v1/predict", body)
            assert status != 200 or len(answer["regions"]) == REGIONS
            times.append(took)
            statuses.append(status)

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    good = statuses.count(200)
    return {"times": times, "errors": len(statuses) - good, "rate": REGIONS * good / (time.monotonic() - started)}


def baseline() -> dict[str, float]:
    """Return the regions per second of `Predictor.run_many` on the same regions, in memory."""
    from maskwise import Mask, Predictor, load_image

    predictor, image = Predictor(mode="exact"), load_image(PHOTO)
    masks = [Mask.from_box(one["box"], image.shape[:2]) for one in boxes()]
    stream = predictor.run_many(itertools.repeat((image, masks)), embeddings=True)
    for _ in range(10):  # Opens the single-threaded session.
        next(stream)
    started, done = time.monotonic(), 0
    while time.monotonic() < started + BASELINE_SECONDS:
        next(stream)
        done += 1
    return {"rate": REGIONS * done / (time.monotonic() - started)}


def clicks(port: int) -> dict[str, float]:
    """Return the seconds of the first click on a photograph, photograph included, and of further ones."""
    client = Client(port)
    client.post("/v1/predict", form(image=PHOTO.read_bytes(), regions=json.dumps(boxes()[:1])))
    started = time.monotonic()
    _, kept, _ = client.post("/v1/images", form(image=PHOTO.read_bytes(), prepare="true"))
    seconds = []
    for number in range(CLICKS):
        regions = json.dumps([{"prompt": {"points": [[150 + 20 * number, 180]]}}])
        status, _, took = client.post(
            "/v1/predict", form(image_id=kept["image_id"], regions=regions, segmentation="true")
        )
        assert status == 200
        seconds.append(took if number else time.monotonic() - started)
    return {"first": round(seconds[0], 2), "further_median": round(statistics.median(seconds[1:]), 3)}


def start() -> tuple[subprocess.Popen[str], int]:
    """Start the server; returns it and its port."""
    command = [sys.executable, "-m", "maskwise", "serve", "--port", "0", "--no-browser", "--mode", "exact"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    match = re.search(r":(\d+)/", server.stdout.readline())
    assert match is not None, "the server did not start"
    return server, int(match.group(1))


def measure(seconds: float) -> dict[str, Any]:
    """Return everything that is measured."""
    server, port = start()
    try:
        clicked = clicks(port)
        load(port, 5)  # Opens the single-threaded session.
        baselines, rates, times, errors = [in_own_process(__file__, "--baseline")["rate"]], [], [], 0
        for _ in range(ROUNDS):
            result = load(port, seconds)
            rates.append(result["rate"])
            times += result["times"]
            errors += result["errors"]
            baselines.append(in_own_process(__file__, "--baseline")["rate"])
    finally:
        server.terminate()
        server.wait()
    expected = [(before + after) / 2 for before, after in itertools.pairwise(baselines)]
    cuts = statistics.quantiles(times, n=100)
    return {
        "clients": CLIENTS,
        "seconds": ROUNDS * seconds,
        "regions_per_request": REGIONS,
        "requests": len(times),
        "errors": errors,
        "p50_s": round(cuts[49], 2),
        "p99_s": round(cuts[98], 2),
        "regions_per_s": round(statistics.median(rates), 1),
        "predictor_regions_per_s": round(statistics.median(expected), 1),
        "share_of_predictor": round(statistics.median(r / e for r, e in zip(rates, expected, strict=True)), 3),
        "shares": [round(rate / share, 3) for rate, share in zip(rates, expected, strict=True)],
        "click_s": clicked,
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each of the rounds of load")
    parser.add_argument("--baseline", action="store_true", help="measure the predictor alone")
    args = parser.parse_args()
    if args.baseline:
        print(json.dumps(baseline()))
        return
    if args.output is None:
        parser.error("give -o")
    from maskwise.data.atomic_files import write_json

    about = surroundings("onnxruntime", "fastapi", "uvicorn")
    write_json(args.output, {**about, **measure(args.seconds)})
    print(args.output.read_text())


if __name__ == "__main__":
    main()
