from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

import pytest

_NAME = "aviary_tests_standin"


def _load():
    if _NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(_NAME, Path(__file__).with_name("standin.py"))
        sys.modules[_NAME] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[_NAME]


@pytest.fixture
def standin():
    with _load().serve() as running:
        yield running


@pytest.fixture(scope="session")
def body():
    """Three megabytes that no two places of are alike."""
    return random.Random(7).randbytes(3_000_000)


class Told:
    """A progress that keeps what it was told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.fractions: list[float | None] = []

    def __call__(self, text: str, fraction: float | None) -> None:
        self.texts.append(text)
        self.fractions.append(fraction)


@pytest.fixture
def told():
    return Told()
