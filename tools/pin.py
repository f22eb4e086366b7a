"""Pin what was tested: rewrite `[tool.uv] constraint-dependencies` from a fresh resolution.

Run it with `uv run python tools/pin.py`, run all tests, commit. The lock file itself stays out of
the repository: it records where packages came from.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
BEGIN, END = "constraint-dependencies = [\n", "]\n"


def main() -> None:
    """Resolve without the present pins, and write the result as the new ones."""
    text = PROJECT.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if rest else ""
    if not rest:
        before, marker, after = text.partition("[tool.uv]\n")
        before += marker
    PROJECT.write_text(before + after)
    try:
        pins = resolve()
    except BaseException:
        PROJECT.write_text(text)
        raise
    lines = "".join(f'    "{pin}",\n' for pin in pins)
    PROJECT.write_text(before + BEGIN + lines + END + after)


def resolve() -> list[str]:
    """`name==version` of everything, with a marker only where versions differ by platform."""
    Path("uv.lock").unlink(missing_ok=True)
    exported = subprocess.run(
        ["uv", "export", "--all-extras", "--all-groups", "--no-hashes", "--no-emit-project"],
        check=True,
        capture_output=True,
        text=True,
        cwd=PROJECT.parent,
    ).stdout
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for line in exported.splitlines():
        match = re.match(r"^([A-Za-z0-9._-]+)==([^ ;]+)(?: *; *(.*))?$", line)
        if match:
            found[match[1]].append((match[2], match[3] or ""))
    pins = []
    for name, versions in sorted(found.items()):
        if len(versions) == 1:
            pins.append(f"{name}=={versions[0][0]}")
        else:
            pins.extend(f"{name}=={version} ; {marker}" for version, marker in versions)
    return pins


if __name__ == "__main__":
    main()
