"""What the local backend takes and refuses, and what its replicas inherit."""

from pathlib import Path
from typing import Any

import psutil
import pytest

from aviary.backends.local import LocalBackend, check_placeable
from aviary.config.settings import Settings
from aviary.config.spec import ModelSpec
from aviary.core.errors import DoesNotFit, NotAvailable
from aviary.replica.boot import BOOT_ENV

GB = 1e9


def spec_of(**resources: Any) -> ModelSpec:
    return ModelSpec.model_validate({"id": "m", "engine": {"kind": "fake"}, "resources": resources})


def backend_in(folder: Path) -> LocalBackend:
    settings = Settings(home=folder, cache=folder, runtime=folder)
    return LocalBackend(settings, token="secret", runtime=folder)


@pytest.mark.parametrize(
    "resources", [{"gpus": 1}, {"gpus": 0.5}, {"accelerator": "H100"}, {"nodes": 2}]
)
async def test_what_it_does_not_place(tmp_path: Path, resources: dict[str, Any]) -> None:
    backend = backend_in(tmp_path)
    with pytest.raises(NotAvailable, match="GPU") as caught:
        await backend.deploy(spec_of(**resources), 1)
    assert caught.value.status == 501
    assert backend.replicas("m") == ()


async def test_more_memory_than_there_is(tmp_path: Path) -> None:
    total_gb = psutil.virtual_memory().total / GB
    backend = backend_in(tmp_path)
    with pytest.raises(DoesNotFit) as caught:
        await backend.deploy(spec_of(memory_gb=total_gb * 0.6), 2)
    assert f"{total_gb:.1f} GB" in caught.value.message
    assert f"{total_gb * 1.2:g} GB" in caught.value.message
    assert caught.value.hint
    assert backend.replicas("m") == ()


def test_memory_that_may_be_asked_for() -> None:
    check_placeable(spec_of(), 1000)
    check_placeable(spec_of(memory_gb=psutil.virtual_memory().total / GB * 0.9), 1)


def test_replicas_do_not_inherit_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVIARY_API_KEY", "hidden")
    monkeypatch.setenv("AVIARY_DATABASE_URL", "hidden")
    monkeypatch.setenv("OTHER", "kept")
    backend = backend_in(tmp_path)
    environment = backend.replica_env(spec_of(), backend.socket_path())
    assert [name for name in environment if name.startswith("AVIARY_")] == [BOOT_ENV]
    assert environment["OTHER"] == "kept"
    assert "hidden" not in environment.values()
