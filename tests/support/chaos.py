"""Chaos: streams without end while replicas and gateway workers are killed.

Nobody may notice a replica's death. Clients of a killed gateway worker may try again, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import httpx2
import yaml
from running import Running, chat, streamed_text

from aviary.engines.fake import scripted_text

FAKES = ("one", "two", "three")
REAL = "real"
FAKE_STREAMS, REAL_STREAMS = 60, 4
TOKENS, GAP_MS = 50, 60
REAL_TOKENS = 64
REPLICA_EVERY_S, WORKER_EVERY_S = 10.0, 30.0
AFTER_KILL_S = 5.0
"""So long after a worker was killed its clients may find out."""
MODELS = Path(__file__).parents[2] / "models"


@dataclass
class Report:
    """What happened.

    Attributes:
        answers: Complete answers, by model.
        failures: What must not have happened.
        retries: Requests that clients of a killed worker sent again.
        replicas_killed: How many.
        workers_killed: How many.
    """

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    retries: int = 0
    replicas_killed: int = 0
    workers_killed: int = 0


def write_specs(folder: Path) -> None:
    """Three models on the fake engine and a real one, two replicas each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FAKES:
        spec: dict[str, Any] = {
            "id": name,
            "engine": {"kind": "fake", "tokens": TOKENS, "gap": f"{GAP_MS}ms", "slots": 64},
            "scaling": {"min_replicas": 2},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec))
    real = yaml.safe_load((MODELS / "smollm2-135m-instruct.yaml").read_text())
    real |= {"id": REAL, "scaling": {"min_replicas": 2}, "limits": {"wait": "60s"}}
    (folder / f"{REAL}.yaml").write_text(yaml.safe_dump(real))


class Chaos:
    """One run against a running Aviary."""

    def __init__(self, running: Running, duration_s: float, seed: int) -> None:
        self._running = running
        self._end = monotonic() + duration_s
        self._draw = random.Random(seed)
        self._worker_killed_at = float("-inf")
        self.report = Report()

    async def run(self) -> Report:
        """Run until the time is over and every answer that began has ended."""
        streams = [self._fake(number) for number in range(FAKE_STREAMS)]
        streams += [self._real(number) for number in range(REAL_STREAMS)]
        await asyncio.gather(*streams, self._kill_replicas(), self._kill_workers())
        return self.report

    async def _fake(self, number: int) -> None:
        model = FAKES[number % len(FAKES)]
        count = 0
        await asyncio.sleep(number * 0.02)
        async with self._client() as client:
            while monotonic() < self._end:
                count += 1
                prompt = f"{number} {count}"
                body = chat(model, prompt, stream=True, stream_options={"include_usage": True})
                answer = await self._ask(client, body)
                if answer is None:
                    continue
                text, chunks = answer
                usage = next(chunk["usage"] for chunk in chunks if chunk.get("usage"))
                expected = "".join(scripted_text(body, TOKENS))
                if text != expected or usage["completion_tokens"] != TOKENS:
                    self.report.failures.append(f"{model}: {text!r} {usage}, not {expected!r}")
                self.report.answers[model] += 1

    async def _real(self, number: int) -> None:
        prompts = ("Why do birds sing?", "Name five birds.", "Count to twenty.", "Tell a story.")
        async with self._client() as client:
            while monotonic() < self._end:
                prompt = f"{prompts[number]} {self._draw.random():.3f}"
                body = chat(REAL, prompt, stream=True, max_tokens=REAL_TOKENS)
                answer = await self._ask(client, body)
                if answer is None:
                    continue
                text, chunks = answer
                reasons = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
                ends = [reason for reason in reasons if reason]
                identities = {chunk["id"] for chunk in chunks}
                if not text or ends not in (["stop"], ["length"]) or len(identities) != 1:
                    self.report.failures.append(f"{REAL}: {text!r} {ends} {identities}")
                self.report.answers[REAL] += 1

    async def _ask(
        self, client: httpx2.AsyncClient, body: dict[str, Any]
    ) -> tuple[str, list[dict[str, Any]]] | None:
        for attempt in (1, 2):
            try:
                answer = await client.post("/v1/chat/completions", json=body)
                if answer.status_code != 200:
                    self._fail(f"{body['model']}: {answer.status_code} {answer.text}")
                    return None
                return streamed_text(answer.text)
            except httpx2.TransportError as error:
                since_kill = monotonic() - self._worker_killed_at
                if attempt == 2 or since_kill > AFTER_KILL_S:
                    self._fail(f"{body['model']}: {error!r} {since_kill:.1f} s after a kill")
                    return None
                self.report.retries += 1
            except (AssertionError, json.JSONDecodeError) as error:
                self._fail(f"{body['model']}: incomplete: {str(error)[-600:]}")
                return None
        raise AssertionError

    def _fail(self, what: str) -> None:
        self.report.failures.append(what)

    async def _kill_replicas(self) -> None:
        while self._end - monotonic() > REPLICA_EVERY_S:
            await asyncio.sleep(REPLICA_EVERY_S)
            models = await self._models()
            ready = [
                replica["pid"]
                for model in models
                for replica in model["replicas"]
                if replica["state"] == "ready" and replica["pid"]
            ]
            if ready:
                os.kill(self._draw.choice(ready), signal.SIGKILL)
                self.report.replicas_killed += 1

    async def _models(self) -> list[dict[str, Any]]:
        """What there is; asked again when the worker that was asked has just been killed."""
        async with self._client() as client:
            for _ in range(3):
                with contextlib.suppress(httpx2.TransportError):
                    return (await client.get("/api/models")).json()["models"]
        raise AssertionError("no gateway worker answers")

    async def _kill_workers(self) -> None:
        await asyncio.sleep(WORKER_EVERY_S / 2)
        while self._end - monotonic() > AFTER_KILL_S:
            workers = await asyncio.to_thread(self._running.gateways)
            self._worker_killed_at = monotonic()
            self._draw.choice(workers).kill()
            self.report.workers_killed += 1
            await asyncio.sleep(WORKER_EVERY_S)

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self._running.url, timeout=120, trust_env=False)
