"""A byte stream that gives back what it holds, also when nobody ever read from it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Self


class OwnedStream:
    """Bytes of an async generator, and what to do once when the reader is finished with them.

    A generator's own `finally` does not run when it was closed before its first step; a client can
    leave in just that moment, and an engine's slot must be free then too.
    """

    def __init__(self, source: AsyncGenerator[bytes, None], on_close: Callable[[], None]) -> None:
        self._source = source
        self._on_close: Callable[[], None] | None = on_close

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._source)

    async def aclose(self) -> None:
        """End the stream; may be called twice."""
        on_close, self._on_close = self._on_close, None
        try:
            await self._source.aclose()
        finally:
            if on_close is not None:
                on_close()


async def single(data: bytes) -> AsyncGenerator[bytes, None]:
    """A stream of one piece."""
    yield data
