"""A server to test: a photograph of two coloured squares, a model that names colours, a segmenter that follows them."""

import io
import json
import re
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

from maskwise import Mask, Predictor
from maskwise.errors import InputError
from maskwise.model.segment_network import EncodedImage
from maskwise.model.segmenter import Segment
from maskwise.serve.application import make_application
from maskwise.serve.connections import protocol_with
from maskwise.serve.server import _Server, listen
from maskwise.serve.settings import Access, Limits

RED_BOX, GREEN_BOX = (10, 10, 20, 20), (40, 20, 24, 30)
"""Left, top, width and height of what the colour model calls a person and a dog."""
LOCALHOST = "http://localhost:8000"


def scene() -> np.ndarray:
    """Return 60 x 80 pixels: a red and a green rectangle on grey."""
    pixels = np.full((60, 80, 3), 90, dtype=np.uint8)
    for (x, y, w, h), colour in ((RED_BOX, (250, 20, 20)), (GREEN_BOX, (20, 250, 20))):
        pixels[y : y + h, x : x + w] = colour
    return pixels


def png(array: np.ndarray) -> bytes:
    """Return an array as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def mask_png(box_xywh) -> bytes:
    """Return the picture of a box as a mask of the scene."""
    return png(Mask.from_box(box_xywh, (60, 80)).to_array().astype(np.uint8) * 255)


class ColourSegmenter:
    """Outlines what has the colour of the last point, or of a box's middle, and is connected to it."""

    def __init__(self):
        self.encoded = 0

    def encode(self, image):
        self.encoded += 1
        result = EncodedImage(image.shape[:2], {})
        object.__setattr__(result, "pixels", image)
        return result

    def prompt(self, encoded, *, points=(), labels=None, box_xywh=None):
        if not len(points) and box_xywh is None:
            raise InputError("no point that is part of the thing; give one, or a box")
        x, y = (box_xywh[0] + box_xywh[2] / 2, box_xywh[1] + box_xywh[3] / 2) if box_xywh is not None else points[-1]
        height, width = encoded.image_hw
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(f"the point {x:g},{y:g} lies outside the image of width {width} and height {height}")
        same = (encoded.pixels == encoded.pixels[int(y), int(x)]).all(axis=2)
        _, parts = cv2.connectedComponents(same.astype(np.uint8))
        return Segment(Mask.from_array(same & (parts == parts[int(y), int(x)])), 0.9, 0.8)

    def segment(self, image, *, points_per_side=24):
        encoded = self.encode(image)
        return [self.prompt(encoded, points=[(x + 1, y + 1)]) for x, y, _, _ in (RED_BOX, GREEN_BOX)]


@contextmanager
def client_of(
    model: Path, *, access: Access | None = None, segmenter=None, predictor=None, label_studio=None, **limits
):
    """Give a client of a server in this process."""
    predictor = predictor or Predictor(model, mode="exact")
    app = make_application(
        predictor,
        segmenter or ColourSegmenter(),
        access=access or Access(),
        limits=Limits(**limits),
        label_studio=label_studio,
    )
    with TestClient(app, base_url=LOCALHOST, raise_server_exceptions=False) as client:
        yield client


@contextmanager
def address_of(model: Path, **limits):
    """Give the address of a server in a thread of this process, with the colours' segmenter."""
    app = make_application(Predictor(model, mode="exact"), ColourSegmenter(), access=Access(), limits=Limits(**limits))
    listener = listen("127.0.0.1", 0)
    server = _Server(uvicorn.Config(app, http=protocol_with(20), log_level="error"), "the test", open_browser=False)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


class Serving:
    """A `maskwise serve` process."""

    def __init__(self, *flags: str):
        """Start it at a free port, and wait until it answers."""
        command = [sys.executable, "-m", "maskwise", "serve", "--port", "0", "--no-browser", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.line = self.process.stdout.readline()
        match = re.search(r"http://[^:]+:(\d+)/", self.line)
        assert match, f"{self.line}{self.process.stderr.read()}"
        self.address, self.port = match.group(), int(match.group(1))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process.stdout.close()
            self.process.stderr.close()

    def get(self, path: str) -> str:
        """Return the text of an answer."""
        with urllib.request.urlopen(f"http://localhost:{self.port}{path}", timeout=20) as answer:
            return answer.read().decode()

    def number(self, name: str) -> float:
        """Return one of the numbers for Prometheus."""
        return float(re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics"), re.M).group(1))


def multipart(fields: dict[str, str | bytes], boundary: str = "b0und") -> bytes:
    """Return a form's body; bytes are files."""
    parts = []
    for name, value in fields.items():
        is_file = isinstance(value, bytes)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        head += f'; filename="{name}.png"\r\nContent-Type: image/png' if is_file else ""
        parts.append(head.encode() + b"\r\n\r\n" + (value if is_file else value.encode()) + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def request(fields: dict[str, str | bytes], path: str = "/v1/predict", *, length: int | None = None) -> bytes:
    """Return a whole POST request as it goes over the wire."""
    body = multipart(fields)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b0und\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


BOXES = json.dumps([{"box": RED_BOX}, {"box": GREEN_BOX}])
"""The two rectangles as regions of a request."""
