"""One side of the comparison in a process of its own; takes orders on stdin, one JSON a line.

    worker.py direct --weights FILE --slots 8     xllamacpp.Server, called in this process
    worker.py http --port P --model ID            OpenAI requests over HTTP to a running Aviary

An order is `{"connections": 8, "requests": 16, "first_number": 0}`; the answer is one JSON line.
"""

from __future__ import annotations

import argparse
import http.client
import json
import queue
import sys
import threading
from collections.abc import Iterator
from typing import Any

import workload


def direct(
    weights: str, slots: int, context_length: int, batch_tokens: int, threads: int
) -> workload.Ask:
    """Load the weights, with the parameters that Aviary's engine gives llama.cpp."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = weights
    params.ui = False
    params.verbosity = 0
    params.n_parallel = slots
    params.n_ctx = slots * context_length
    params.n_batch = params.n_ubatch = batch_tokens
    params.cache_ram_mib = 64
    params.n_threads_http = slots + 4
    params.warmup = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = 0
    server = xllamacpp.Server(params)

    def ask(body: dict[str, Any]) -> Iterator[workload.Event]:
        # The call blocks until the answer is complete: events reach the measuring thread at once.
        events: queue.SimpleQueue[workload.Event | None] = queue.SimpleQueue()

        def take(event: workload.Event) -> bool:
            events.put(event)
            return False

        def call() -> None:
            try:
                server.handle_chat_completions(body, take)
            except Exception as error:
                events.put({"error": repr(error)})
            events.put(None)

        threading.Thread(target=call).start()
        return iter(events.get, None)

    return ask


def over_http(port: int, model: str) -> workload.Ask:
    """Streamed requests to Aviary, one kept-alive connection a thread."""
    local = threading.local()

    def ask(body: dict[str, Any]) -> Iterator[workload.Event]:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        headers = {"content-type": "application/json"}
        payload = json.dumps({"model": model, **body})
        local.connection.request("POST", "/v1/chat/completions", payload, headers)
        response = local.connection.getresponse()
        if response.status != 200:
            yield {"error": f"status {response.status}: {response.read()[:300]!r}"}
            return
        done = False
        while line := response.readline():
            if line.startswith(b"data: [DONE]"):
                done = True
            elif line.startswith(b"data: "):
                yield json.loads(line[6:])
        if not done:
            yield {"error": "the stream ended without [DONE]"}

    return ask


def main() -> None:
    """Take orders until stdin ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sides = parser.add_subparsers(dest="side", required=True)
    engine = sides.add_parser("direct")
    engine.add_argument("--weights", required=True)
    engine.add_argument("--slots", type=int, default=8)
    engine.add_argument("--context-length", type=int, default=2048)
    engine.add_argument("--batch-tokens", type=int, default=128)
    engine.add_argument("--threads", type=int, default=2)
    client = sides.add_parser("http")
    client.add_argument("--port", type=int, required=True)
    client.add_argument("--model", required=True)
    args = parser.parse_args()
    if args.side == "direct":
        ask = direct(args.weights, args.slots, args.context_length, args.batch_tokens, args.threads)
    else:
        ask = over_http(args.port, args.model)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(workload.run(ask, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
