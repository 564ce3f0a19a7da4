"""Test the ML backend with a real Label Studio server, and record what they say to each other (`--record`).

`make test-label-studio` runs it in an environment of its own, which has `label-studio`; `--python` is the one that has
Maskwise. tests/light/test_label_studio_replay.py replays the record.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from label_studio_sdk import LabelStudio
from label_studio_sdk.converter import brush

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).parent / "light" / "label_studio_record.json"
LABELS = '<Label value="Person" predicted_values="person"/><Label value="dog"/><Label value="cup"/>'
CONFIGS = {
    "labels": f"""<View><Image name="picture" value="$photo"/>
<BrushLabels name="brush" toName="picture">{LABELS}</BrushLabels>
<PolygonLabels name="polygon" toName="picture">{LABELS}</PolygonLabels>
<RectangleLabels name="box" toName="picture">{LABELS}</RectangleLabels></View>""",
    "choices": """<View><Image name="picture" value="$photo"/>
<Brush name="brush" toName="picture"/><Rectangle name="box" toName="picture"/>
<Choices name="what" toName="picture" perRegion="true">
<Choice value="person"/><Choice value="dog"/></Choices></View>""",
}
SIZE = {"original_width": 80, "original_height": 60, "image_rotation": 0, "to_name": "picture"}
GREEN = {"x": 50.0, "y": 100 / 3, "width": 30.0, "height": 50.0, "rotation": 0}


def red_brush():
    """The red rectangle as Label Studio's own converter encodes it."""
    picture = np.zeros((60, 80), dtype=np.uint8)
    picture[10:30, 10:30] = 255
    return {"format": "rle", "rle": brush.mask2rle(picture)}


def regions(project):
    """A red brush, a green polygon and a green rectangle, named wrongly or not at all."""
    corners = [[50, 100 / 3], [80, 100 / 3], [80, 250 / 3], [50, 250 / 3]]
    if project == "choices":
        return [
            {**SIZE, "id": "r1", "from_name": "brush", "type": "brush", "value": red_brush()},
            {**SIZE, "id": "r2", "from_name": "box", "type": "rectangle", "value": GREEN},
        ]
    return [
        {**SIZE, "id": "r1", "from_name": "brush", "type": "brushlabels",
         "value": {**red_brush(), "brushlabels": ["cup"]}},
        {**SIZE, "id": "r2", "from_name": "polygon", "type": "polygonlabels",
         "value": {"points": corners, "closed": True, "polygonlabels": ["cup"]}},
        {**SIZE, "id": "r3", "from_name": "box", "type": "rectanglelabels",
         "value": {**GREEN, "rectanglelabels": ["cup"]}},
    ]  # fmt: skip


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen, seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, f"{url}: its process has ended"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.5)
    raise TimeoutError(url)


