"""Everything Aviary asks of Ray: the only module that imports it. Mostly for the driver process.

What of this is internal or alpha in Ray 2.60, to be looked at with each new release:
the underscored arguments of `ray.init`; `_get_global_client` and, through it, the controller's
`get_serve_instance_details`, `update_deployment_replicas` and `delete_apps`; direct ingress;
`ray._raylet.setproctitle`; `ray.experimental.internal_kv`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

DEPLOYMENT = "replica"
NAMESPACE = "aviary"
PAUSES = b"aviary-pauses"
"""Where Ray's key-value store has until when an application's new replicas wait."""
CALL_S = 10.0
DRAIN_S = 3600
"""Longest time for answers in progress; whoever wants it shorter kills."""
LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 80 * 1024 * 1024
REPLICA_CPUS = 0.001
"""Replicas reserve no CPU: `resources.cpus` is engine threads, and placing is by GPU."""

SERVE_ENVIRONMENT: Mapping[str, str] = {
    # Each replica has an HTTP port of its own; no proxy, no handle on the way of a token.
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
    # How long a stopping replica is kept open; running answers end in any case.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    # Our app is asynchronous throughout: one event loop a replica, no hop between threads.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}
ENVIRONMENT: Mapping[str, str] = {
    **SERVE_ENVIRONMENT,
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Under `uv run` Ray would build the environment anew for each worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
LOCAL_ENVIRONMENT: Mapping[str, str] = {
    # Otherwise Ray turns 127.0.0.1 into an address that others can reach.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


def start_local(temp_folder: str) -> dict[str, Any]:
    """Start a Ray and its Serve on this machine, on loopback only; says where it logs."""
    import ray

    _quiet()
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        namespace=NAMESPACE,
        object_store_memory=OBJECT_STORE_BYTES,
        _node_ip_address=LOOPBACK,
        _temp_dir=temp_folder,
    )
    _start_serve(LOOPBACK, None)
    return _where()


def join(address: str) -> dict[str, Any]:
    """Join a running cluster, start Serve on it when it has none; says where it logs."""
    import ray

    _quiet()
    ray.init(
        address=address,
        log_to_driver=False,
        configure_logging=False,
        namespace=NAMESPACE,
    )
    addresses = {node["address"] for node in nodes()}
    host = LOOPBACK if addresses == {LOOPBACK} else "0.0.0.0"  # noqa: S104
    _start_serve(host, {"env_vars": dict(SERVE_ENVIRONMENT)})
    return _where()


def _quiet() -> None:
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _start_serve(host: str, runtime_env: dict[str, Any] | None) -> None:
    from ray import serve
    from ray.serve.config import ControllerOptions, HTTPOptions

    serve.start(
        http_options=HTTPOptions(host=host, port=0, location="NoServer"),
        logging_config=_LOGGING,
        controller_options=ControllerOptions(runtime_env=runtime_env) if runtime_env else None,
    )


_LOGGING = {"log_level": "WARNING", "enable_access_log": False}


def _where() -> dict[str, Any]:
    import ray
    from ray._private.worker import global_worker

    node = global_worker.node
    return {
        "logs": node.get_logs_dir_path() if node is not None else "",
        "node": ray.get_runtime_context().get_node_id(),
    }


def deploy(apps: Sequence[Mapping[str, Any]], *, joined: bool) -> None:
    """Run applications; returns when the controller has taken them, not when they run.

    Args:
        apps: Each with `name`, `replicas`, `boot` and the demands `gpus` and `accelerator`.
        joined: Whether the cluster was started by others, without our environment.
    """
    from ray import serve

    targets = [
        serve.RunTarget(
            target=_application(app, joined),
            name=app["name"],
            route_prefix="/" + app["name"],
            external_scaler_enabled=True,
        )
        for app in apps
    ]
    serve.run_many(
        targets,
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def _application(app: Mapping[str, Any], joined: bool) -> Any:
    from ray import serve

    from aviary.backends.ray_replica import Replica

    options: dict[str, Any] = {"num_cpus": REPLICA_CPUS}
    if app["gpus"]:
        options["num_gpus"] = app["gpus"]
    if app["accelerator"]:
        options["accelerator_type"] = app["accelerator"]
    if joined:
        options["runtime_env"] = {"env_vars": dict(SERVE_ENVIRONMENT)}
    deployment: Any = serve.deployment(
        serve.ingress()(Replica),
        name=DEPLOYMENT,
        num_replicas=app["replicas"],
        ray_actor_options=options,
        # Admission is ours (limits.queue, engine.slots); Serve must not queue before it.
        max_ongoing_requests=1_000_000,
        max_queued_requests=-1,
        health_check_period_s=1,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=DRAIN_S,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config=_LOGGING,
    )
    return deployment.bind(app["boot"])


def _client() -> Any:
    from ray.serve.context import _get_global_client

    return _get_global_client()


def scale(name: str, replicas: int) -> None:
    """Change an application's number of replicas; those that stay are not touched."""
    import ray
    from ray.serve._private.common import DeploymentID

    deployment = DeploymentID(name=DEPLOYMENT, app_name=name)
    controller = _client()._controller  # noqa: SLF001
    ray.get(controller.update_deployment_replicas.remote(deployment, replicas), timeout=CALL_S)


