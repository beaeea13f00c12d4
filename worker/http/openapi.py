"""The OpenAPI 3.1 document, made from the table of operations and the pydantic models."""

from collections.abc import Iterable
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from worker.core.interchange import MAX_ID_CHARS
from worker.http import models
from worker.http.answering import JSON_LINES
from worker.http.calls import Operation
from worker.http.problems import MEDIA_TYPE, Code

OF_EVERY_CALL: Final = (
    *(Code.UNAUTHORIZED, Code.FORBIDDEN, Code.INVALID_REQUEST, Code.TOO_MANY_REQUESTS),
    *(Code.INTERNAL_ERROR, Code.STORE_UNAVAILABLE),
)
METRICS_KINDS: Final = ("text/plain", "application/openmetrics-text")
REFERENCE: Final = "#/components/schemas/{model}"
DESCRIPTION: Final = (
    "Evergrant keeps OAuth 2.0 grants alive. Errors are RFC 9457 problems with a stable `code`. A grant's id"
    " may hold slashes, percent-encoded or not: it is always the last part of the path."
)


def document_of(operations: Iterable[Operation]) -> dict[str, Any]:
    """The document that describes these operations and the probes."""
    operations = tuple(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    for name, meaning in (("livez", "Is this process alive?"), ("readyz", "Can it do its work?")):
        paths["/" + name] = {"get": _probe(name, meaning)}
    paths["/metrics"] = {"get": _metrics()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Evergrant", "version": version("evergrant"), "description": DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": _schemas(operations),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _schemas(operations: tuple[Operation, ...]) -> dict[str, Any]:
    used: set[type[BaseModel]] = {models.ProblemDocument, models.Health}
    for operation in operations:
        used |= {each for each in (operation.answer, operation.body, operation.lines) if each is not None}
    named = sorted(used, key=lambda model: model.__name__)
    _, document = models_json_schema([(model, "validation") for model in named], ref_template=REFERENCE)
    schemas: dict[str, Any] = document["$defs"]
    return schemas


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": _parameters(operation),
        "responses": {**_success(operation), **_failures((*OF_EVERY_CALL, *operation.codes))},
    }
    if operation.scope is not None:
        described["description"] = f"Takes a key with the scope `{operation.scope}`."
    if operation.body is not None:
        content = {"application/json": {"schema": _reference(operation.body)}}
        if operation.lines is not None:
            content[JSON_LINES] = {"schema": {"type": "string"}}
        described["requestBody"] = {"required": not operation.body_is_optional, "content": content}
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    if operation.has_id:
        schema = {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS}
        parameters.append({"name": "id", "in": "path", "required": True, "schema": schema})
    fields = operation.query.model_json_schema(ref_template=REFERENCE)
    for name, schema in fields.get("properties", {}).items():
        given = {key: value for key, value in schema.items() if key not in {"title", "description"}}
        parameter = {"name": name, "in": "query", "required": False, "schema": given}
        if "description" in schema:
            parameter["description"] = schema["description"]
        parameters.append(parameter)
    return parameters


def _success(operation: Operation) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    told: dict[str, Any] = {"description": operation.summary}
    if operation.answer is not None:
        told["content"] = {"application/json": {"schema": _reference(operation.answer)}}
    answers[str(operation.status.value)] = told
    if operation.lines is not None:
        line = {"schema": _reference(operation.lines)}
        answers["200"] = {"description": "One result a line.", "content": {JSON_LINES: line}}
    return answers


def _failures(codes: Iterable[Code]) -> dict[str, Any]:
    by_status: dict[HTTPStatus, list[Code]] = {}
    for code in codes:
        known = by_status.setdefault(code.status, [])
        if code not in known:
            known.append(code)
    return {str(status.value): _failure(status, of_it) for status, of_it in sorted(by_status.items())}


def _failure(status: HTTPStatus, codes: list[Code]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": "; ".join(f"`{code.value}`: {code.meaning}" for code in codes),
        "content": {MEDIA_TYPE: {"schema": _reference(models.ProblemDocument)}},
    }
    if codes[0].has_retry_after:
        described["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    if status is HTTPStatus.UNAUTHORIZED:
        described["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return described


def _probe(name: str, meaning: str) -> dict[str, Any]:
    content = {"application/json": {"schema": _reference(models.Health)}}
    responses = {"200": {"description": "Yes.", "content": content}}
    if name == "readyz":
        responses["503"] = {"description": "No.", "content": content}
    return {"operationId": name, "summary": meaning, "security": [], "responses": responses}


def _metrics() -> dict[str, Any]:
    content = {kind: {"schema": {"type": "string"}} for kind in METRICS_KINDS}
    return {
        "operationId": "metrics",
        "summary": "What is measured, for Prometheus: on loopback, or at EVERGRANT_METRICS_PORT.",
        "security": [],
        "responses": {
            "200": {"description": "The metrics of docs/metrics.md.", "content": content},
            **_failures(
                (Code.FORBIDDEN, Code.TOO_MANY_REQUESTS, Code.INTERNAL_ERROR, Code.STORE_UNAVAILABLE)
            ),
        },
    }


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=model.__name__)}
