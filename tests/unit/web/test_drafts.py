"""First specs from addresses alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.config.dump import dump_spec
from aviary.config.loader import parse_spec
from aviary.core.errors import InvalidRequest
from aviary.web.drafts import draft_id, draft_spec


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("hf:org/repo/Qwen2.5-0.5B.Q4_K_M.gguf", "qwen2.5-0.5b.q4_k_m"),
        ("https://host/a/My%20Model.GGUF?token=x", "my-model"),
        ("pypi:pkg==1.0/pkg/data/gemma.gguf.part00", "gemma"),
        ("file:/models/__x__.gguf", "x"),
        ("https://host/モデル.gguf", "model"),
        ("https://host/" + "a" * 99, "a" * 63),
    ],
)
def test_ids(uri: str, wanted: str) -> None:
    assert draft_id(uri) == wanted
    spec = draft_spec(uri, ())
    assert parse_spec(dump_spec(spec), "draft").id == wanted


def test_an_id_is_not_taken_twice() -> None:
    assert draft_id("hf:a/b/c.gguf", {"c", "c-2"}) == "c-3"
    long = "a" * 63
    assert draft_id(f"hf:a/b/{long}", {long}) == "a" * 61 + "-2"


@given(st.text(max_size=90))
def test_every_name_becomes_an_id(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", draft_id(f"hf:a/b/{name}"))


@pytest.mark.parametrize("uri", ["", "a.gguf", "s3://b/a", "file:a", "hf:a", "https:///", "x:\ny"])
def test_what_is_no_address_is_refused(uri: str) -> None:
    with pytest.raises(InvalidRequest):
        draft_spec(uri, ())
