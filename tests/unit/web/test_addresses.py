"""Secrets of addresses stay where they are while a spec is edited as text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviary.config.loader import parse_spec
from aviary.config.spec import ModelSpec
from aviary.fleet.diff import Change, FieldChange
from aviary.web.addresses import hidden, restored, shown_spec
from aviary.web.applying import show_change
from aviary.web.specs import spec_text
from aviary.weights.address import hide, hides, redact


def spec_of(**source: Any) -> ModelSpec:
    fields = {"id": "a", "engine": {"kind": "llamacpp"}, "source": source}
    return ModelSpec.model_validate(fields)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:pw@host/a.gguf?token=x#y", "https://…@host/a.gguf?…"),
        ("https://host/a.gguf?token=x", "https://host/a.gguf?…"),
        ("https://me@host:8000/a.gguf", "https://…@host:8000/a.gguf"),
        ("https://host/a@b.gguf", "https://host/a@b.gguf"),
        ("hf:org/repo@main/a.gguf", "hf:org/repo@main/a.gguf"),
        ("https://[broken/a?x", "https://[broken/a"),
    ],
)
def test_hide(uri: str, shown: str) -> None:
    assert hide(uri) == shown
    assert hide(shown) == shown
    assert hides(shown) == ("…" in shown)


words = st.text("ab…@?/:%", max_size=4)
addresses = st.builds(
    "https://{}host/{}{}".format,
    st.sampled_from(["", "u@", "u:p@", "…@"]),
    st.sampled_from(["a", "b", "c/d"]),
    st.sampled_from(["", "?t=1", "?t=2", "?…"]),
) | words.map("pypi:x=={}".format)
sources = st.fixed_dictionaries(
    {"uri": addresses}, optional={"mirrors": st.lists(addresses, max_size=4)}
) | st.fixed_dictionaries({"parts": st.lists(addresses, min_size=1, max_size=4)})


@given(sources)
def test_what_nobody_edited_is_as_it_was(source: dict[str, Any]) -> None:
    spec = spec_of(**source)
    edited = parse_spec(spec_text(spec), "text")
    assert edited == hidden(spec)
    assert restored(edited, spec) == (spec, [])


@given(sources, sources)
def test_no_secret_goes_elsewhere(stored: dict[str, Any], source: dict[str, Any]) -> None:
    before, given_spec = spec_of(**stored), hidden(spec_of(**source))
    after, problems = restored(given_spec, before)
    if not problems:
        # Each address is one of those that were stored, or stands in the text as it is.
        assert hidden(after) == hidden(given_spec)


def test_an_address_may_be_moved() -> None:
    one, two = "https://host/a?t=1", "https://host/b?t=2"
    stored = spec_of(uri=one, mirrors=[two])
    swapped = spec_of(uri=hide(two), mirrors=[hide(one), "hf:a/b/c"])
    assert restored(swapped, stored) == (spec_of(uri=two, mirrors=[one, "hf:a/b/c"]), [])


def test_what_is_not_known_is_refused_with_its_place() -> None:
    one, two = "https://host/a?t=1", "https://host/a?t=2"
    twins = spec_of(parts=[one, two])
    assert restored(hidden(twins), twins) == (twins, [])
    moved = spec_of(uri=hide(one))  # it could be either
    for stored in (twins, None, spec_of(uri="https://other/a?t=1")):
        spec, [problem] = restored(moved, stored)
        assert spec == moved
        assert problem.path == ("source", "uri")


def test_nothing_secret_is_shown() -> None:
    spec = spec_of(uri="https://u:p4ss@host/a?t=s3cret", mirrors=["https://host/b?x=s3cret"])
    for shown in (str(shown_spec(spec)), spec_text(spec)):
        assert "s3cret" not in shown
        assert "p4ss" not in shown


def test_a_diff_shows_no_secret_and_that_there_is_one() -> None:
    fields = (
        FieldChange("source.uri", "https://u:old@host/f?sig=1", "https://u:new@host/f?sig=2"),
        FieldChange("source.mirrors", None, ["https://host/f?token=abc"]),
        FieldChange("tags", ["a"], ["b"]),
    )
    shown = show_change(Change("m", "changed", fields=fields))
    text = shown.model_dump_json()
    assert not any(secret in text for secret in ("old", "new@", "sig=", "abc"))
    assert shown.fields[0].before != shown.fields[0].after
    assert (shown.fields[2].before, shown.fields[2].after) == (["a"], ["b"])


@pytest.mark.parametrize("uri", ["HTTPS://host/m.gguf", "https://host/m.gguf#part"])
def test_untouched_is_unchanged_however_it_is_written(uri: str) -> None:
    stored = spec_of(uri=uri)
    back, problems = restored(hidden(stored), stored)
    assert (back, problems) == (stored, [])


def test_an_address_that_is_none_shows_no_user() -> None:
    assert "pw" not in redact("https://user:pw@[::1/m.gguf?sig=1")
