"""What is noted of one request, for its answer's headers, the metrics and the request log."""

from __future__ import annotations

import time
from collections.abc import Callable
from time import perf_counter

from aviary.core.cost import answer_cost_usd
from aviary.core.errors import NotAuthorized
from aviary.core.ports import RequestRecord
from aviary.core.states import KeyView, ModelView
from aviary.gateway.metrics import Metrics

CLIENT_LEFT_STATUS = 499
BILLED = frozenset({200, CLIENT_LEFT_STATUS})
NOBODY = "(unknown)"
SHOWN_CHARS = 256


class Note:
    """One request, while it is served.

    Attributes:
        request_id: Its id.
        path: OpenAI route.
        received: When its body had come, by `perf_counter`.
        sent: When it was first sent to a replica; `None`: never.
        first_token: When the first token came; `None`: none came.
        usage: Prompt and completion tokens, as reported last.
        key: Whose request it is.
        client: Without a key: a hash that stands for the sender's address.
        view: The model that answers; `None` before it is known.
        asked: The model it names, known here or not.
        stream: Whether a stream was asked for.
        replica: Id of the replica that was asked last.
        sharing: How many requests ran there together.
        status: What the client got.
        error: Code of an error; empty when there was none.
    """

    __slots__ = (
        "_time",
        "asked",
        "client",
        "error",
        "first_token",
        "key",
        "path",
        "received",
        "replica",
        "request_id",
        "sent",
        "sharing",
        "status",
        "stream",
        "usage",
        "view",
    )

    def __init__(self, request_id: bytes, path: str) -> None:
        self._time = time.time()
        self.request_id = request_id
        self.path = path
        self.received = perf_counter()
        self.sent: float | None = None
        self.first_token: float | None = None
        self.usage: tuple[int, int] | None = None
        self.key: KeyView | None = None
        self.client = ""
        self.view: ModelView | None = None
        self.asked = ""
        self.stream = False
        self.replica = ""
        self.sharing = 1
        self.status = 0
        self.error = ""

    @property
    def model(self) -> str:
        """The model, or the label of requests that name none that is served here."""
        return NOBODY if self.view is None else self.view.id

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Our own headers of its answer."""
        headers = [(b"x-request-id", self.request_id)]
        if self.view is not None:
            headers.append((b"x-aviary-model", self.view.id.encode()))
        if self.replica:
            headers.append((b"x-aviary-replica", self.replica.encode()))
        if self.sent is not None:
            overhead_ms = (self.sent - self.received) * 1000.0
            headers.append((b"x-aviary-overhead-ms", b"%.3f" % overhead_ms))
        return headers

    def close(self, metrics: Metrics, record: Callable[[RequestRecord], None]) -> None:
        """Count the request and hand its record to the log."""
        now = perf_counter()
        latency_s = now - self.received
        overhead_s = None if self.sent is None else self.sent - self.received
        ttft_s = None if self.first_token is None else self.first_token - self.received
        metrics.finished(
            self.path,
            self.status,
            latency_s=latency_s,
            time_to_first_token_s=ttft_s,
            overhead_s=overhead_s,
        )
        prompt_tokens = completion_tokens = None
        if self.usage is not None:
            prompt_tokens, completion_tokens = self.usage
            metrics.prompt_tokens += prompt_tokens
            metrics.completion_tokens += completion_tokens
        cost = None
        if self.view is not None and self.sent is not None and self.status in BILLED:
            cost = answer_cost_usd(
                self.view,
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                busy_s=now - self.sent,
                sharing=self.sharing,
            )
            if cost is not None:
                metrics.cost_usd += cost
        if self.error == NotAuthorized.code:
            return  # counted above; strangers shall not fill the disk
        record(
            RequestRecord(
                id=self.request_id.decode("ascii"),
                time=self._time,
                route=self.path,
                model=self.asked[:SHOWN_CHARS] if self.view is None else self.view.id,
                replica=self.replica,
                key=self.key.id if self.key is not None else "",
                status=self.status,
                error=self.error,
                stream=self.stream,
                time_to_first_token_ms=None if ttft_s is None else ttft_s * 1000.0,
                latency_ms=latency_s * 1000.0,
                overhead_ms=None if overhead_s is None else overhead_s * 1000.0,
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                cost_usd=cost,
                client=self.client,
            )
        )
