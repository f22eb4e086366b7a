from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from scripted import Start, gateways


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a gateway worker over scripted replicas."""
    async with gateways() as start:
        yield start
