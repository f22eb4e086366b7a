"""Secrets in the addresses of specs: left out of what is shown, put back into what is edited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from aviary.config.spec import ModelSpec, Source
from aviary.config.strict_yaml import Path, Problem
from aviary.weights.address import hide, hides, redact


def shown_spec(spec: ModelSpec) -> dict[str, Any]:
    """The spec as JSON, its addresses without users, passwords and queries."""
    return _mapped(spec, lambda _path, uri: redact(uri)).model_dump(mode="json")


def hidden(spec: ModelSpec) -> ModelSpec:
    """The spec with `…` in its addresses for users, passwords and queries."""
    return _mapped(spec, lambda _path, uri: hide(uri))


def restored(spec: ModelSpec, stored: ModelSpec | None) -> tuple[ModelSpec, list[Problem]]:
    """The spec with what `hidden` has hidden of the stored one put back.

    Only an address that is otherwise as it was gets its secret back: a secret must not go to
    another host because somebody edited the host before it.

    Args:
        spec: What somebody has edited.
        stored: The spec of that model that is served; `None`: there is none.

    Returns:
        The spec, and problems (without places) of addresses that cannot be put back.
    """
    known = _addresses(stored) if stored is not None else {}
    counts = Counter(hide(uri) for uri in set(known.values()))
    problems: list[Problem] = []

    def put_back(path: Path, uri: str) -> str:
        if path in known and hide(known[path]) == uri:
            return known[path]  # untouched, though perhaps written otherwise than it is shown
        if not hides(uri):
            return uri
        if counts[uri] == 1:  # it was moved, for example to the mirrors
            return next(one for one in known.values() if hide(one) == uri)
        problems.append(
            Problem(
                None,
                path,
                "hides a part of its address (…) that is not known here",
                "Write the whole address.",
            )
        )
        return uri

    return _mapped(spec, put_back), problems


def hidden_value(field: str, value: Any) -> Any:
    """A field of a spec, as it may be shown, by its path (`source.parts[0]`)."""
    if isinstance(value, str) and "source." in field:
        return hide(value)
    if isinstance(value, dict):
        return {name: hidden_value(f"{field}.{name}", item) for name, item in value.items()}
    if isinstance(value, list):
        return [hidden_value(field, item) for item in value]
    return value


def _addresses(spec: ModelSpec) -> dict[Path, str]:
    found: dict[Path, str] = {}

    def note(path: Path, uri: str) -> str:
        found[path] = uri
        return uri

    _mapped(spec, note)
    return found


def _mapped(spec: ModelSpec, change: Callable[[Path, str], str]) -> ModelSpec:
    """The spec with all its addresses changed."""

    def source(path: Path, given: Source) -> Source:
        def several(name: str, uris: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(change((*path, name, n), uri) for n, uri in enumerate(uris))

        return given.model_copy(
            update={
                "uri": None if given.uri is None else change((*path, "uri"), given.uri),
                "parts": several("parts", given.parts),
                "mirrors": several("mirrors", given.mirrors),
            }
        )

    update: dict[str, Any] = {
        "adapters": tuple(
            one.model_copy(update={"source": source(("adapters", n, "source"), one.source)})
            for n, one in enumerate(spec.adapters)
        )
    }
    if spec.source is not None:
        update["source"] = source(("source",), spec.source)
    return spec.model_copy(update=update)
