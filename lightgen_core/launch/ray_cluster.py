"""The Ray cluster that many machines make: joining it, or starting one of this machine alone.

Nothing here loads Ray before `connect` is called, and nothing outside the cluster is contacted.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
OBJECT_STORE = 256 * 2**20
"""Bytes of shared memory for objects on the way between processes. Files go through the store, so these are small."""
SENT = (
    "HF_HUB_OFFLINE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
)
"""Variables that processes on the cluster get too: addresses, OpenMP's waiting. Credentials are each machine's own."""
CONNECT_TIMEOUT = 10
"""Seconds until the cluster's first node must answer; Ray itself would wait for minutes."""


class ClusterError(RuntimeError):
    """There is no Ray, or no cluster where one should be."""


def connect() -> None:
    """Join the cluster at RAY_ADDRESS, or start one on this machine that ends with this process.

    Its processes import this very code, see only the GPUs they were given, and print to their own log files.

    Raises:
        ClusterError: Ray is not installed, or nothing answers at RAY_ADDRESS.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before Ray is loaded: a local cluster's processes inherit it
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # under `uv run` it would send the folder to all nodes
    os.environ.setdefault("RAY_worker_niceness", "0")  # a local cluster's; Ray's own 15 waits for all else that runs
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ClusterError(f"{error}; the engine `ray` needs Ray: pip install 'lightgen[ray]'") from error
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    started = address == "local"
    if not started:
        _check(address)
    # Ray warns of the access token that it makes for a local cluster, every time.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        with without_api_server():
            ray.init(
                address,
                include_dashboard=False if started else None,
                object_store_memory=OBJECT_STORE if started else None,
                log_to_driver=False,
                logging_level=logging.WARNING,
                runtime_env={"env_vars": _environment()},
            )
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise ClusterError(f"no Ray cluster could be joined at {address}: {error}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)  # Ray puts its own in place; the caller's, say Prefect's, stays


@contextlib.contextmanager
def without_api_server() -> Iterator[None]:
    """Start clusters without an API server: it contacts clouds and Ray's makers even without usage statistics."""
    from ray._private.node import Node

    start, name = Node.start_api_server, "start_api_server"
    setattr(Node, name, lambda self, **_: None)
    try:
        yield
    finally:
        setattr(Node, name, start)


def _environment() -> dict[str, str]:
    """Return variables of every process of this program on the cluster."""
    paths = [str(ROOT)] if (ROOT / "pyproject.toml").exists() else []  # installed, it is found without
    paths += [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    # Without the override a process without GPUs sees all of them.
    always = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return always | {name: os.environ[name] for name in SENT if name in os.environ}


def _check(address: str) -> None:
    """Raise ClusterError if nothing listens at HOST:PORT; `auto` is left to Ray."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise ClusterError(
            f"RAY_ADDRESS is {address!r}, not HOST:PORT of the cluster's first node (6379 is its usual port). Run "
            "LightGen on a node of the cluster: Ray Client's ray:// addresses are for machines outside of it"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at RAY_ADDRESS={address}: {error}. Start one there with `ray start --head "
            "--include-dashboard=false`, or unset RAY_ADDRESS to use this machine alone"
        ) from error
