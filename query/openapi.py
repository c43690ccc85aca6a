"""The OpenAPI document of Runstream's own API, made from the types that decode its requests."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa

from runstream.query.api.bands import aggregate_schema
from runstream.query.api.requests import (
    MAX_LIVE_RUNS,
    AggregateRequest,
    LatestRequest,
    LiveRequest,
    PointsRequest,
    SummaryRequest,
)
from runstream.query.api.summary import SUMMARY
from runstream.query.http.formats import FORMATS
from runstream.query.points.stream import POINTS
from runstream.query.sql.routes import SqlRequest
from runstream.schemas.wire import API, ARROW

_ROUTES: tuple[tuple[str, type[msgspec.Struct], str, pa.Schema | None], ...] = (
    ("metrics/query", PointsRequest, "Points of many series", POINTS),
    ("metrics/latest", LatestRequest, "The newest point of each series", POINTS),
    ("metrics/summary", SummaryRequest, "One line about each series", SUMMARY),
    ("metrics/aggregate", AggregateRequest, "Statistics over runs, per key and step", None),
    ("sql", SqlRequest, "Read-only SQL over the metrics view", None),
)
_ERROR = {
    "type": "object",
    "required": ["error_code", "message"],
    "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
}
_REFUSALS = {
    "400": "The request is wrong; the message says how",
    "406": "None of the formats in Accept is offered",
    "413": "The request is too large",
    "415": "The body is not application/json",
    "500": "ClickHouse could not answer",
    "429": "Busy, or a part is away; try again after Retry-After seconds",
    "503": "The same, where no gateway is between that waits for it",
}
_STALE = {
    "X-Runstream-Stale": {
        "description": "true: points acknowledged a moment ago may be missing, the writer did not come along in time",
        "schema": {"type": "string"},
    }
}
_RUN_ID = {"type": "string", "pattern": r"^[a-zA-Z0-9][\w\-]{0,255}$"}
_KEY = {"type": "string", "minLength": 1, "maxLength": 250}


def document(version: str) -> dict[str, Any]:
    """The document, as plain data."""
    _, components = msgspec.json.schema_components(
        [*(request for _, request, _, _ in _ROUTES), LiveRequest], ref_template="#/components/schemas/{name}"
    )
    components["Error"] = _ERROR
    paths: dict[str, Any] = {}
    for route, request, summary, schema in _ROUTES:
        if schema is None and route == "metrics/aggregate":
            schema = aggregate_schema(["mean", "std", "min", "max", "p10", "p90"])
        paths[f"{API}/{route}"] = {"post": _operation(route, request, summary, schema)}
    paths[f"{API}/runs/{{run_id}}/metrics/live"] = {
        "get": _live("liveOfRun", [_parameter("run_id", "path", _RUN_ID, required=True)])
    }
    several = {"type": "array", "items": _RUN_ID, "minItems": 1, "maxItems": MAX_LIVE_RUNS}
    many = _live("liveOfMany", [], named=False)
    schema = {"$ref": f"#/components/schemas/{LiveRequest.__name__}"}
    many["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    paths[f"{API}/live"] = {
        "get": _live("live", [_parameter("run_id", "query", several, required=True)]),
        "post": many,
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Runstream",
            "version": version,
            "description": "Reads of metrics. Everything is under /api/1.0/runstream; MLflow's own REST is beside it.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(
    route: str, request: type[msgspec.Struct], summary: str, schema: pa.Schema | None
) -> dict[str, Any]:
    content: dict[str, Any] = {
        form.content_type.split(";")[0]: {"schema": {}} for name, form in FORMATS.items() if name != "json"
    }
    content["application/json"] = {"schema": {"type": "array", "items": _row(schema)}}
    return {
        "operationId": route.replace("/", "_"),
        "summary": summary,
        "description": f"Answered as {ARROW} unless Accept prefers another of the formats.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{request.__name__}"}}},
        },
        "responses": {
            "200": {"description": summary, "headers": _STALE, "content": content},
            **_refusals(),
        },
    }


def _row(schema: pa.Schema | None) -> dict[str, Any]:
    if schema is None:
        return {"type": "object"}
    return {
        "type": "object",
        "required": list(schema.names),
        "properties": {field.name: _column(field) for field in schema},
    }


def _column(field: pa.Field) -> dict[str, Any]:
    if pa.types.is_integer(field.type):
        shape: dict[str, Any] = {"type": "integer", "format": "int64"}
    elif pa.types.is_floating(field.type):
        odd = {"enum": ["NaN", "Infinity", "-Infinity"]}
        shape = {"anyOf": [{"type": "number"}, odd]}
    else:
        shape = {"type": "string"}
    return {"anyOf": [shape, {"type": "null"}]} if field.nullable else shape


def _live(name: str, parameters: list[dict[str, Any]], *, named: bool = True) -> dict[str, Any]:
    keys = {"type": "array", "items": _KEY, "minItems": 1, "maxItems": 1000}
    last = _parameter("Last-Event-ID", "header", {"type": "string"})
    return {
        "operationId": name,
        "summary": "New points as they land, as Server-Sent Events",
        "description": "Events: `points` (columns of one run), `gap` (query for what was missed), `dropped`.",
        "parameters": [*parameters, *([_parameter("key", "query", keys)] if named else []), last],
        "responses": {
            "200": {
                "description": "The stream",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            **_refusals(),
        },
    }


def _parameter(name: str, place: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": schema}


def _refusals() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": text, "content": content} for status, text in _REFUSALS.items()}