@contextlib.contextmanager
def running(command: list[str], url: str, log: Path, **environment: str):
    with open(log, "w") as file:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=file, stderr=file)
    try:
        wait_for(url, process)
        yield process
    except BaseException:
        print(f"--- {log.name}\n{log.read_text()[-3000:]}", file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def recorder(target: str, record: list):
    """Give the address of a server that passes requests on and notes them and their answers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.pass_on(None)

        def do_POST(self):
            self.pass_on(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def pass_on(self, body):
            headers = {k: v for k, v in self.headers.items() if k in ("Authorization", "Content-Type", "User-Agent")}
            request = urllib.request.Request(target + self.path, body, headers, method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=100) as answer:
                    status, content = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                status, content = error.code, error.read()
            sent = json.loads(body) if body else None
            record.append([self.command, self.path, sent, status, json.loads(content)])
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Studio:
    """The server, by its SDK and by HTTP."""

    def __init__(self, url: str, key: str):
        self.url, self.key = url, key
        self.sdk = LabelStudio(base_url=url, api_key=key)

    def call(self, method: str, path: str, value=None, data=None, content="application/json"):
        body = json.dumps(value).encode() if value is not None else data
        headers = {"Authorization": f"Token {self.key}", "Content-Type": content}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=100) as answer:
            return json.loads(answer.read() or b"null")

    def upload(self, project: int, name: str, content: bytes) -> str:
        """Upload a picture as a task; returns its address in the task, and removes the task."""
        head = f'--b0und\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: image/png'
        body = head.encode() + b"\r\n\r\n" + content + b"\r\n--b0und--\r\n"
        self.call("POST", f"/api/projects/{project}/import?commit_to_project=true", data=body,
                  content="multipart/form-data; boundary=b0und")  # fmt: skip
        (task,) = self.sdk.tasks.list(project=project)
        (address,) = [value for value in task.data.values() if isinstance(value, str)]
        self.sdk.tasks.delete(id=str(task.id))
        return address

    def predict_all(self, project: int, tasks: list[int]) -> None:
        self.call("POST", f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}",
                  {"selectedItems": {"all": False, "included": tasks}})  # fmt: skip

    def predictions(self, task: int) -> list[dict]:
        return self.call("GET", f"/api/predictions?task={task}")


def names(prediction, key=None):
    out = []
    for one in prediction["result"]:
        for kind, value in one["value"].items():
            if kind == key or (key is None and kind.endswith("labels")):
                out.append((one["id"], kind, *value))
    return out


def try_labels(studio: Studio, backend: dict, scene: bytes, key: str) -> None:
    project = studio.sdk.projects.create(title="labels", label_config=CONFIGS["labels"]).id
    address = studio.upload(project, "scene.png", scene)
    wrong = [one for one in regions("labels") if one["id"] != "r3"]
    imported = [
        {"data": {"photo": address}, "predictions": [{"model_version": "sam", "result": regions("labels")}]},
        {"data": {"photo": address}, "annotations": [{"result": wrong}]},
        {"data": {"photo": address}},
        {"data": {"photo": "http://169.254.169.254/latest/meta-data/"}},
    ]
    studio.call("POST", f"/api/projects/{project}/import", imported)
    ids = sorted(task.id for task in studio.sdk.tasks.list(project=project))
    ml = studio.sdk.ml.create(project=project, **backend)
    assert ml.state == "CO", ml
    studio.predict_all(project, ids)
    (own, _) = sorted((one for one in studio.predictions(ids[0])), key=lambda one: one["model_version"] == "sam")
    print("of a prediction:", names(own), own["score"], own["model_version"])
    expected = [("r1", "brushlabels", "Person"), ("r2", "polygonlabels", "dog"), ("r3", "rectanglelabels", "dog")]
    assert names(own) == expected
    (own,) = studio.predictions(ids[1])
    print("of an annotation:", names(own))
    assert names(own) == expected[:2]
    (own,) = studio.predictions(ids[2])
    print("found:", names(own))
    assert sorted(name for _, _, name in names(own)) == ["Person", "dog"]
    for result in own["result"]:  # Label Studio's converter reads our brush.
        picture = brush.decode_rle(result["value"]["rle"]).reshape(60, 80, 4)[..., 3]
        box = (
            (slice(10, 30), slice(10, 30))
            if result["value"]["brushlabels"] == ["Person"]
            else (slice(20, 50), slice(40, 64))
        )
        print("share of its rectangle, of the picture:", (picture[box] > 0).mean(), (picture > 0).mean())
        assert (picture[box] > 0).mean() > 0.8
    assert studio.predictions(ids[3]) == []
    answer = studio.call("POST", f"/api/ml/{ml.id}/interactive-annotating",
                         {"task": ids[2], "context": {"result": regions("labels")[2:]}})  # fmt: skip
    print("while annotating:", names(answer["data"]))
    assert names(answer["data"]) == [("r3", "rectanglelabels", "dog")]
    assert studio.call("GET", f"/api/ml/{ml.id}/versions")["versions"] == [own["model_version"]]


def try_choices(studio: Studio, backend: dict, scene: bytes) -> None:
    project = studio.sdk.projects.create(title="choices", label_config=CONFIGS["choices"]).id
    address = studio.upload(project, "scene.png", scene)
    task = {"data": {"photo": address}, "predictions": [{"model_version": "sam", "result": regions("choices")}]}
    studio.call("POST", f"/api/projects/{project}/import", [task])
    ids = [task.id for task in studio.sdk.tasks.list(project=project)]
    studio.sdk.ml.create(project=project, **backend)
    studio.predict_all(project, ids)
    (own,) = [one for one in studio.predictions(ids[0]) if one["model_version"] != "sam"]
    print("choices:", names(own, "choices"))
    assert names(own, "choices") == [("r1", "choices", "person"), ("r2", "choices", "dog")]
    assert [one["type"] for one in own["result"]] == ["brush", "choices", "rectangle", "choices"]
    assert all(one["score"] > 0.9 for one in own["result"] if one["type"] == "choices")


def try_import(studio: Studio, python: str, folder: Path, scene: bytes, model: Path, environment: dict) -> None:
    """Import what `maskwise label` writes."""
    photos = folder / "photos"
    photos.mkdir()
    (photos / "scene.png").write_bytes(scene)
    boxes = [[10, 10, 20, 20], [40, 20, 24, 30]]
    annotations = [
        {"id": i + 1, "image_id": 1, "bbox": box, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
        for i, box in enumerate(boxes)
        for x, y, w, h in [box]
    ]
    images = [{"id": 1, "file_name": "scene.png", "width": 80, "height": 60}]
    segments, tasks = folder / "segments.json", folder / "tasks.json"
    segments.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    for polygons in ([], ["--polygons"]):
        command = [python, "-m", "maskwise", "label", str(photos), str(segments), "-o", str(tasks), "--model"]
        command += [str(model), "--format", "label-studio", *polygons]
        subprocess.run(command, check=True, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
        config = Path(f"{tasks}.config.xml").read_text()
        project = studio.sdk.projects.create(title="imported", label_config=config).id
        studio.call("POST", f"/api/projects/{project}/import", json.loads(tasks.read_text()))
        (task,) = list(studio.sdk.tasks.list(project=project))
        (prediction,) = studio.predictions(task.id)
        kind = "polygonlabels" if polygons else "brushlabels"
        print("imported:", names(prediction))
        assert names(prediction) == [("1", kind, "person"), ("2", kind, "dog")]
        if not polygons:
            picture = brush.decode_rle(prediction["result"][1]["value"]["rle"]).reshape(60, 80, 4)[..., 3]
            true = np.zeros((60, 80), dtype=bool)
            true[20:50, 40:64] = True
            assert ((picture > 0) == true).all()
        for path in (tasks, Path(f"{tasks}.config.xml")):
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="the Python that has Maskwise and its test extra")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    given = parser.parse_args()
    environment = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}
    make = (
        "import sys; from pathlib import Path; from colour_model import colour_model; from serving import png, scene;"
    )
    make += "folder = Path(sys.argv[1]); colour_model(folder); (folder / 'scene.png').write_bytes(png(scene()))"
    token, key = secrets.token_urlsafe(24), secrets.token_hex(20)
    record: list = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        subprocess.run([given.python, "-c", make, name], check=True, env={**os.environ, **environment})
        model, scene = folder / "colour-0.onnx", (folder / "scene.png").read_bytes()
        studio_url = f"http://localhost:{(port := free_port())}"
        stack.enter_context(
            running(
                [str(Path(sys.executable).parent / "label-studio"), "start", "--no-browser", "--port", str(port)],
                studio_url + "/health",
                folder / "label-studio.log",
                LABEL_STUDIO_BASE_DATA_DIR=str(folder / "data"),
                LABEL_STUDIO_USERNAME="tester@example.com",
                LABEL_STUDIO_PASSWORD=secrets.token_urlsafe(16),
                LABEL_STUDIO_USER_TOKEN=key,
                LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN="true",
                LABEL_STUDIO_HOST=studio_url,
                # Without it Label Studio 1.23 refuses backends on its own machine and in private networks.
                USE_DEFAULT_BANNED_SUBNETS="false",
                USER_ADDITIONAL_BANNED_SUBNETS="169.254.0.0/16",
                COLLECT_ANALYTICS="false",
                LATEST_VERSION_CHECK="false",
                SENTRY_DSN="",
                FRONTEND_SENTRY_DSN="",
            )
        )
        studio = Studio(studio_url, key)
        personal = studio.call("POST", "/api/token/", {})["token"]
        backend_port = free_port()
        (folder / "token.txt").write_text(token)
        (folder / "key.txt").write_text(personal)
        command = [given.python, "-m", "maskwise", "serve", "--no-browser", "--port", str(backend_port)]
        command += ["--model", str(model), "--token-file", str(folder / "token.txt")]
        command += ["--label-studio", studio_url, "--label-studio-key-file", str(folder / "key.txt")]
        backend_url = f"http://127.0.0.1:{backend_port}"
        stack.enter_context(running(command, backend_url + "/health", folder / "maskwise.log", **environment))
        address = stack.enter_context(recorder(backend_url, record))
        backend = {"url": address, "is_interactive": True, "auth_method": "BASIC_AUTH", "title": "maskwise"}
        backend |= {"basic_auth_user": "maskwise", "basic_auth_pass": token}
        try:
            try_labels(studio, backend, scene, key)
            try_choices(studio, backend, scene)
            try_import(studio, given.python, folder, scene, model, environment)
        except BaseException:
            print((folder / "maskwise.log").read_text()[-3000:], file=sys.stderr)
            print((folder / "label-studio.log").read_text()[-3000:], file=sys.stderr)
            raise
    for _, path, sent, _, _ in record:
        if path == "/setup":
            sent["access_token"] = "of-the-project"
    text = json.dumps(record, indent=1)
    assert key not in text
    assert token not in text
    if given.record:
        text = "[\n" + ",\n".join(json.dumps(one, separators=(",", ":")) for one in record) + "\n]\n"
        version = record[-1][-1]["model_version"].split()[1]
        text = text.replace(studio_url, "http://localhost:8080").replace(f"maskwise {version}", "maskwise VERSION")
        RECORD.write_text(text)
    print(f"{len(record)} requests of Label Studio were answered; all is as it should be")


if __name__ == "__main__":
    main()
