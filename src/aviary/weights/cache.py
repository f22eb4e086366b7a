"""The content-addressed weight cache.

Its folder::

    sha256/ab/abcdef…      whole, checked files, named by their SHA-256; never changed
    index/KEY.json         which file an address gave, for sources that state no checksum
    verified/KEY.json      files elsewhere on this machine whose checksum was right
    partial/KEY/           what came so far of a file that is not whole
    locks/NAME.lock        one lock a file, so that two processes fetch it once

A file appears under `sha256/` by a rename within the file system, after it is whole, its checksum
is right and its bytes are on the disk; so a process may die at any moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from aviary.config.spec import Source
from aviary.core.errors import WeightsError
from aviary.core.ports import Progress, WeightSource
from aviary.weights.address import display_name, key_of, redact
from aviary.weights.checksum import WrongChecksum, sha256_of
from aviary.weights.disk import (
    DiskError,
    DiskFull,
    copy_stream,
    disk_errors,
    free_bytes,
    read_json,
    require_space,
    size_of,
    sync,
    write_json,
)
from aviary.weights.local import existing_file
from aviary.weights.locks import held, held_if_free
from aviary.weights.meter import Meter, SharedProgress, format_bytes
from aviary.weights.sources import check_address, source_for

_PARALLEL_PARTS = 4


@dataclass(frozen=True, slots=True)
class CacheUsage:
    """What the cache takes of the disk.

    Attributes:
        files: Whole files.
        bytes: Their size.
        partial_bytes: Size of what is not whole yet.
        free_bytes: What the disk has left; `None` when it cannot be asked.
    """

    files: int
    bytes: int
    partial_bytes: int
    free_bytes: int | None


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file of weights on this machine.

    Attributes:
        path: Where it is.
        bytes: Its size.
        sha256: Its checksum, hex.
    """

    path: Path
    bytes: int
    sha256: str


