"""What an apply would change: a pure comparison of specs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aviary.config.spec import ModelSpec

Action = Literal["added", "changed", "unchanged", "pruned", "kept"]
MOST_FIELDS = 200


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of a spec that differs.

    Attributes:
        field: Its path, with dots and indices (`engine.slots`, `chat.stop[0]`).
        before: The value that is served; `None` when it is not given.
        after: The value that was applied; likewise.
    """

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one model.

    Attributes:
        model: Its id.
        action: `kept`: it is served, was not given, and stays; `pruned`: likewise, and goes.
        restarts: Whether its replicas are replaced by new ones.
        fields: What differs, for `changed`.
    """

    model: str
    action: Action
    restarts: bool = False
    fields: tuple[FieldChange, ...] = ()


def compare(
    current: Mapping[str, ModelSpec], wanted: Sequence[ModelSpec], *, prune: bool
) -> list[Change]:
    """The changes from what is served to what was given, in the given order.

    Args:
        current: Served specs by id.
        wanted: Applied specs; no id twice.
        prune: Whether what is served and was not given shall go.
    """
    changes = []
    for spec in wanted:
        have = current.get(spec.id)
        if have is None:
            changes.append(Change(spec.id, "added", restarts=True))
        elif have == spec:
            changes.append(Change(spec.id, "unchanged"))
        else:
            fields = tuple(field_changes(have, spec))
            changes.append(Change(spec.id, "changed", have.hash != spec.hash, fields))
    given = {spec.id for spec in wanted}
    rest: Action = "pruned" if prune else "kept"
    changes.extend(Change(model, rest) for model in current if model not in given)
    return changes


def field_changes(before: ModelSpec, after: ModelSpec) -> list[FieldChange]:
    """The fields in which two specs differ, defaults included, at most `MOST_FIELDS`."""
    found: list[FieldChange] = []
    _walk("", before.model_dump(mode="json"), after.model_dump(mode="json"), found)
    return found[:MOST_FIELDS]


def _walk(path: str, before: Any, after: Any, found: list[FieldChange]) -> None:
    if before == after and type(before) is type(after):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            _walk(f"{path}.{name}" if path else name, before.get(name), after.get(name), found)
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            old = before[index] if index < len(before) else None
            new = after[index] if index < len(after) else None
            _walk(f"{path}[{index}]", old, new, found)
    else:
        found.append(FieldChange(path, before, after))
