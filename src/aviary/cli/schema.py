"""`aviary schema`: the JSON Schema of a model spec."""

from __future__ import annotations

from aviary.cli.options import JsonOption, print_json


def schema(as_json: JsonOption = False) -> None:
    """Print the JSON Schema of a model spec.

    For editors: aviary schema > spec.schema.json
    """
    from aviary.config.schema import json_schema

    del as_json  # it is JSON either way
    print_json(json_schema())
