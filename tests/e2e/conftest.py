from __future__ import annotations

from collections.abc import Iterator

import pytest
from running import Running

from aviary.config.loader import catalog_dir


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`aviary up` with the starter catalog: real models on llama.cpp."""
    # The first run on a machine downloads 350 MB of weights.
    home = tmp_path_factory.mktemp("catalog")
    with Running(home, str(catalog_dir()), "--workers", "2", start_s=600) as running:
        yield running
