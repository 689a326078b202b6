"""Deployments: each one imports, is named like its flow, and documents its parameters."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import parameter_schema

from flows.stack.deployments import PREFECT_YAML, deploy_there, deployment_names, pool_template
from flows.stack.runs import check_parameters, parse, run_deployment
from resnet_core.errors import UserError

DEPLOYMENTS = yaml.safe_load(PREFECT_YAML.read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_every_entrypoint_imports_and_its_parameters_are_described(deployment: dict[str, str]) -> None:
    flow = load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)
    assert flow.name == deployment["name"]
    assert flow.description
    for name, field in parameter_schema(flow).properties.items():
        assert field.get("description"), name
        assert "type" in field or "anyOf" in field or "enum" in field, name


@pytest.mark.parametrize("name", ["promote", "rollback"])
def test_a_version_is_a_number_as_prefects_command_reads_it(name: str) -> None:
    entrypoint = next(d["entrypoint"] for d in DEPLOYMENTS if d["name"] == name)
    flow = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    assert {"type": "integer"} in parameter_schema(flow).properties["version"]["anyOf"]


def test_every_flow_is_deployed_and_no_night_that_nobody_asked_for() -> None:
    flows = {"nightly-retrain", "classify-batch", "tune", "cross-validate", "label-issues", "promote", "rollback"}
    assert set(deployment_names()) == flows | {"export", "evaluate-backend", "features", "monitor", "reproduce"}
    nightly = next(d for d in DEPLOYMENTS if d["name"] == "nightly-retrain")
    assert [(each["cron"], each["active"]) for each in nightly["schedules"]] == [("0 2 * * *", False)]
    assert not any("concurrency_limit" in each for each in DEPLOYMENTS)  # its slot could outlive a night's process


def test_a_run_cannot_set_command_environment_or_folder() -> None:
    template = pool_template(Path("/srv/parts"))
    placeholders = re.findall(r"{{ *(.+?) *}}", json.dumps(template["job_configuration"]))
    assert placeholders == list(template["variables"]["properties"]) == ["name"]
    assert template["variables"]["additionalProperties"] is False
    for deployment in DEPLOYMENTS:  # Prefect refuses a run or a deployment with other variables
        assert deployment["work_pool"] == {"name": "grayline"}


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("clasify-batch", [], "Did you mean 'classify-batch'"),
        ("promote", ["name"], "'name' is not key=value"),
        ("promote", ["name=x"], "Run `grayline up`"),
    ],
)
def test_running_a_deployment_wants_its_name_its_parameters_and_a_server(
    name: str, parameters: list[str], message: str
) -> None:
    with temporary_settings({PREFECT_API_URL: None}), pytest.raises(UserError, match=message):
        run_deployment(name, parameters, watch=False)


def test_deploying_wants_a_server() -> None:
    with temporary_settings({PREFECT_API_URL: None}), pytest.raises(UserError, match="no Prefect server is set"):
        deploy_there([])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "'dataset' is a required property"),
        (["dataset=data/elpv.yaml", "untill=gate"], "unknown parameter 'untill'. Did you mean 'until'?"),
        (["dataset=data/elpv.yaml", "until=lunch"], "until: 'lunch' is not of its kind"),
        (["dataset=7"], "dataset: 7 is not of its kind"),
        (["dataset=data/elpv.yaml", "until=gate"], ""),
    ],
)
def test_parameters_are_checked_before_a_run_is_made(given: list[str], message: str) -> None:
    entrypoint = next(d["entrypoint"] for d in DEPLOYMENTS if d["name"] == "nightly-retrain")
    schema = parameter_schema(load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)).model_dump()
    if not message:
        check_parameters(parse(given), {}, schema)
        return
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        check_parameters(parse(given), {}, schema)
