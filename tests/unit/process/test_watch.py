import asyncio
from pathlib import Path

import pytest

from aviary.bootstrap.instance import Instance, Plan
from aviary.config.settings import Settings


async def test_a_supervisor_that_ends_is_noticed_but_not_one_that_is_cancelled(
    tmp_path: Path,
) -> None:
    for ends, words in ((asyncio.sleep(0), "supervisor has ended"), (_fail(), "broken")):
        instance = Instance(Plan(specs=()), Settings(home=tmp_path))
        cancelled = asyncio.create_task(asyncio.sleep(60))
        instance._watch(cancelled)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        await asyncio.sleep(0)
        assert not instance.failed.done()
        instance._watch(asyncio.create_task(ends, name="supervisor"))
        with pytest.raises(RuntimeError, match=words):
            async with asyncio.timeout(5):
                await instance.failed


async def _fail() -> None:
    raise RuntimeError("broken")
