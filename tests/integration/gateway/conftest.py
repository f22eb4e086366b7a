from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Running

SPECS = {
    "quick": "engine: {kind: fake, tokens: 64, slots: 64}",
    "paced": "engine: {kind: fake, tokens: 20, slots: 32, time_to_first_token: 100ms, gap: 20ms}",
    "narrow": (
        "engine: {kind: fake, tokens: 200, slots: 1, gap: 20ms}\n"
        "limits: {queue: 1, wait: 30s, max_output_tokens: 500}"
    ),
    "pair": (
        "engine: {kind: fake, tokens: 8, slots: 8}\nscaling: {min_replicas: 2}\n"
        "price: {usd_per_million_input_tokens: 1, usd_per_million_output_tokens: 2}"
    ),
    "short": "engine: {kind: fake, tokens: 8, slots: 4, context_length: 64}",
    "broken": "engine: {kind: fake, fail_start: The fake engine fails as told.}",
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("specs")
    for name, text in SPECS.items():
        (folder / f"{name}.yaml").write_text(f"id: {name}\n{text}\n")
    return folder


@pytest.fixture(scope="session")
def aviary(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One Aviary over fake engines, for tests that do not change it."""
    with Running(tmp_path_factory.mktemp("h"), str(folder), "--workers", "2") as running:
        yield running
