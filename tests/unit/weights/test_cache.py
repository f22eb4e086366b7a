"""The cache's own logic, with sources that are only scripts."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from aviary.config.spec import Source
from aviary.core.errors import WeightsError
from aviary.weights import cache as cache_module
from aviary.weights.address import key_of
from aviary.weights.cache import WeightCache
from aviary.weights.checksum import WrongChecksum
from aviary.weights.disk import DiskError, DiskFull, disk_errors, require_space
from aviary.weights.locks import held

A, B = "http://host/a.gguf", "http://host/b.gguf"


def sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class Script:
    """A source of bytes or errors; counts what it was asked."""

    def __init__(self, **answers) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def fetch(self, uri: str, target: Path, progress) -> None:
        name = uri.rpartition("/")[2].partition(".")[0]
        self.asked.append(name)
        answer = self.answers[name]
        if callable(answer):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        with disk_errors(target, "writing"), target.open("ab") as file:
            file.write(answer)
        progress(name, 1.0)


def quiet(_text: str, _fraction: float | None) -> None:
    pass


def make(root: Path, script: Script) -> WeightCache:
    return WeightCache(root / "cache", source_for=lambda _: script)


def files(root: Path) -> list[str]:
    return sorted(
        str(path.relative_to(root / "cache"))
        for path in (root / "cache").rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


def test_a_file_is_named_by_its_content_and_fetched_once(tmp_path):
    script = Script(a=b"one")
    cache = make(tmp_path, script)
    source = Source(uri=A)
    assert cache.locate(source) is None
    path = cache.ensure(source, quiet)
    assert path == tmp_path / "cache" / "sha256" / sha(b"one")[:2] / sha(b"one")
    assert path.read_bytes() == b"one"
    assert cache.ensure(source, quiet) == cache.locate(source) == path
    assert script.asked == ["a"]
    assert path.stat().st_mode & 0o777 == 0o444
    assert not list((tmp_path / "cache" / "partial").iterdir())


def test_the_same_content_from_elsewhere_is_kept_once(tmp_path):
    script = Script(a=b"one", b=b"one")
    cache = make(tmp_path, script)
    assert cache.ensure(Source(uri=A), quiet) == cache.ensure(Source(uri=B), quiet)
    usage = cache.usage()
    assert (usage.files, usage.bytes, usage.partial_bytes) == (1, 3, 0)
    assert usage.free_bytes
    assert cache.locate(Source(uri="http://host/c", sha256=sha(b"one"))) is not None


def test_a_stated_checksum_needs_no_index(tmp_path):
    cache = make(tmp_path, Script(a=b"one"))
    source = Source(uri=A, sha256=sha(b"one"))
    path = cache.ensure(source, quiet)
    shutil.rmtree(tmp_path / "cache" / "index")
    assert cache.locate(source) == path
    assert cache.locate(Source(uri=A)) is None


def test_a_cut_file_in_the_cache_is_fetched_again(tmp_path):
    script = Script(a=b"one")
    cache = make(tmp_path, script)
    path = cache.ensure(Source(uri=A), quiet)
    path.chmod(0o644)
    path.write_bytes(b"o")
    assert cache.locate(Source(uri=A)) is None


def test_a_broken_index_is_no_index(tmp_path):
    cache = make(tmp_path, Script(a=b"one"))
    cache.ensure(Source(uri=A), quiet)
    for text in ("", "[]", '{"sha256": 1}', '{"sha256": "../../../etc", "bytes": 1}'):
        next((tmp_path / "cache" / "index").iterdir()).write_text(text)
        assert cache.locate(Source(uri=A)) is None


def test_a_wrong_checksum_leaves_nothing(tmp_path):
    cache = make(tmp_path, Script(a=b"one"))
    with pytest.raises(WrongChecksum) as caught:
        cache.ensure(Source(uri=A, sha256=sha(b"two")), quiet)
    assert sha(b"one") in caught.value.message
    assert sha(b"two") in caught.value.message
    assert files(tmp_path) == []


def test_a_wrong_kept_part_is_thrown_away_once(tmp_path):
    script = Script(a=b"one")
    cache = make(tmp_path, script)
    folder = cache.partial_folder([A])
    folder.mkdir(parents=True)
    (folder / "file.part").write_bytes(b"rotten ")
    assert cache.ensure(Source(uri=A, sha256=sha(b"one")), quiet).read_bytes() == b"one"
    assert script.asked == ["a", "a"]


def test_mirrors_in_order(tmp_path):
    script = Script(a=WeightsError("a is gone."), b=b"two")
    cache = make(tmp_path, script)
    source = Source(uri=A, mirrors=("s3://x/y", B))
    path = cache.ensure(source, quiet)
    assert path.read_bytes() == b"two"
    assert script.asked == ["a", "b"]
    assert cache.locate(source) == path


@pytest.mark.parametrize("busy", [False, True])
def test_what_came_of_a_failed_address_goes_when_a_mirror_gave_the_file(tmp_path, busy):
    cache = make(tmp_path, Script(a=WeightsError("a broke off."), b=b"two"))
    part = cache.partial_folder([A]) / "file.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"t")
    again = Script(a=WeightsError("a broke off."))
    with pytest.raises(WeightsError):
        make(tmp_path, again).ensure(Source(uri=A), quiet)
    assert part.exists()
    with contextlib.ExitStack() as stack:
        cache.ensure(Source(uri="s3://x/y", mirrors=(B,)), quiet)
        cache._index([B]).unlink()
        if busy:
            real = cache._get

            def get(way, sha256, progress):
                path = real(way, sha256, progress)
                lock = tmp_path / "cache" / "locks" / f"{key_of([A])}.lock"
                stack.enter_context(held(lock, lambda: None))
                return path

            cache._get = get
        cache.ensure(Source(uri=A, mirrors=(B,)), quiet)
    assert part.exists() == busy


def test_all_causes_are_told(tmp_path):
    script = Script(a=WeightsError("a is gone.", hint="Look for a."), b=b"wrong")
    with pytest.raises(WeightsError) as caught:
        make(tmp_path, script).ensure(
            Source(uri=A, mirrors=(B, "gs://x/y"), sha256=sha(b"right")), quiet
        )
    text = str(caught.value)
    assert "none of 3 addresses" in text
    for words in ("(1) a is gone.", "(2)", "wrong checksum", "(3)", "not available", "Look for a."):
        assert words in text


def test_a_full_disk_is_not_tried_on_mirrors_and_is_cleaned(tmp_path):
    script = Script(a=DiskFull("The disk is full."), b=b"two")
    cache = make(tmp_path, script)
    folder = cache.partial_folder([A])
    folder.mkdir(parents=True)
    (folder / "file.part").write_bytes(b"some")
    with pytest.raises(DiskFull):
        cache.ensure(Source(uri=A, mirrors=(B,)), quiet)
    assert script.asked == ["a"]
    assert files(tmp_path) == []


def test_parts_are_joined_in_their_order(tmp_path):
    names = [f"p{number}" for number in range(9)]
    script = Script(**{name: name.encode() for name in names})
    source = Source(
        parts=tuple(f"http://host/{name}" for name in names),
        sha256=sha(b"".join(script.answers.values())),
    )
    cache = make(tmp_path, script)
    path = cache.ensure(source, quiet)
    assert path.read_bytes() == b"p0p1p2p3p4p5p6p7p8"
    assert sorted(script.asked) == names
    assert cache.usage().partial_bytes == 0


def test_parts_that_came_are_kept_when_another_fails(tmp_path):
    source = Source(parts=(A, B))

    def fail_late():
        while not (cache.partial_folder(source.parts) / "0.done").exists():
            time.sleep(0.01)
        return WeightsError("b is gone.")

    script = Script(a=b"one", b=fail_late)
    cache = make(tmp_path, script)
    with pytest.raises(WeightsError, match="b is gone"):
        cache.ensure(source, quiet)
    script.answers["b"] = b"two"
    assert cache.ensure(source, quiet).read_bytes() == b"onetwo"
    assert script.asked.count("a") == 1


def test_wrong_parts_leave_nothing(tmp_path):
    cache = make(tmp_path, Script(a=b"one", b=b"two"))
    with pytest.raises(WrongChecksum, match="1 more part"):
        cache.ensure(Source(parts=(A, B), sha256=sha(b"twoone")), quiet)
    assert files(tmp_path) == []


def test_threads_ask_once(tmp_path):
    script = Script(a=b"one")
    cache = make(tmp_path, script)
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.append(cache.ensure(Source(uri=A), quiet)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1
    assert len(paths) == 8
    assert script.asked == ["a"]


def test_a_local_file_is_used_in_place(tmp_path):
    weights = tmp_path / "m.gguf"
    weights.write_bytes(b"one")
    cache = WeightCache(tmp_path / "cache")
    source = Source(uri=f"file:{weights}")
    assert cache.locate(source) == cache.ensure(source, quiet) == weights
    assert not (tmp_path / "cache").exists()
    info = cache.info(source, quiet)
    assert (info.path, info.bytes, info.sha256) == (weights, 3, sha(b"one"))


def test_a_local_file_is_verified_once_until_it_changes(tmp_path, monkeypatch):
    weights = tmp_path / "m.gguf"
    weights.write_bytes(b"one")
    cache = WeightCache(tmp_path / "cache")
    source = Source(uri=f"file:{weights}", sha256=sha(b"one"))
    assert cache.locate(source) is None
    hashed: list[Path] = []
    real = cache_module.sha256_of
    monkeypatch.setattr(
        cache_module, "sha256_of", lambda path, meter: hashed.append(path) or real(path, meter)
    )
    assert cache.ensure(source, quiet) == weights
    assert cache.ensure(source, quiet) == cache.locate(source) == weights
    assert hashed == [weights]
    weights.write_bytes(b"two")
    os.utime(weights, ns=(1, 1))
    assert cache.locate(source) is None
    with pytest.raises(WrongChecksum, match="left as it is"):
        cache.ensure(source, quiet)
    assert weights.read_bytes() == b"two"


def test_a_local_file_that_is_not_there_gives_way_to_a_mirror(tmp_path):
    script = Script(a=b"one")
    cache = make(tmp_path, script)
    source = Source(uri=f"file:{tmp_path}/none.gguf", mirrors=(A,))
    assert cache.ensure(source, quiet).read_bytes() == b"one"
    with pytest.raises(WeightsError, match="There is no file"):
        cache.ensure(Source(uri=f"file:{tmp_path}/none.gguf"), quiet)
    with pytest.raises(WeightsError, match="is not a file"):
        cache.ensure(Source(uri=f"file:{tmp_path}"), quiet)


def test_local_parts_are_joined_and_left_alone(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    cache = WeightCache(tmp_path / "cache")
    source = Source(parts=(f"file:{tmp_path}/a", f"file:{tmp_path}/b"))
    assert cache.ensure(source, quiet).read_bytes() == b"onetwo"
    assert (tmp_path / "a").read_bytes() == b"one"


def test_a_file_where_the_cache_should_be(tmp_path):
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(DiskError, match="folder is needed") as caught:
        make(tmp_path, Script(a=b"one")).ensure(Source(uri=A), quiet)
    assert "AVIARY_CACHE" in caught.value.hint
    assert make(tmp_path, Script()).usage().files == 0


def test_too_little_space_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(DiskFull, match=r"m needs .* TB") as caught:
        require_space(tmp_path / "m", 10**18, "m")
    assert "free" in caught.value.message
    require_space(tmp_path / "m", 10, "m")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EFBIG, "disk is full"),
        (errno.EACCES, "No permission"),
        (errno.EROFS, "No permission"),
        (errno.EIO, "reading /x"),
    ],
)
def test_disk_errors_in_words(number, words):
    with pytest.raises(DiskError, match=words), disk_errors(Path("/x"), "reading"):
        raise OSError(number, os.strerror(number))
