"""A spec as YAML that a person would write: only what differs from the defaults."""

from __future__ import annotations

from typing import Any

import yaml

from aviary.config.loader import read_spec
from aviary.config.spec import ModelSpec
from aviary.config.strict_yaml import looks_like_number


def dump_spec(spec: ModelSpec) -> str:
    """YAML that reads back as the same spec; fields in the order of the documentation."""
    data = spec.model_dump(mode="json", exclude_defaults=True)
    scaling = data.get("scaling", {})
    if scaling.get("max_replicas") == max(1, spec.scaling.min_replicas):
        del scaling["max_replicas"]  # what it is when it is not given
    text = _dump(data, _Dumper)
    # PyYAML's blocks do not give back every text (such as one that begins with blank lines).
    if _has_block(data) and read_spec(text).spec != spec:
        text = _dump(data, _QuotingDumper)
    return text


class _QuotingDumper(yaml.SafeDumper):
    """Quotes texts of several lines, and those that our loader would read as numbers."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        del indentless  # lists stand further in than their key, as in the catalog
        super().increase_indent(flow, False)


class _Dumper(_QuotingDumper):
    """Likewise, with texts of several lines as blocks."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if "\n" in text or looks_like_number(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if "\n" not in text:
        return _quoted(dumper, text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, "|")


_QuotingDumper.add_representer(str, _quoted)
_Dumper.add_representer(str, _block)


def _dump(data: dict[str, Any], dumper: type[yaml.SafeDumper]) -> str:
    text: str = yaml.dump(
        data,
        Dumper=dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=float("inf"),
    )
    return text


def _has_block(data: Any) -> bool:
    if isinstance(data, dict):
        return any(_has_block(value) for value in data.values())
    if isinstance(data, list):
        return any(_has_block(value) for value in data)
    return isinstance(data, str) and "\n" in data
