"""The Ray cluster that runs a flow's tasks if `GRAYLINE_RUNNER` is ray."""

import ipaddress
import logging
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL
from prefect.task_runners import TaskRunner

from resnet_core.credentials import opened
from resnet_core.errors import UserError
from tasks.settings import Settings

_SECONDS_TO_CONNECT = 5.0


def ray_runner() -> TaskRunner[PrefectFuture[Any]]:
    """Return a runner that connects to the cluster when a flow starts. Raises UserError without prefect-ray."""
    try:
        from prefect_ray import RayTaskRunner
    except ModuleNotFoundError:
        raise UserError(
            "GRAYLINE_RUNNER: Ray is not installed. Run `pip install 'grayline[ray]'`, or use threads."
        ) from None
    return RayTaskRunner(init_kwargs=_connection(Settings()))


def connect() -> None:
    """Connect to the cluster before a flow spends seconds on its start; the flow uses the connection.

    Raises UserError without a cluster, or if its nodes cannot reach Prefect's server.
    """
    ray_runner()  # raises UserError without Ray
    import ray

    settings = Settings()
    if not ray.is_initialized():
        try:
            _check_reachable(settings.ray_address or "")
            ray.init(**_connection(settings))
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise UserError(
                f"RAY_ADDRESS: no Ray cluster at {settings.ray_address or 'this machine'} ({_one_line(error)}). Start "
                "one with `ray start --head`, set RAY_ADDRESS to one that runs, or use GRAYLINE_RUNNER=threads."
            ) from None
    nodes = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
    check_server(PREFECT_API_URL.value(), nodes, ray.util.get_node_ip_address())


def cluster_cores() -> int:
    """Return the number of cores of the nodes that have joined so far, 1 without a cluster."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1)) if ray.is_initialized() else 1


def gpu_share(resources: Mapping[str, float], device: str) -> float:
    """Return the share of a GPU for each worker, at most 1; all workers together take all GPUs."""
    gpus = resources.get("GPU", 0.0)
    return 0.0 if device == "cpu" else min(1.0, gpus / max(1.0, resources.get("CPU", 1.0)))


@contextmanager
def on_gpus() -> Iterator[None]:
    """Let tasks submitted in the block ask Ray for their share of a GPU; without Ray do nothing.

    Ray then places only so many workers on a GPU and shows each worker its own.
    """
    settings = Settings()
    if settings.runner != "ray":
        yield
        return
    import ray
    from prefect_ray.context import remote_options

    with remote_options(num_gpus=gpu_share(ray.cluster_resources(), settings.device)):
        yield


def check_server(url: str | None, nodes: Iterable[str], here: str) -> None:
    """Raises UserError if nodes on other machines cannot reach Prefect's server.

    url: None for a temporary server. nodes, here: IP addresses. A server on loopback serves this machine only.
    """
    others = [node for node in nodes if node != here and not _is_loopback(node)]
    if others and (url is None or _is_loopback(urlsplit(url).hostname or "")):
        raise UserError(
            f"PREFECT_API_URL: the Ray node {others[0]} cannot reach {url or 'a temporary Prefect server'} here. "
            "Start a Prefect server that all nodes can reach, and set PREFECT_API_URL to it."
        )


def _check_reachable(address: str) -> None:
    """Raises OSError at once if no process listens there; Ray itself would try for two minutes."""
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), _SECONDS_TO_CONNECT).close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _one_line(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:200]


def _connection(settings: Settings) -> dict[str, Any]:
    """Return the arguments of ray.init. `auto` is this machine's cluster, and never starts a new one.

    Workers have the environment of their node's `ray start`, and make the same defaults of it as this process.
    Ray shows `runtime_env` in its dashboard and logs, so it contains no secrets.
    """
    return {
        "address": opened(settings.ray_address or "auto"),
        "runtime_env": {
            "env_vars": {"GRAYLINE_STORE": str(settings.root)},
            "worker_process_setup_hook": "tasks.settings.prepare_environment",
        },
        "logging_level": logging.WARNING,
        "log_to_driver": False,  # messages of tasks are in Prefect's log
    }
