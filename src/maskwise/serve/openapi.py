"""The OpenAPI document, said as clients understand it: files are binary, JSON in forms has its own schema."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

FORM = "multipart/form-data"
JSON = "application/json"


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an application; it is made once.

    FastAPI says that optional fields of a form may be null, which no form can say, that files are text, and that JSON
    is text of any kind.

    Args:
        app: the application.
    """
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        schemas = document["components"]["schemas"]
        for path in document["paths"].values():
            for operation in path.values():
                _mend_form(operation.get("requestBody", {}).get("content", {}), schemas)
        app.openapi_schema = document
    return app.openapi_schema


def form_fields(app: FastAPI, path: str) -> set[str]:
    """Return the names of the fields that the form of a route may have.

    Args:
        app: the application.
        path: of the route.
    """
    document = openapi_document(app)
    reference = document["paths"][path]["post"]["requestBody"]["content"][FORM]["schema"]["$ref"]
    return set(document["components"]["schemas"][reference.rpartition("/")[2]]["properties"])


def _mend_form(content: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Mend the form of one operation, in place; every route reads multipart forms only."""
    form = content.get(FORM)
    if form is None:
        return
    schema = schemas[form["schema"]["$ref"].rpartition("/")[2]]
    schema["additionalProperties"] = False
    encoding = {}
    for name, field in schema["properties"].items():
        kind = _without_null(field)
        if kind.get("contentMediaType") == JSON:
            encoding[name] = {"contentType": JSON}
            kind = kind["contentSchema"]
        kept = {key: field[key] for key in ("title", "description", "default") if field.get(key) is not None}
        schema["properties"][name] = _as_binary(kind) | kept
    if "image" in schema["properties"] and "image_id" in schema["properties"]:
        schema["oneOf"] = [{"required": ["image"]}, {"required": ["image_id"]}]
    form["encoding"] = encoding


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    options = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
    return options[0] if len(options) == 1 else field


def _as_binary(kind: dict[str, Any]) -> dict[str, Any]:
    if kind.get("contentMediaType") == "application/octet-stream":
        return {"type": "string", "format": "binary"}
    if kind.get("type") == "array":
        return {**kind, "items": _as_binary(kind["items"])}
    return kind
