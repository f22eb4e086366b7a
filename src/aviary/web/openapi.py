"""The OpenAI routes in `/openapi.json`: the gateway serves them outside FastAPI."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_ERROR = {
    "description": "An error in OpenAI's shape.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_ERROR_SCHEMA = {
    "title": "Error",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
                "who": {
                    "type": "string",
                    "description": "Who failed: client, gateway, replica, engine, …",
                },
                "retryable": {"type": "boolean"},
            },
        }
    },
}
_MODEL = {"type": "string", "description": "A model's id, as `GET /v1/models` lists them."}
_STREAM = {"type": "boolean", "description": "Answer as server-sent events."}


def _generation(summary: str, fields: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": ["model", *required],
        "properties": {"model": _MODEL, **fields},
        "additionalProperties": True,
    }
    return {
        "post": {
            "tags": ["OpenAI"],
            "summary": summary,
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            "responses": {
                "200": {
                    "description": "The answer.",
                    "content": {
                        "application/json": {"schema": {"type": "object"}},
                        "text/event-stream": {"schema": {"type": "string"}},
                    },
                },
                "4XX": _ERROR,
                "5XX": _ERROR,
            },
        }
    }


def _list_models(summary: str) -> dict[str, Any]:
    return {
        "get": {
            "tags": ["OpenAI"],
            "summary": summary,
            "responses": {
                "200": {
                    "description": "OpenAI's model object(s).",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                },
                "4XX": _ERROR,
            },
        }
    }


_SAMPLING = {
    "stream": _STREAM,
    "max_tokens": {"type": "integer", "minimum": 1},
    "temperature": {"type": "number", "minimum": 0},
    "top_p": {"type": "number"},
    "n": {"type": "integer", "minimum": 1},
    "seed": {"type": "integer"},
    "stop": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
}
_MODEL_PARAMETER = {
    "name": "model",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
}


def _in_path(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": kind}}


def _json_body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _battle_events(summary: str, body: dict[str, Any], *in_path: str) -> dict[str, Any]:
    return {
        "post": {
            "summary": summary,
            "parameters": [_in_path(name, "string") for name in in_path],
            "requestBody": _json_body(body),
            "responses": {
                "200": {
                    "description": (
                        "Server-sent events, each a JSON object with a `kind`: `battle` (its id) "
                        "first; of each column `start`, `waiting`, `reasoning`, `text`, and at "
                        "its end `end` or `error`; `stored` last."
                    ),
                    "content": {"text/event-stream": {"schema": {"type": "string"}}},
                },
                "4XX": _ERROR,
                "5XX": _ERROR,
            },
        }
    }


_SESSION = {"type": "string", "maxLength": 64, "description": "The battle's session."}
_BATTLE = {
    "type": "object",
    "required": ["models"],
    "additionalProperties": False,
    "properties": {
        "models": {
            "type": "array",
            "minItems": 1,
            "maxItems": 6,
            "items": {
                "type": "object",
                "required": ["model"],
                "additionalProperties": False,
                "properties": {
                    "model": _MODEL,
                    "parameters": {
                        "type": "object",
                        "description": "Fields of `/v1/chat/completions`.",
                        "additionalProperties": True,
                    },
                    "messages": {
                        "type": "array",
                        "items": {"type": "object"},
                        "description": "This column's own turns; the prompt comes after them.",
                    },
                },
            },
        },
        "prompt": {"type": "string", "description": "Either this or `messages`."},
        "messages": {"type": "array", "items": {"type": "object"}},
        "system": {"type": "string"},
        "blind": {"type": "boolean", "description": "Shuffle; name no model before the vote."},
        "session": {"type": "string", "maxLength": 64},
        "task": {"type": "string", "maxLength": 64},
    },
}
PATHS: dict[str, Any] = {
    "/v1/chat/completions": _generation(
        "Answer a conversation.",
        {"messages": {"type": "array", "items": {"type": "object"}, "minItems": 1}, **_SAMPLING},
        ["messages"],
    ),
    "/v1/completions": _generation(
        "Continue a text.",
        {"prompt": {"anyOf": [{"type": "string"}, {"type": "array"}]}, **_SAMPLING},
        ["prompt"],
    ),
    "/v1/embeddings": _generation(
        "Turn texts into vectors.",
        {"input": {"anyOf": [{"type": "string"}, {"type": "array"}]}},
        ["input"],
    ),
    "/api/battles": _battle_events(
        "Ask several models the same; all their answers in one event stream.", _BATTLE
    ),
    "/api/battles/{battle}/retry": _battle_events(
        "Ask columns of a battle once more; their answers replace the old ones.",
        {
            "type": "object",
            "required": ["columns", "session"],
            "additionalProperties": False,
            "properties": {
                "columns": {"type": "array", "minItems": 1, "items": {"type": "integer"}},
                "session": _SESSION,
            },
        },
        "battle",
    ),
    "/api/battles/{battle}/columns/{column}/stop": {
        "post": {
            "summary": "Stop a column of a battle that runs; its text so far is its answer.",
            "parameters": [_in_path("battle", "string"), _in_path("column", "integer")],
            "requestBody": _json_body(
                {
                    "type": "object",
                    "required": ["session"],
                    "additionalProperties": False,
                    "properties": {"session": _SESSION},
                }
            ),
            "responses": {
                "202": {
                    "description": "It will stop, if it runs and the battle is the session's.",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                },
                "4XX": _ERROR,
                "5XX": _ERROR,
            },
        }
    },
    "/v1/models": _list_models("List the models."),
    "/v1/models/{model}": {
        "get": {**_list_models("One model.")["get"], "parameters": [_MODEL_PARAMETER]}
    },
}


def describe_openai_routes(app: FastAPI) -> None:
    """Make the app's OpenAPI document include the gateway's routes."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            schema["paths"] = {**PATHS, **schema["paths"]}
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas["Error"] = _ERROR_SCHEMA
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
