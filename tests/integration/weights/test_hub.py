"""The `hf:` source against a stand-in for the hub."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aviary.core.errors import WeightsError
from aviary.weights.http import HttpSource
from aviary.weights.hub import HubSource

URI = "hf:org/model/sub/m.gguf"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def source(standin):
    return HubSource(endpoint=standin.url, http=HttpSource(sleep=lambda _: None))


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: None)


def test_a_file_comes_and_is_pinned_to_its_commit(standin, body, source, told, tmp_path):
    standin.put_hub("org/model", "sub/m.gguf", body, etag=None, cuts=[1_000_000])
    source.fetch(URI, tmp_path / "m", told)
    assert (tmp_path / "m").read_bytes() == body
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.json"]
    assert standin.seen[0].path == "/org/model/resolve/main/sub/m.gguf"
    assert standin.gets()[0].path == f"/org/model/resolve/{COMMIT}/sub/m.gguf"


def test_a_cut_transfer_goes_on(standin, body, source, told, tmp_path):
    standin.put_hub("org/model", "sub/m.gguf", body, cuts=[1_000_000])
    source.fetch("hf:org/model@v1.0/sub/m.gguf", tmp_path / "m", told)
    assert (tmp_path / "m").read_bytes() == body
    assert standin.gets()[-1].headers["range"] == "bytes=1000000-"


def test_the_token_goes_to_the_hub_only(standin, body, source, told, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: "hf_secret")
    standin.gated.add("org/model")
    standin.put_hub("org/model", "sub/m.gguf", body)
    source.fetch(URI, tmp_path / "m", told)
    for seen in standin.seen:
        assert ("authorization" in seen.headers) == seen.path.startswith("/org/")


def test_a_damaged_file_is_removed(standin, body, source, told, tmp_path):
    standin.put_hub("org/model", "sub/m.gguf", body, etag=f'"{hashlib.sha256(b"").hexdigest()}"')
    with pytest.raises(WeightsError, match="wrong checksum"):
        source.fetch(URI, tmp_path / "m", told)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("hf:org/none/m.gguf", "knows no repository org/none"),
        ("hf:org/model/none.gguf", "has no file none.gguf"),
        ("hf:org/model@nope/m.gguf", "no revision nope"),
        ("hf:org/gated/m.gguf", "restricted"),
    ],
)
def test_errors_name_what_is_missing(standin, source, told, tmp_path, uri, words):
    standin.put_hub("org/model", "m.gguf", b"x")
    standin.put_hub("org/gated", "m.gguf", b"x")
    standin.gated.add("org/gated")
    with pytest.raises(WeightsError, match=words):
        source.fetch(uri, tmp_path / "m", told)
    assert list(tmp_path.iterdir()) == []


def test_no_hub_there(told, tmp_path, unused_tcp_port):
    source = HubSource(endpoint=f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(WeightsError, match="cannot reach the hub"):
        source.fetch(URI, tmp_path / "m", told)


def test_a_server_that_is_no_hub(standin, source, told, tmp_path, monkeypatch):
    standin.put("/org/model/m.gguf", b"x")
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_url", lambda *_, **__: f"{standin.url}/org/model/m.gguf"
    )
    with pytest.raises(WeightsError, match="does not answer as a Hugging Face hub"):
        source.fetch("hf:org/model/m.gguf", tmp_path / "m", told)


def test_a_very_large_file_goes_through_the_library(standin, body, told, tmp_path):
    standin.put_hub("org/model", "sub/m.gguf", body, etag=None)
    source = HubSource(endpoint=standin.url, largest_plain=1_000_000)
    source.fetch(URI, tmp_path / "m", told)
    assert (tmp_path / "m").read_bytes() == body
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert 1.0 in told.fractions


def test_the_library_settings_hold(standin, body, tmp_path):
    """HF_ENDPOINT and HF_TOKEN are the library's; its own cache gets no second copy."""
    standin.put_hub("org/model", "sub/m.gguf", body)
    code = (
        "import sys; from pathlib import Path; from aviary.weights.hub import HubSource;"
        "HubSource().fetch(sys.argv[1], Path(sys.argv[2]), lambda *_: None)"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": standin.url,
        "HF_TOKEN": "hf_secret",
        "HF_HOME": str(tmp_path / "home"),
    }
    subprocess.run(
        [sys.executable, "-c", code, URI, str(tmp_path / "m")],
        env=environment,
        check=True,
        timeout=60,
    )
    assert (tmp_path / "m").read_bytes() == body
    asked = [seen for seen in standin.gets() if seen.path.startswith("/org/")]
    assert asked[0].headers["authorization"] == "Bearer hf_secret", standin.seen
    kept = [path for path in Path(tmp_path / "home").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) < 100_000
