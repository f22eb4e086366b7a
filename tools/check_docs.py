"""Check that the documentation says what is so: `uv run python tools/check_docs.py`.

Prints `FILE:LINE: what is wrong` for each problem, and fails when there is one. Nothing is executed
and no network is asked: command lines are parsed only, links to other hosts are not followed.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docs
from docs import ROOT

# Split, so that this file does not contain what it looks for.
REGISTRIES = (
    "pypi" + ".org",
    "python" + "hosted.org",
    "registry.npm" + "js.org",
    "npm" + "mirror.com",
    "registry.yarn" + "pkg.com",
)
LOCK_FIELD = re.compile(r'"resolved"' + r'\s*:\s*"')
LOCK_FILES = frozenset({"uv" + ".lock", "yarn.lock", "pnpm-lock.yaml"})

Problem = tuple[Path, int, str]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of code.

    Attributes:
        file: Where it stands.
        line: Line of its first line of code.
        language: The word after the fence.
        text: The code.
    """

    file: Path
    line: int
    language: str
    text: str


def main() -> int:
    """Run all checks; returns the exit status."""
    pages = {file: file.read_text() for file in tracked() if file.suffix == ".md"}
    blocks = [block for file, text in pages.items() for block in code_blocks(file, text)]
    problems = [
        *generated_parts(),
        *dependencies(),
        *links(pages),
        *specs(blocks),
        *command_lines(blocks),
        *registries(),
        *decisions(),
    ]
    for file, line, what in sorted(set(problems)):
        sys.stderr.write(f"{file.relative_to(ROOT)}:{line}: {what}\n")
    sys.stdout.write(f"{len(pages)} pages, {len(blocks)} blocks: {len(set(problems))} problems\n")
    return 1 if problems else 0


def tracked() -> list[Path]:
    """Files that git tracks, and new ones that it does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = (ROOT / name for name in sorted(set(listed.split("\0"))) if name)
    return [file for file in files if file.is_file()]


def code_blocks(file: Path, text: str) -> Iterator[Block]:
    """All fenced blocks of a page."""
    for match in re.finditer(r"^```(\S*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start(2)) + 1
        yield Block(file, line, match[1], match[2])


def generated_parts() -> Iterator[Problem]:
    """Generated parts that are not current."""
    try:
        for file, line, name, _text in docs.not_current():
            yield file, line, f"generated part {name} is not current: run tools/docs.py"
    except ValueError as error:
        place, number, what = re.match(r"(.+?):(\d+): (.+)", str(error)).groups()  # type: ignore[union-attr]
        yield ROOT / place, int(number), what


# Dependencies


def dependencies() -> Iterator[Problem]:
    """Differences between `pyproject.toml`, `package.json` and `docs/dependencies.md`."""
    project = ROOT / "pyproject.toml"
    page = ROOT / "docs" / "dependencies.md"
    data = tomllib.loads(project.read_text())
    needed = [
        *data["project"]["dependencies"],
        *(r for extra in data["project"]["optional-dependencies"].values() for r in extra),
        *(r for group in data["dependency-groups"].values() for r in group if isinstance(r, str)),
        *data["build-system"]["requires"],
        *explorer_packages(),
    ]
    own = _normal(data["project"]["name"])
    wanted = {_normal(name) for name in needed} - {own}
    told: dict[str, int] = {}
    for number, line in enumerate(page.read_text().splitlines(), 1):
        match = re.match(r"\| `([^`]+)` \|", line)
        if match is None:
            continue
        name = _normal(match[1])
        if name in told:
            yield page, number, f"{name} is here already, in line {told[name]}"
        told[name] = number
        if name not in wanted:
            yield page, number, f"{name} is no dependency (any more)"
        if any(not cell.strip() for cell in line.strip(" |").split("|")):
            yield page, number, f"{name}: an empty cell: give reason and alternative"
    for name in sorted(wanted - told.keys()):
        yield page, 1, f"{name} stands in pyproject.toml or package.json and not here"


def explorer_packages() -> list[str]:
    """The packages that the Explorer's `package.json` names."""
    data = json.loads((ROOT / "explorer" / "package.json").read_text())
    return [*data["dependencies"], *data["devDependencies"]]


def _normal(requirement: str) -> str:
    if requirement.startswith("@"):  # npm's scopes
        return requirement
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", name[0]).lower() if name is not None else ""


# Links


def links(pages: dict[Path, str]) -> Iterator[Problem]:
    """Relative links and anchors that lead nowhere."""
    anchors = {file: _anchors(text) for file, text in pages.items()}
    for file, text in pages.items():
        plain = _without_code(text)
        found = re.finditer(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|(?:src|href)=\"([^\"]+)\"", plain)
        for match in found:
            target = match[1] or match[2]
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            line = plain.count("\n", 0, match.start()) + 1
            path, _, fragment = target.partition("#")
            place = (file.parent / path).resolve() if path else file
            if not place.exists():
                yield file, line, f"there is no {path}"
            elif fragment and place in anchors and fragment not in anchors[place]:
                yield file, line, f"{place.relative_to(ROOT)} has no heading for #{fragment}"