def delete(names: Sequence[str]) -> None:
    """Begin to drain and stop applications; they are gone when `look` shows them no more."""
    import ray
    from ray.experimental.internal_kv import _internal_kv_del

    controller = _client()._controller  # noqa: SLF001
    ray.get(controller.delete_apps.remote(list(names)), timeout=CALL_S)
    for name in names:
        _internal_kv_del(name, namespace=PAUSES)


def pause(name: str, until: float) -> None:
    """Let new replicas of an application wait before they load their engines.

    Args:
        name: The application.
        until: Unix time in seconds.
    """
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(name, str(until), namespace=PAUSES)


def pause_left_s() -> float:
    """How many seconds this replica is to wait, asked inside of it; see `pause`."""
    from ray import serve
    from ray.experimental.internal_kv import _internal_kv_get

    until = _internal_kv_get(serve.get_replica_context().app_name, namespace=PAUSES)
    return max(0.0, float(until) - time.time()) if until else 0.0


def look(owner: str) -> dict[str, Any]:
    """The owner's applications as the controller sees them.

    Returns:
        By name: `status`, `message` and `replicas`, each with `id`, `state`, `pid`, `node`,
        `host`, `port`, `log` and `worker`.
    """
    import ray

    controller = _client()._controller  # noqa: SLF001
    details = ray.get(controller.get_serve_instance_details.remote(), timeout=CALL_S)
    targets: dict[tuple[str, str], tuple[str, int]] = {}
    for group in details.get("target_groups") or ():
        if _text(group["protocol"]) == "HTTP":
            for target in group["targets"]:
                place = (str(target["ip"]), int(target["port"]))
                targets[group["app_name"], str(target["name"])] = place
    return {
        name: _app(name, app, targets)
        for name, app in details.get("applications", {}).items()
        if f"@{owner}-" in name
    }


def _app(name: str, app: Mapping[str, Any], targets: Mapping[Any, Any]) -> dict[str, Any]:
    deployment = (app.get("deployments") or {}).get(DEPLOYMENT) or {}
    replicas = []
    for replica in deployment.get("replicas") or ():
        host, port = targets.get((name, str(replica.get("actor_name"))), ("", 0))
        replicas.append(
            {
                "id": replica["replica_id"],
                "state": _text(replica["state"]),
                "pid": replica.get("pid") or 0,
                "node": replica.get("node_id") or "",
                "address": replica.get("node_ip") or "",
                "host": host,
                "port": port,
                "log": replica.get("log_file_path") or "",
                "worker": replica.get("worker_id") or "",
            }
        )
    message = deployment.get("message") or app.get("message") or ""
    return {"status": _text(app["status"]), "message": message, "replicas": replicas}


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


def nodes() -> list[dict[str, Any]]:
    """Living nodes: `address` and all their `resources`, used or not."""
    import ray

    return [
        {"address": node["NodeManagerAddress"], "resources": node["Resources"]}
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]


def leave() -> None:
    """Disconnect; what this process started ends with it."""
    import ray

    ray.shutdown()


def name_process(title: str) -> None:
    """Name this Ray worker: Ray has the process' title in its hands, other ways have no effect."""
    from ray._raylet import setproctitle  # type: ignore[attr-defined]

    setproctitle(title)


def prepare_environment(*, local: bool) -> None:
    """Set what Ray reads at import, in the process that starts it and all that come of it."""
    os.environ.update(ENVIRONMENT)
    if local:
        os.environ.update(LOCAL_ENVIRONMENT)
