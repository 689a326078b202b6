"""Runs of deployments: check their parameters, start one, follow it, and end with what came out."""

import json
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flows.stack.deployments import deployment_names
from flows.stack.processes import say
from resnet_core.credentials import masked, opened
from resnet_core.errors import UserError, nearest
from resnet_core.storage.names import visible

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

_EVERY = 1.0  # seconds between two looks at a run
_PAGE = 200  # log lines in an answer
_OURS = "grayline"  # the logger whose lines are shown
# Keys of the pages that a run publishes, where they are not the deployment's name.
_PAGES = {
    "classify-batch": ("scores", "drift"),
    "cross-validate": ("cross-validation",),
    "evaluate-backend": ("backend",),
    "reproduce": ("reproduction",),
}


def run_deployment(name: str, parameters: list[str], watch: bool, verbose: bool = False) -> int:
    """Run a deployment; return 0 if it ends Completed, or is not watched. Raises UserError for wrong input.

    verbose: show Prefect's own lines, too.
    """
    names = deployment_names()
    name = name.split("/")[0]
    if name not in names:
        raise UserError(f"run: unknown deployment {name!r}.{nearest(name, names)} Known: {', '.join(names)}.")
    values = parse(parameters)
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        raise UserError("run: no Prefect server is set. Run `grayline up` in this folder, or set PREFECT_API_URL.")
    with get_client(sync_client=True) as client:
        deployment = _find(client, name)
        check_parameters(values, deployment.parameters, deployment.parameter_openapi_schema or {})
        run = client.create_flow_run_from_deployment(deployment.id, parameters=values)
        page = str(get_current_settings().ui_url or "").rstrip("/")
        say(f"{name}: run {run.name}" + (f", {page}/runs/flow-run/{run.id}" if page else ""))
        return _follow(client, run, name, verbose) if watch else 0


def parse(parameters: list[str]) -> dict[str, Any]:
    """Return the values of `key=value`, read as JSON where they are. Raises UserError for another form."""
    values: dict[str, Any] = {}
    for parameter in parameters:
        key, equals, text = parameter.partition("=")
        if not equals:
            raise UserError(f"--param: {parameter!r} is not key=value, as in --param source=data/raw/elpv.")
        if opened(text) != text or masked(text) != text:
            raise UserError(
                "--param: Prefect stores and shows a run's parameters, and this URL has a secret. Keep it in a Secret "
                "block (`prefect block create secret`), and give secret:NAME."
            )
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values


def check_parameters(values: Mapping[str, Any], defaults: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raise UserError for a parameter that the flow does not have, lacks, or cannot take."""
    from prefect.utilities.schema_tools.validation import validate

    known = [*schema.get("properties", {})]
    for key in values:
        if key not in known:
            raise UserError(f"--param: unknown parameter {key!r}.{nearest(key, known)} Known: {', '.join(known)}.")
    for error in validate({**defaults, **values}, schema):
        key = str(next(iter(error.absolute_path), ""))
        if not key:
            raise UserError(f"--param: {error.message}. Give it as --param key=value.")
        raise UserError(f"--param: {key}: {values.get(key)!r} is not of its kind ({error.message}).")


def _find(client: "SyncPrefectClient", name: str) -> "DeploymentResponse":
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(f"{name}/{name}")
    except ObjectNotFound:
        raise UserError(
            f"run: {name} is not deployed on this server. Run `grayline up`, or `prefect deploy --all`."
        ) from None


def _follow(client: "SyncPrefectClient", run: "FlowRun", name: str, verbose: bool) -> int:
    """Show the run's lines until it has ended, then its outcome."""
    seen = 0
    while True:
        run = client.read_flow_run(run.id)
        state, ended = run.state, run.state is not None and run.state.is_final()
        seen += _show_lines(client, run, seen, verbose)
        if ended and state is not None:
            break
        time.sleep(_EVERY)
    for text in _outcome(client, run, name):
        _print(text)
    if not state.is_completed():
        _print(f"{state.name}: {_why(state.message)}")
    return 0 if state.is_completed() else 1


def _show_lines(client: "SyncPrefectClient", run: "FlowRun", seen: int, verbose: bool) -> int:
    """Print the lines after the first `seen`; return their number."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import LogSort

    count = 0
    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    while True:
        lines = client.read_logs(of_run, limit=_PAGE, offset=seen + count, sort=LogSort.TIMESTAMP_ASC)
        for line in lines:
            if verbose or line.name == _OURS:
                _print(line.message)
        count += len(lines)
        if len(lines) < _PAGE:
            return count


def _outcome(client: "SyncPrefectClient", run: "FlowRun", name: str) -> list[str]:
    """Return the headline of the page that the run has published, and its first lines: the verdict and why."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey

    of_run, key = ArtifactFilterFlowRunId(any_=[run.id]), ArtifactFilterKey(any_=[name, *_PAGES.get(name, ())])
    lines: list[str] = []
    for page in client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=of_run, key=key)):
        first = str(page.data).partition("\n## ")[0]
        points = [line for line in first.splitlines() if line.startswith("- ")]
        title = _unescaped(page.description or "").removeprefix(f"{run.name}: ")
        lines += filter(None, (title, *map(_unescaped, points)))
    return ["", *lines] if lines else []


def _unescaped(line: str) -> str:
    """Return a line of Markdown as text; `tasks.artifacts.plain` has escaped it."""
    return re.sub(r"\*\*|\\(?=\W)", "", line)


def _print(text: str) -> None:
    """Print what the server answers; control characters are printed as codes."""
    for line in text.splitlines() or [""]:
        say(visible(line))


def _why(message: str | None) -> str:
    """Return the first line of a state's message, without Prefect's words before an error of ours."""
    first = next(iter((message or "").splitlines()), "without a message")
    return re.sub(r"^.*?\b(UserError|\w*Error): ", "", first)
