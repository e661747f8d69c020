"""The endpoints as OpenAPI describes them."""

from typing import Any

from mrt5_jax.serve.bodies import BODY_FIELDS
from mrt5_jax.serve.limits import ServeLimits
from mrt5_jax.serve.warm_model import Endpoint, WarmModel

Schema = dict[str, Any]

_INTEGER: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}
_TEXT: Schema = {
    "oneOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"base64": {"type": "string", "contentEncoding": "base64"}},
            "required": ["base64"],
            "additionalProperties": False,
        },
    ],
    "description": "A text, or any bytes",
}
_FLAG: Schema = {"type": "boolean", "default": False}
_COUNTS: Schema = {"length": _INTEGER, "kept": _INTEGER, "dropped": _INTEGER}
_SUMMARIES: dict[Endpoint, str] = {
    "generate": "Write an output for each text",
    "score": "Compute how probable targets are",
    "deletions": "Find which bytes the gate deletes",
    "embeddings": "Compute the encoder's output at the positions that stay",
}


def openapi(warm: WarmModel, limits: ServeLimits) -> Schema:
    """Returns the description of a server, with its limits."""
    paths = {f"/v1/{name}": {"post": _operation(name, limits)} for name in BODY_FIELDS}
    for path, summary in {"/healthz": "Say what the model is", "/openapi.json": "Describe the endpoints"}.items():
        paths[path] = {
            "get": {"summary": summary, "responses": {"200": _json("Done", {"type": "object"}), **_refusals()}}
        }
    paths["/metrics"] = {
        "get": {
            "summary": "Tell Prometheus the metrics",
            "responses": {"200": {"description": "Done", "content": {"text/plain": {}}}, **_refusals()},
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": f"mrt5 serve: {warm.name}", "version": "1"},
        "paths": paths,
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"bearer": []}],
    }


def _operation(endpoint: Endpoint, limits: ServeLimits) -> Schema:
    pair = {"type": "array", "prefixItems": [_TEXT, _TEXT], "items": False, "minItems": 2, "maxItems": 2}
    fields: Schema = {
        "texts": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": limits.texts},
        "pairs": {"type": "array", "items": pair, "minItems": 1, "maxItems": limits.texts},
        "threshold": {"type": ["number", "null"], "description": "Keep gate values above it, in place of the model's"},
        "truncate": {**_FLAG, "description": "Cut inputs that are too long, instead of refusing them"},
        "stream": {**_FLAG, "description": "Answer with server-sent events"},
    }
    known = BODY_FIELDS[endpoint]
    body = {
        "type": "object",
        "properties": {name: fields[name] for name in known},
        "required": [known[0]],
        "additionalProperties": False,
    }
    answers = {"type": "array", "items": {"type": "object", "properties": _answer_fields(endpoint)}}
    found = {
        "type": "object",
        "properties": {"answers": answers, "seconds": _NUMBER},
        "required": ["answers", "seconds"],
    }
    done = _json("Answers, in order", found)
    if "stream" in known:
        done["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "summary": _SUMMARIES[endpoint],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": done, **_refusals()},
    }


def _answer_fields(endpoint: Endpoint) -> Schema:
    integers: Schema = {"type": "array", "items": _INTEGER}
    rows: Schema = {"type": "array", "items": {"type": "array", "items": {"type": "object"}}}
    fields: dict[Endpoint, Schema] = {
        "generate": {"text": {"type": "string"}, "ids": integers, "log_probability": _NUMBER, **_COUNTS},
        "score": {"log_probability": _NUMBER, "num_target_tokens": _INTEGER, **_COUNTS},
        "deletions": {"windows": rows, "length": _INTEGER, "kept": _INTEGER},
        "embeddings": {
            "positions": integers,
            "hidden": {"type": "array", "items": {"type": "array", "items": _NUMBER}},
        },
    }
    return fields[endpoint]


def _refusals() -> Schema:
    reason = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    return {status: _json("Refused, with the reason", reason) for status in ("4XX", "5XX")}


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
