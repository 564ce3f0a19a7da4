"""Requests made up from the OpenAPI document, valid and invalid, find nothing that the document does not say."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection
from schemathesis.transport.serialization import Binary

from colour_model import colour_model
from serving import BOXES, address_of, mask_png, png, scene

EXAMPLES = 20
"""Requests per route."""
ROUTES = [
    "GET /healthz",
    "GET /metrics",
    "GET /v1/models",
    "POST /v1/images",
    "POST /v1/predict",
    "POST /v1/embed",
    "POST /v1/name",
    "POST /v1/segment",
]
CONTENTS = [png(scene()), mask_png((1, 2, 30, 40)), b"", b"\x89PNG\r\n\x1a\n", b"[]", b'{"images": []}']
FILES = [Binary(content) for content in CONTENTS]
schemathesis.openapi.format("binary", st.sampled_from(FILES) | st.binary(max_size=64).map(Binary))


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    # A form that fits the document may still hold no picture.
    checks = {"positive_data_acceptance": {"expected-statuses": [200, 404, 413, 422]}}
    config = SchemathesisConfig.from_dict({"checks": checks})
    with address_of(colour_model(tmp_path_factory.mktemp("model"))) as address:
        yield schemathesis.openapi.from_url(f"{address}/openapi.json", config=config)


# In a form an empty list or an empty text is no field, and a file is no JSON string: schemathesis calls such valid
# requests invalid. test_serve_api.py has requests that must be refused.
UNSURE = [negative_data_rejection]
WAYS = [(route, mode) for route in ROUTES for mode in GenerationMode if route[0] == "P" or mode.is_positive]
"""Routes without a body have no invalid requests."""


@pytest.mark.parametrize(("route", "mode"), WAYS, ids=lambda value: getattr(value, "value", value))
def test_no_request_finds_a_fault(document, route, mode):
    method, path = route.split()

    @given(case=document[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case):
        case.call_and_validate(excluded_checks=UNSURE)

    check()


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/images", {"prepare": True}),
        ("/v1/predict", {"masks": [FILES[1]], "regions": json.loads(BOXES), "segmentation": True, "top": 2}),
        ("/v1/predict", {"regions": [{"prompt": {"points": [[15, 15]], "labels": [1]}, "id": "a"}]}),
        ("/v1/embed", {"regions": json.loads(BOXES)}),
        ("/v1/name", {"segmentation": True}),
        ("/v1/segment", {}),
        ("/v1/segment", {"prompts": [{"box": [10, 10, 20, 20]}]}),
    ],
)
def test_answers_are_as_the_document_says(document, path, fields):
    body = {"image": FILES[0], **fields}
    case = document[path]["POST"].Case(body=body, media_type="multipart/form-data")
    assert case.call_and_validate().status_code == 200


def test_every_route_is_tried(document):
    operations = [result.ok() for result in document.get_all_operations()]
    assert sorted(f"{operation.method.upper()} {operation.path}" for operation in operations) == sorted(ROUTES)
