"""The cache under everything that goes wrong: two processes, kill -9, full disk, no permission."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from aviary.config.spec import Source
from aviary.core.errors import WeightsError
from aviary.weights.cache import WeightCache
from aviary.weights.disk import DiskError, DiskFull
from aviary.weights.http import HttpSource

CHILD = """
import json, sys
from pathlib import Path
from aviary.config.spec import Source
from aviary.core.errors import WeightsError
from aviary.weights.cache import WeightCache
limit = int(sys.argv[3])
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
texts = []
try:
    path = WeightCache(Path(sys.argv[1])).ensure(
        Source.model_validate_json(sys.argv[2]), lambda text, _: texts.append(text)
    )
    print(json.dumps({"path": str(path), "texts": texts}))
except WeightsError as error:
    print(json.dumps({"error": str(error), "texts": texts}))
"""


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def start(root: Path, source: Source, limit: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), source.model_dump_json(), str(limit)],
        stdout=subprocess.PIPE,
        text=True,
    )


def result(child: subprocess.Popen[str]) -> dict:
    return json.loads(child.communicate(timeout=60)[0])


def left(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_two_processes_fetch_once(standin, body, tmp_path):
    url = standin.put("/m.gguf", body, bytes_per_second=2_000_000)
    source = Source(uri=url, sha256=sha(body))
    children = [start(tmp_path, source) for _ in range(2)]
    results = [result(child) for child in children]
    assert results[0]["path"] == results[1]["path"]
    assert Path(results[0]["path"]).read_bytes() == body
    assert len(standin.gets()) == 1
    waited = [text for each in results for text in each["texts"] if "waiting for another" in text]
    assert any("so far" in text for text in waited)


def test_kill_9_leaves_nothing_corrupt_and_the_next_goes_on(standin, body, told, tmp_path):
    url = standin.put("/m.gguf", body, bytes_per_second=3_000_000)
    source = Source(uri=url, sha256=sha(body))
    cache = WeightCache(tmp_path)
    part = cache.partial_folder([url]) / "file.part"
    for _ in range(2):
        before = part.stat().st_size if part.exists() else 0
        with start(tmp_path, source) as child:
            while not part.exists() or part.stat().st_size <= before:
                assert child.poll() is None
                time.sleep(0.01)
            child.send_signal(signal.SIGKILL)
        assert cache.locate(source) is None
        assert cache.usage().partial_bytes >= part.stat().st_size > before
    standin.files["/m.gguf"].bytes_per_second = None
    kept = part.stat().st_size
    assert cache.ensure(source, told).read_bytes() == body
    assert standin.gets()[-1].headers["range"] == f"bytes={kept}-"
    assert cache.usage().partial_bytes == 0


def test_a_wrong_checksum_leaves_nothing(standin, body, told, tmp_path):
    source = Source(uri=standin.put("/m", body), sha256=sha(b""))
    with pytest.raises(WeightsError, match=sha(body)):
        WeightCache(tmp_path).ensure(source, told)
    assert left(tmp_path) == []


def test_mirrors_after_404(standin, body, told, tmp_path):
    good = standin.put("/good.gguf", body)
    source = Source(uri=f"{standin.url}/gone.gguf", mirrors=(good,), sha256=sha(body))
    assert WeightCache(tmp_path).ensure(source, told).read_bytes() == body


def test_parts_come_in_parallel_and_are_joined(standin, body, told, tmp_path):
    pieces = [body[at : at + 1_000_000] for at in range(0, len(body), 1_000_000)]
    urls = [
        standin.put(f"/p{number}", piece, bytes_per_second=1_000_000, cuts=[600_000])
        for number, piece in enumerate(pieces)
    ]
    cache = WeightCache(tmp_path, source_for=lambda _: HttpSource(retries=0))
    source = Source(parts=tuple(urls), sha256=sha(body))
    with pytest.raises(WeightsError, match="broke off"):
        cache.ensure(source, told)
    assert cache.ensure(source, told).read_bytes() == body
    assert standin.most_at_once == 3
    assert all(0 <= fraction <= 1 for fraction in told.fractions if fraction is not None)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up(standin, body, told, tmp_path):
    """The part file leads to /dev/full, where the kernel refuses every write with ENOSPC."""
    url = standin.put("/m", body)
    cache = WeightCache(tmp_path)
    folder = cache.partial_folder([url])
    folder.mkdir(parents=True)
    (folder / "file.part").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="disk is full") as caught:
        cache.ensure(Source(uri=url), told)
    assert "AVIARY_CACHE" in caught.value.hint
    assert left(tmp_path) == []
    assert cache.ensure(Source(uri=url), told).read_bytes() == body


def test_a_limit_on_file_size(standin, body, tmp_path):
    source = Source(uri=standin.put("/m", body))
    told = result(start(tmp_path, source, limit=1_000_000))
    assert "disk is full" in told["error"]
    assert left(tmp_path) == []


def test_a_file_larger_than_the_disk_is_refused_at_once(standin, body, told, tmp_path, monkeypatch):
    monkeypatch.setattr("aviary.weights.disk.free_bytes", lambda _: 1_000_000)
    with pytest.raises(DiskFull, match=r"needs 3\.0 MB more .*1\.0 MB free"):
        WeightCache(tmp_path).ensure(Source(uri=standin.put("/m", body)), told)
    assert left(tmp_path) == []


def test_a_file_in_the_way(standin, body, told, tmp_path):
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(DiskError, match="folder is needed"):
        WeightCache(tmp_path / "cache").ensure(Source(uri=standin.put("/m", body)), told)


@contextlib.contextmanager
def without_rights():
    """Be nobody for a moment, when the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def reachable():
    """A folder that any user can reach, as pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="aviary-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("closed", [".", "locks", "partial", "sha256", "index"])
def test_no_permission(standin, body, told, reachable, closed):
    url = standin.put("/m", body)
    cache = WeightCache(reachable / "cache")
    cache.ensure(Source(uri=standin.put("/other", b"other")), told)  # imports what is needed
    for path in [cache.root, *(path for path in cache.root.rglob("*") if path.is_dir())]:
        path.chmod(0o777)
    for path in (cache.root / closed).rglob("*"):
        if path.is_dir():
            path.chmod(0o555)
    (cache.root / closed).chmod(0o555)
    try:
        with without_rights(), pytest.raises(DiskError, match="No permission") as caught:
            cache.ensure(Source(uri=url), told)
    finally:
        for path in cache.root.rglob("*"):
            path.chmod(0o755)
    assert "AVIARY_CACHE" in caught.value.hint
    assert cache.locate(Source(uri=url)) is None


def test_a_local_file_that_may_not_be_read(told, reachable):
    (reachable / "m").write_bytes(b"x")
    (reachable / "m").chmod(0o000)
    with without_rights(), pytest.raises(WeightsError, match="No permission"):
        WeightCache(reachable / "cache").ensure(Source(uri=f"file:{reachable}/m"), told)


def test_a_cache_that_may_only_be_read_serves_what_it_has(standin, body, told, reachable):
    source = Source(uri=standin.put("/m", body))
    cache = WeightCache(reachable / "cache")
    path = cache.ensure(source, told)
    for folder in [cache.root, *cache.root.rglob("*")]:
        folder.chmod(0o555)
    with without_rights():
        assert cache.ensure(source, told) == path
    for folder in [cache.root, *cache.root.rglob("*")]:
        folder.chmod(0o755)