class WeightCache:
    """Files by address, fetched once for all processes of this machine.

    Args:
        root: The cache's folder; made when it is needed.
        source_for: Gives the source of an address; another one serves tests.
    """

    def __init__(
        self, root: Path, *, source_for: Callable[[str], WeightSource] = source_for
    ) -> None:
        self.root = root.absolute()
        self._source_for = source_for

    def ensure(self, source: Source, progress: Progress) -> Path:
        """The local file of a source, fetched if it is not here yet.

        Blocks: call it in a thread. The addresses are tried in order, `uri` or `parts` first, then
        the mirrors.

        Args:
            source: Addresses, and the checksum if there is one; `file:` addresses are absolute.
            progress: Receives texts, about five a second.

        Raises:
            WeightsError: when no address gave the file, with the cause for each.
        """
        found = self.locate(source)
        if found is not None:
            return found
        ways = _ways(source)
        name = _name(ways[0])
        with contextlib.ExitStack() as stack:
            if source.sha256 is not None and any(not _is_file(way) for way in ways):
                stack.enter_context(self._lock(f"sha256-{source.sha256}", name, ways[0], progress))
            causes: list[WeightsError] = []
            for number, way in enumerate(ways):
                try:
                    for uri in way:
                        check_address(uri)
                    path = self._get(way, source.sha256, progress)
                except WeightsError as error:
                    if isinstance(error, DiskError) and not _is_file(way):
                        raise  # our own disk is at fault: a mirror cannot help
                    causes.append(error)
                else:
                    self._drop_partial(ways[:number])
                    return path
        raise _all_failed(name, causes)

    def locate(self, source: Source) -> Path | None:
        """The local file of a source when it is here already; asks no network, writes nothing."""
        if source.sha256 is not None:
            blob = self._blob(source.sha256)
            if blob.is_file():
                return blob
        for way in _ways(source):
            if _is_file(way):
                with contextlib.suppress(WeightsError, OSError):
                    path = existing_file(way[0])
                    if source.sha256 in {None, self._remembered(path)}:
                        return path
            elif source.sha256 is None:
                found = self._indexed(way)
                if found is not None:
                    return found
        return None

    def info(self, source: Source, progress: Progress) -> WeightFile:
        """Like `ensure`, with the file's size and checksum."""
        path = self.ensure(source, progress)
        size = size_of(path)
        if path.parent.parent == self.root / "sha256":
            return WeightFile(path, size, path.name)
        digest = source.sha256 or self._remembered(path)
        return WeightFile(path, size, digest or self._verify(path, None, progress))

    def usage(self) -> CacheUsage:
        """How much of the disk the cache takes."""
        whole = [size_of(path) for path in (self.root / "sha256").glob("*/*")]
        partial = (self.root / "partial").rglob("*")
        return CacheUsage(
            files=len(whole),
            bytes=sum(whole),
            partial_bytes=sum(size_of(path) for path in partial if path.is_file()),
            free_bytes=free_bytes(self.root),
        )

    def partial_folder(self, pieces: Sequence[str]) -> Path:
        """Where the bytes of a file that is not whole are kept."""
        return self.root / "partial" / key_of(pieces)

    # One way to the file: an address, or the addresses of its pieces.

    def _get(self, way: tuple[str, ...], sha256: str | None, progress: Progress) -> Path:
        if _is_file(way):
            path = existing_file(way[0])
            if sha256 is not None:
                self._verify(path, sha256, progress)
            return path
        with self._lock(key_of(way), _name(way), way, progress):
            blob = self._indexed(way) if sha256 is None else self._blob(sha256)
            if blob is not None and blob.is_file():
                return blob
            folder = self.partial_folder(way)
            with disk_errors(folder, "writing"):
                resumed = folder.is_dir() and any(folder.iterdir())
                folder.mkdir(parents=True, exist_ok=True)
            try:
                return self._fetch_and_publish(way, sha256, progress)
            except WrongChecksum:
                if not resumed:
                    raise
            progress(f"{_name(way)}: the kept part was wrong, starting again", None)
            return self._fetch_and_publish(way, sha256, progress)

    def _fetch_and_publish(
        self, way: tuple[str, ...], sha256: str | None, progress: Progress
    ) -> Path:
        folder = self.partial_folder(way)
        whole = folder / "file.part"
        try:
            with disk_errors(folder, "writing"):
                folder.mkdir(parents=True, exist_ok=True)
            if len(way) == 1:
                self._source_for(way[0]).fetch(way[0], whole, progress)
                meter = Meter(progress, "checking", _name(way), size_of(whole))
                digest = sha256_of(whole, meter)
            else:
                digest = self._join(self._fetch_pieces(way, folder, progress), whole, progress)
        except DiskFull:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if sha256 is not None and digest != sha256:
            shutil.rmtree(folder, ignore_errors=True)
            raise WrongChecksum(_shown(way), sha256, digest, removed=True)
        blob = self._publish(whole, digest)
        write_json(
            self._index(way),
            {"addresses": [redact(uri) for uri in way], "sha256": digest, "bytes": size_of(blob)},
        )
        shutil.rmtree(folder, ignore_errors=True)
        return blob

    def _fetch_pieces(self, way: tuple[str, ...], folder: Path, progress: Progress) -> list[Path]:
        shared = SharedProgress(progress, len(way))

        def fetch(number: int) -> Path:
            done = folder / f"{number}.done"
            if not done.is_file():
                part = folder / f"{number}.part"
                self._source_for(way[number]).fetch(way[number], part, shared.part(number))
                with disk_errors(done, "writing"):
                    sync(part)
                    part.replace(done)
            return done

        with ThreadPoolExecutor(_PARALLEL_PARTS, thread_name_prefix="weights") as pool:
            futures = [pool.submit(fetch, number) for number in range(len(way))]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                shared.cancel()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def _join(self, pieces: Sequence[Path], whole: Path, progress: Progress) -> str:
        digest = hashlib.sha256()
        total = sum(size_of(piece) for piece in pieces)
        require_space(whole, total - size_of(whole), "joining the parts")
        meter = Meter(progress, "joining", f"{len(pieces)} parts", total)
        with disk_errors(whole, "writing"), whole.open("wb") as writer:
            for piece in pieces:
                with piece.open("rb") as reader:
                    copy_stream(reader, writer, meter, digest)
        return digest.hexdigest()

    def _drop_partial(self, ways: Sequence[tuple[str, ...]]) -> None:
        """Remove what came from addresses that are not needed any more, if nobody is at it."""
        for way in ways:
            folder = self.partial_folder(way)
            if folder.is_dir():
                with held_if_free(self.root / "locks" / f"{key_of(way)}.lock") as ours:
                    if ours:
                        shutil.rmtree(folder, ignore_errors=True)

    def _publish(self, whole: Path, digest: str) -> Path:
        blob = self._blob(digest)
        with disk_errors(blob, "writing"):
            blob.parent.mkdir(parents=True, exist_ok=True)
            if not blob.is_file():
                whole.chmod(0o444)
                sync(whole)
                os.replace(whole, blob)  # noqa: PTH105
                sync(blob.parent)
        return blob

    # What is known.

    def _blob(self, digest: str) -> Path:
        return self.root / "sha256" / digest[:2] / digest

    def _index(self, way: Sequence[str]) -> Path:
        return self.root / "index" / f"{key_of(way)}.json"

    def _indexed(self, way: Sequence[str]) -> Path | None:
        known = read_json(self._index(way)) or {}
        digest = known.get("sha256")
        if isinstance(digest, str):
            blob = self._blob(digest)
            if size_of(blob) == known.get("bytes") and blob.is_file():
                return blob
        return None

    def _remembered(self, path: Path) -> str | None:
        """The checksum that this very file had when it was last read."""
        known = read_json(self.root / "verified" / f"{key_of([str(path)])}.json") or {}
        digest = known.get("sha256")
        return digest if isinstance(digest, str) and known == _identity(path, digest) else None

    def _verify(self, path: Path, sha256: str | None, progress: Progress) -> str:
        """Check a file elsewhere on this machine, and remember its checksum."""
        digest = self._remembered(path)
        if digest is None:
            with disk_errors(path, "reading"):
                before = _identity(path, "")
            digest = sha256_of(path, Meter(progress, "checking", path.name, size_of(path)))
            if before == _identity(path, ""):
                # A cache that cannot be written to only costs time here.
                with contextlib.suppress(DiskError):
                    write_json(
                        self.root / "verified" / f"{key_of([str(path)])}.json",
                        _identity(path, digest),
                    )
        if sha256 is not None and digest != sha256:
            raise WrongChecksum(str(path), sha256, digest, removed=False)
        return digest

    def _lock(
        self, name: str, shown: str, way: tuple[str, ...], progress: Progress
    ) -> contextlib.AbstractContextManager[None]:
        def waiting() -> None:
            folder = self.partial_folder(way)
            parts = [*folder.glob("*.part"), *folder.glob("*.done")]
            so_far = sum(size_of(part) for part in parts)
            here = f", {format_bytes(so_far)} so far" if so_far else ""
            progress(f"waiting for another process that downloads {shown}{here}", None)

        return held(self.root / "locks" / f"{name}.lock", waiting)


def _ways(source: Source) -> tuple[tuple[str, ...], ...]:
    first = source.parts if source.uri is None else (source.uri,)
    return (first, *((mirror,) for mirror in source.mirrors))


def _is_file(way: Sequence[str]) -> bool:
    return len(way) == 1 and way[0].lower().startswith("file:")


def _name(way: Sequence[str]) -> str:
    return display_name(way[0])


def _shown(way: Sequence[str]) -> str:
    more = f" and {len(way) - 1} more parts" if len(way) > 1 else ""
    return redact(way[0]) + more


def _identity(path: Path, digest: str) -> dict[str, object]:
    stat = path.stat()
    return {
        "path": str(path),
        "bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "sha256": digest,
    }


def _all_failed(name: str, causes: Sequence[WeightsError]) -> WeightsError:
    if len(causes) == 1:
        return causes[0]
    told = " ".join(f"({number}) {cause.message}" for number, cause in enumerate(causes, 1))
    hints = list(dict.fromkeys(cause.hint for cause in causes if cause.hint))
    return WeightsError(
        f"{name}: none of {len(causes)} addresses gave the file: {told}", hint=" ".join(hints[:2])
    )