def _without_code(text: str) -> str:
    """The text with code made blank; lines stay where they are."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    text = re.sub(r"^```.*?^```$", blank, text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", blank, text)


def _anchors(text: str) -> set[str]:
    found: set[str] = set()
    # Code between backquotes is part of a heading's anchor; fenced blocks have no headings.
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        name = docs.anchor(heading)
        again = 0
        while (unique := f"{name}-{again}" if again else name) in found:
            again += 1
        found.add(unique)
    return found


# Specs


def specs(blocks: list[Block]) -> Iterator[Problem]:
    """YAML blocks that begin with `id:` and are no correct specs."""
    from aviary.config.loader import parse_spec
    from aviary.core.errors import SpecError

    for block in blocks:
        code = [line for line in block.text.splitlines() if line and not line.startswith("#")]
        if block.language not in ("yaml", "yml") or not code or not code[0].startswith("id:"):
            continue
        try:
            parse_spec(block.text, "spec")
        except SpecError as error:
            for problem in str(error).splitlines():
                place = re.match(r"spec:(\d+):\d+: ", problem)
                line = block.line - 1 + int(place[1]) if place else block.line
                yield block.file, line, problem.removeprefix(place[0] if place else "")


# Command lines


def command_lines(blocks: list[Block]) -> Iterator[Problem]:
    """`aviary …` lines with commands or options that do not exist."""
    import typer.main

    from aviary.cli.main import app

    root: Any = typer.main.get_command(app)
    for block in blocks:
        if block.language not in ("sh", "bash", "console"):
            continue
        for line, text in _shell_lines(block):
            for words in _aviary_calls(text):
                cause = _parse(root, words)
                if cause:
                    yield block.file, line, f"aviary {shlex.join(words)}: {cause}"


def _shell_lines(block: Block) -> Iterator[tuple[int, str]]:
    """Commands of a block, with their line; lines that end in a backslash are joined."""
    lines = block.text.splitlines()
    number = 0
    while number < len(lines):
        first, text = number, lines[number]
        while text.endswith("\\") and number + 1 < len(lines):
            number += 1
            text = text[:-1] + lines[number]
        number += 1
        if block.language == "console":
            if not text.startswith("$ "):
                continue
            text = text[2:]
        yield block.line + first, text


def _aviary_calls(text: str) -> Iterator[list[str]]:
    """The arguments of each `aviary` in a shell line."""
    for inner in re.findall(r"\$\(([^()]*)\)", text):
        yield from _aviary_calls(inner)
    text = re.sub(r"\$\([^()]*\)", "SUBSTITUTED", text)
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    calls: list[list[str]] = [[]]
    redirected = False
    for word in lexer:
        if word and set(word) <= set("<>&") and set(word) & set("<>"):
            redirected = True
            if calls[-1] and calls[-1][-1].isdigit():  # 2>&1
                calls[-1].pop()
        elif word and set(word) <= set("();|&"):
            calls.append([])
        elif redirected:
            redirected = False
        else:
            calls[-1].append(word)
    for call in calls:
        words = list(call)
        while words and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", words[0]):
            del words[0]
        if words[:2] == ["uv", "run"]:
            del words[:2]
            while words and words[0].startswith("-"):
                del words[: 2 if words[0] in ("--extra", "--group", "--python", "--with") else 1]
        if words and words[0].rpartition("/")[2] == "aviary":
            yield words[1:]


def _parse(root: Any, words: list[str]) -> str:
    """Why a command line cannot be parsed; empty when it can."""
    output = io.StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(output):
            _descend(root, "aviary", words, None)
    except Exception as error:
        # typer's copy of click and click itself have classes of the same names.
        if type(error).__name__ in ("Exit", "NoArgsIsHelpError"):
            return ""
        message = getattr(error, "format_message", None)
        return message() if message is not None else f"{type(error).__name__}: {error}"
    return ""


def _descend(command: Any, name: str, words: list[str], parent: Any) -> None:
    context = command.make_context(name, list(words), parent=parent)
    if not hasattr(command, "resolve_command"):
        return
    with context:
        rest = [*getattr(context, "_protected_args", ()), *context.args]
        child_name, child, rest = command.resolve_command(context, rest)
        if child is not None:
            _descend(child, child_name, rest, context)


# The repository


def registries() -> Iterator[Problem]:
    """Tracked files that name a package index, which is each user's own affair."""
    for file in tracked():
        if file.name in LOCK_FILES:
            yield file, 1, "lock files record where packages came from: git shall ignore them"
            continue
        data = file.read_bytes()
        if b"\0" in data[:8192]:
            continue
        text = data.decode(errors="replace")
        lower = text.lower()
        hits = [lower.find(host) for host in REGISTRIES]
        match = LOCK_FIELD.search(text)
        hits.append(match.start() if match is not None else -1)
        for at in hits:
            if at >= 0:
                line = text.count("\n", 0, at) + 1
                yield file, line, "names a package index or where a package came from"


def decisions() -> Iterator[Problem]:
    """Decision records whose numbers have gaps, or that the index does not name."""
    folder = ROOT / "docs" / "adr"
    index = folder / "README.md"
    listed = index.read_text()
    for expected, file in enumerate(sorted(folder.glob("[0-9]*.md")), 1):
        number = file.name.partition("-")[0]
        if number != f"{expected:04}":
            yield file, 1, f"its number is {number}; the next one is {expected:04}"
        if not file.read_text().startswith(f"# {number} "):
            yield file, 1, f"its heading does not begin with `# {number} `"
        if f"({file.name})" not in listed:
            yield index, 1, f"does not name {file.name}"


if __name__ == "__main__":
    sys.exit(main())
