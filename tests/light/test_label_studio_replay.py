"""What a real Label Studio 1.23 asked and got (`make test-label-studio`, `--record`) is answered in the same way."""

import io
import json
from pathlib import Path

import pytest

from colour_model import colour_model
from maskwise import __version__
from maskwise.serve.label_studio_images import LabelStudio
from serving import client_of, png, scene

RECORD = json.loads(Path(__file__).with_name("label_studio_record.json").read_text())


class Studio(LabelStudio):
    """Has the scene wherever an image may be."""

    def _open(self, address, more, data=None):
        return io.BytesIO(png(scene()))


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with client_of(
        colour_model(tmp_path_factory.mktemp("model")), label_studio=Studio("http://localhost:8080")
    ) as client:
        yield client


def essence(answer):
    """What an answer says, without what the built-in segmenter found: its outlines and their scores."""
    results = []
    for prediction in answer.get("results", ()):
        records = prediction["result"] if prediction else ()
        names = [
            [
                one["id"] if one["id"][0] == "r" else "found",
                one["from_name"],
                one["to_name"],
                one["type"],
                one["value"].get(one["type"], []),
                one["original_width"],
                round(one.get("score", 0), 2) if one["id"][0] == "r" else None,
            ]
            for one in records
        ]
        results.append(sorted(names, key=str))
    return results, {key: value for key, value in answer.items() if key != "results"}


@pytest.mark.parametrize("number", range(len(RECORD)))
def test_a_recorded_request_gets_the_recorded_answer(client, number):
    method, path, sent, status, expected = RECORD[number]
    answer = client.request(method, path, json=sent)
    assert answer.status_code == status, answer.text
    expected = json.loads(json.dumps(expected).replace("maskwise VERSION", f"maskwise {__version__}"))
    assert essence(answer.json()) == essence(expected)


def test_the_record_has_every_kind_of_request():
    paths = [path for _, path, _, _, _ in RECORD]
    assert {"/health", "/setup", "/predict", "/versions"} <= set(paths)
    predicts = [(sent, answer) for _, path, sent, _, answer in RECORD if path == "/predict"]
    assert any(sent["params"]["context"] for sent, _ in predicts)
    kinds = {one["type"] for _, answer in predicts for each in answer["results"] if each for one in each["result"]}
    assert kinds == {"brushlabels", "polygonlabels", "rectanglelabels", "brush", "rectangle", "choices"}
