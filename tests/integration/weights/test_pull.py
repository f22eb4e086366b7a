"""`aviary pull`, as a function."""

from __future__ import annotations

import hashlib
import json

import pytest

from aviary.cli.pull import pull
from aviary.config.settings import Settings


@pytest.fixture
def settings(tmp_path):
    return Settings(cache=tmp_path / "cache", home=tmp_path / "home")


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_a_table_of_what_is_there(standin, body, settings, capsys):
    assert pull([standin.put("/m.gguf", body)], as_json=False, settings=settings) == 0
    out, err = capsys.readouterr()
    name, size, digest, path = out.split()
    assert (name, size, digest) == ("m.gguf", str(len(body)), sha(body))
    assert path == str(settings.weights_dir / "sha256" / digest[:2] / digest)
    assert err == ""


def test_specs_and_addresses_and_failures_together(standin, body, settings, tmp_path, capsys):
    url = standin.put("/m.gguf", body)
    (tmp_path / "m.yaml").write_text(
        f"id: my-model\nsource: {{uri: '{url}', sha256: {sha(body)}}}\nengine: {{kind: llamacpp}}\n"
    )
    (tmp_path / "fake.yaml").write_text("id: my-fake\nengine: {kind: fake}\n")
    arguments = [str(tmp_path / "m.yaml"), str(tmp_path / "fake.yaml"), f"{standin.url}/none.gguf"]
    assert pull(arguments, as_json=True, settings=settings) == 1
    out, err = capsys.readouterr()
    model, fake, none = json.loads(out)
    assert (model["name"], model["bytes"], model["sha256"]) == ("my-model", len(body), sha(body))
    assert fake == {"name": "my-fake", "path": None, "bytes": None, "sha256": None}
    assert none["error"]["code"] == "weights_error"
    assert "HTTP 404" in err


def test_a_relative_file(settings, tmp_path, monkeypatch, capsys):
    (tmp_path / "m.gguf").write_bytes(b"one")
    monkeypatch.chdir(tmp_path)
    assert pull(["file:m.gguf"], as_json=True, settings=settings) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "m.gguf", "path": str(tmp_path / "m.gguf"), "bytes": 3, "sha256": sha(b"one")}
    ]


@pytest.mark.parametrize("argument", ["s3://bucket/m.gguf", "nowhere.yaml", "ftp://h/m"])
def test_what_cannot_be_pulled(settings, capsys, argument):
    assert pull([argument], as_json=False, settings=settings) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert argument in err


def test_nothing_to_pull(settings, capsys):
    assert pull([], as_json=False, settings=settings) == 2
    assert "Nothing to pull" in capsys.readouterr().err
