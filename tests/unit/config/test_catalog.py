"""Every spec that we show people loads, and the published schema agrees."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from aviary.config.loader import load_spec, load_specs, parse_spec
from aviary.config.schema import DIALECT, json_schema

ROOT = Path(__file__).parents[3]
CATALOG = sorted((ROOT / "models").glob("*.y*ml"))
BLOCK = re.compile(r"^```ya?ml[^\n]*\n((?:#[^\n]*\n|\s*\n)*id:.*?)^```", re.MULTILINE | re.DOTALL)


def doc_blocks() -> list[tuple[str, str]]:
    found = []
    for path in sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]):
        text = path.read_text()
        for match in BLOCK.finditer(text):
            line = text[: match.start()].count("\n") + 2
            found.append((f"{path.relative_to(ROOT)}:{line}", match.group(1)))
    return found


@pytest.mark.parametrize("path", CATALOG, ids=lambda path: path.name)
def test_catalog_file(path: Path):
    spec = load_spec(path)
    assert path.stem == spec.id
    assert spec.description
    assert spec.tags
    assert spec.source is not None
    assert spec.source.sha256
    assert spec.price.usd_per_hour is not None
    assert 0.05 <= spec.price.usd_per_hour <= 0.1


def test_catalog_as_a_whole():
    assert [spec.id for spec in load_specs([ROOT / "models"])] == [
        "gemma-3-270m",
        "smollm2-135m-brief",
        "smollm2-135m-instruct",
    ]


def test_specs_in_the_docs():
    for where, text in doc_blocks():
        parse_spec(text, where)


def test_schema_describes_itself():
    schema = json_schema()
    assert schema["$schema"] == DIALECT
    assert "$id" not in schema
    assert schema["title"] == "Aviary model spec"
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"id", "engine"}
    assert "title" not in schema["properties"]["id"]
    json.dumps(schema)


def test_schema_accepts_the_catalog_and_refuses_unknown_keys():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(json_schema())
    validator = jsonschema.Draft202012Validator(json_schema())
    for path in CATALOG:
        validator.validate(yaml.safe_load(path.read_text()))
    data = yaml.safe_load(CATALOG[0].read_text())
    assert not validator.is_valid({**data, "extra": 1})
    assert not validator.is_valid({**data, "limits": {"wait": "soon"}})
    assert not validator.is_valid({**data, "engine": {"kind": "lamacpp"}})
