"""Specs as YAML: what is written reads back as the same spec, and holds no defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aviary.config.dump import dump_spec
from aviary.config.loader import load_spec, parse_spec, spec_files
from aviary.config.spec import ModelSpec

MODELS = Path(__file__).parents[3] / "models"
ODD = """1e3|yes|null|2024-01-01|1:30|<<|=|- a|{x}| a|a: b # c|0x1f|'|"|#|%|@|~|!a|&a|*a|>|?"""
MORE = [
    "a\n",
    "\n\n a\n b",
    "{% for m in x %}\n  {{ m }}\n{% endfor %}",
    "\t",
    "\ufeff",
    "é\u2028🐦",
]
texts = st.text(max_size=40) | st.sampled_from([*ODD.split("|"), *MORE])
lines = st.lists(texts, max_size=5).map("\n".join)
durations = st.floats(0.001, 1e6) | st.integers(0, 10**6)
ids = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
addresses = st.from_regex(r"https://[a-z]{1,9}/[a-z?&=]{1,9}", fullmatch=True)
sources = st.fixed_dictionaries(
    {"uri": addresses},
    optional={
        "sha256": st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
        "mirrors": st.lists(addresses, max_size=2),
    },
) | st.fixed_dictionaries({"parts": st.lists(addresses, min_size=1, max_size=3)})
engines = st.fixed_dictionaries(
    {"kind": st.just("fake")},
    optional={
        "slots": st.integers(1, 99),
        "gap": durations,
        "fail_start": texts,
        "faults": st.lists(
            st.fixed_dictionaries({"kind": st.sampled_from(["hang", "cut"])}), max_size=2
        ),
    },
) | st.fixed_dictionaries(
    {"kind": st.just("llamacpp")}, optional={"context_length": st.integers(64, 9999)}
)
formats = st.fixed_dictionaries(
    {}, optional={"user": texts.map(lambda text: text.replace("{content}", "") + "{content}")}
)
chats = st.fixed_dictionaries(
    {}, optional={"system": lines, "stop": st.lists(texts.filter(bool), max_size=3)}
).flatmap(
    lambda chat: st.sampled_from(["template", "prompt_format", ""]).flatmap(
        lambda name: {
            "": st.just(chat),
            "template": lines.map(lambda text: {**chat, "template": text}),
            "prompt_format": formats.map(lambda one: {**chat, "prompt_format": one}),
        }[name]
    )
)
scalings = st.tuples(st.integers(0, 5), st.integers(0, 5), durations).map(
    lambda drawn: {
        "min_replicas": drawn[0],
        "max_replicas": max(1, drawn[0] + drawn[1]),
        "idle": {"after": drawn[2], "then": "sleep"},
    }
)
specs = st.fixed_dictionaries(
    {"id": ids, "source": sources, "engine": engines},
    optional={
        "description": texts,
        "chat": chats,
        "scaling": scalings,
        "generation": st.fixed_dictionaries(
            {},
            optional={"temperature": st.floats(0, 5), "seed": st.integers(-(2**62), 2**62)},
        ),
        "resources": st.fixed_dictionaries({"cpus": st.floats(1e-9, 1024)}),
        "tags": st.lists(texts, max_size=3),
        "continue_streams": st.booleans(),
    },
).map(ModelSpec.model_validate)


@given(specs)
def test_what_is_written_reads_back(spec: ModelSpec) -> None:
    text = dump_spec(spec)
    assert parse_spec(text, "text") == spec
    assert dump_spec(parse_spec(text, "text")) == text


def _ends(data: Any) -> int:
    values = data.values() if isinstance(data, dict) else data if isinstance(data, list) else None
    return 1 if values is None else sum(_ends(value) for value in values)


@given(specs)
def test_only_what_differs_is_written(spec: ModelSpec) -> None:
    data = yaml.safe_load(dump_spec(spec))
    assert list(data) == [name for name in ModelSpec.model_fields if name in data]
    assert _ends(data) <= _ends(spec.model_dump(mode="json", exclude_defaults=True))


def test_the_catalog_is_written_as_people_would() -> None:
    for path in spec_files([MODELS]):
        spec = load_spec(path, check_source=False)
        assert yaml.safe_load(dump_spec(spec)).keys() <= yaml.safe_load(path.read_text()).keys()
        assert parse_spec(dump_spec(spec), "text") == spec


@pytest.mark.parametrize(
    ("fields", "lines"),
    [
        ({"scaling": {"min_replicas": 2}}, ["scaling:", "  min_replicas: 2"]),
        ({"scaling": {"max_replicas": 3}}, ["scaling:", "  max_replicas: 3"]),
        ({"limits": {"wait": 90}}, ["limits:", "  wait: 90s"]),
        ({"tags": ["a", "1e3"]}, ["tags:", "  - a", '  - "1e3"']),
        ({"chat": {"system": "a\n  b\n"}}, ["chat:", "  system: |", "    a", "      b"]),
    ],
)
def test_style(fields: dict[str, Any], lines: list[str]) -> None:
    spec = ModelSpec.model_validate({"id": "a", "engine": {"kind": "fake"}, **fields})
    text = dump_spec(spec)
    assert text.splitlines() == ["id: a", "engine:", "  kind: fake", *lines]
