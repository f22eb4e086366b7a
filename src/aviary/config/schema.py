"""The JSON Schema of a model spec, for editors and for tools that write specs."""

from __future__ import annotations

from typing import Any

from aviary.config.spec import ModelSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema as JSON Schema 2020-12; it has no `$id`, since it may be kept anywhere."""
    made = _without_titles(ModelSpec.model_json_schema(mode="validation"))
    made.pop("description", None)
    return {
        "$schema": DIALECT,
        "title": "Aviary model spec",
        "description": (
            "One model: what to serve, how, and with what. Unknown keys are errors. "
            "Durations are seconds, or texts such as 500ms, 30s, 10m, 2h."
        ),
        **made,
    }


def _without_titles(schema: Any) -> Any:
    """The schema less the titles that pydantic makes from the fields' names, which say nothing."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _without_titles(item) for name, item in value.items()}
        if key in ("properties", "$defs")
        else _without_titles(value)
        for key, value in schema.items()
        if key != "title"
    }
