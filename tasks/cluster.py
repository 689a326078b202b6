"""The Ray cluster that a flow's tasks run on, where `GRAYLINE_RUNNER` is ray."""

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

from resnet_core.errors import UserError
from tasks.settings import Settings

_SECONDS_TO_CONNECT = 5.0


def ray_runner() -> TaskRunner[PrefectFuture[Any]]:
    """Runs tasks on the cluster; connects when a flow starts, unless that is done already. Raises
    UserError where prefect-ray is not installed."""
    try:
        from prefect_ray import RayTaskRunner
    except ModuleNotFoundError:
        raise UserError(
            "GRAYLINE_RUNNER: Ray is not installed. Run `pip install 'grayline[ray]'`, or use threads."
        ) from None
    return RayTaskRunner(init_kwargs=_connection(Settings()))


def connect() -> None:
    """Find the cluster before a flow takes its seconds to start; the flow then uses the connection.
    Raises UserError where there is none, or its nodes cannot reach Prefect's server."""
    ray_runner()  # or Ray is not installed
    import ray

    settings = Settings()
    if not ray.is_initialized():
        try:
            _knock(settings.ray_address or "")
            ray.init(**_connection(settings))
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise UserError(
                f"RAY_ADDRESS: no Ray cluster at {settings.ray_address or 'this machine'} ({_one_line(error)}). Start "
                "one with `ray start --head`, set RAY_ADDRESS to one that runs, or use GRAYLINE_RUNNER=threads."
            ) from None
    nodes = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
    check_server(PREFECT_API_URL.value(), nodes, ray.util.get_node_ip_address())


def cluster_cores() -> int:
    """Of all its nodes, those that have joined so far; a flow is running on it."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1)) if ray.is_initialized() else 1


def gpu_share(resources: Mapping[str, float], device: str) -> float:
    """The part of a GPU that each of the cluster's workers takes: all of them together take all GPUs, one at most
    each. 0 where there is none, or none is wanted."""
    gpus = resources.get("GPU", 0.0)
    return 0.0 if device == "cpu" else min(1.0, gpus / max(1.0, resources.get("CPU", 1.0)))


@contextmanager
def on_gpus() -> Iterator[None]:
    """What is submitted meanwhile asks the cluster for its share of a GPU, so that Ray puts no more workers on one than
    were counted, and shows each its own. Without Ray it changes nothing."""
    settings = Settings()
    if settings.runner != "ray":
        yield
        return
    import ray
    from prefect_ray.context import remote_options

    with remote_options(num_gpus=gpu_share(ray.cluster_resources(), settings.device)):
        yield


def check_server(url: str | None, nodes: Iterable[str], here: str) -> None:
    """Raises UserError where some of the cluster's nodes are other machines than this one (IP
    addresses), and Prefect's server (None: a temporary one) listens on loopback alone."""
    away = [node for node in nodes if node != here and not _is_loopback(node)]
    if away and (url is None or _is_loopback(urlsplit(url).hostname or "")):
        raise UserError(
            f"PREFECT_API_URL: the Ray node {away[0]} cannot reach {url or 'a temporary Prefect server'} here. "
            "Start a Prefect server that all nodes can reach, and set PREFECT_API_URL to it."
        )


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: Ray itself would try for two minutes."""
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
    """For ray.init. `auto` is the cluster that this machine belongs to; without it, Ray starts a
    cluster of its own where it finds none.

    A worker has the environment of its node's `ray start`, and there makes the same defaults of it as
    the command does here. What `runtime_env` says stands in Ray's dashboard and logs: nothing secret.
    """
    return {
        "address": settings.ray_address or "auto",
        "runtime_env": {
            "env_vars": {"GRAYLINE_STORE": str(settings.root)},
            "worker_process_setup_hook": "tasks.settings.prepare_environment",
        },
        "logging_level": logging.WARNING,
        "log_to_driver": False,  # what tasks have to say is in Prefect's log
    }
