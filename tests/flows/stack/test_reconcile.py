"""Nights come back: what ended without a word is marked, its slot freed, and what people set stays."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from prefect.cli.deploy._schedules import _construct_schedules
from prefect.server.schemas.schedules import CronSchedule
from prefect.settings import get_current_settings
from rich.console import Console

from flows.stack.api import Api
from flows.stack.automations import _SILENT, watch_over
from flows.stack.deployments import merge
from flows.stack.reconcile import reconcile, stuck_slots, worker_name
from resnet_core.errors import UserError

DATASET = {"dataset": "data/elpv.yaml"}


class Pool:
    """A work pool of its own with one deployment, called nightly-retrain."""

    def __init__(self, api: Api) -> None:
        self.api, self.name = api, f"pool-{uuid4().hex[:8]}"
        api.ask("/work_pools/", {"name": self.name, "type": "process", "base_job_template": {}})
        flow = api.ask("/flows/", {"name": f"flow-{self.name}"})["id"]
        schedule = {"schedule": {"cron": "0 2 * * *", "timezone": "UTC"}, "active": False, "slug": "nightly"}
        self.deployment = api.ask(
            "/deployments/",
            {"name": "nightly-retrain", "flow_id": flow, "work_pool_name": self.name, "schedules": [schedule],
             "parameters": DATASET, "enforce_parameter_schema": False},
        )["id"]  # fmt: skip

    def run(self, *states: str) -> str:
        run = self.api.ask(f"/deployments/{self.deployment}/create_flow_run", {"parameters": DATASET})["id"]
        for state in states:
            self.api.ask(f"/flow_runs/{run}/set_state", {"state": {"type": state}, "force": True})
        return str(run)

    def state(self, run: str) -> str:
        return str(self.api.ask(f"/flow_runs/{run}")["state_type"])

    def there(self) -> dict[str, Any]:
        return {"nightly-retrain": self.api.ask(f"/deployments/{self.deployment}")}

    def set(self, path: str = "", method: str = "PATCH", **values: Any) -> Any:
        return self.api.ask(f"/deployments/{self.deployment}{path}", values, method)


@pytest.fixture
def pool(prefect: None) -> Pool:
    return Pool(Api(str(get_current_settings().api.url), ""))


@pytest.fixture
def living() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_runs_without_a_process_end_and_give_their_slots_back(
    pool: Pool, living: list[subprocess.Popen[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    pool.set(concurrency_limit=2)
    lost, alive, unbegun, cancelled = (
        pool.run("PENDING", "RUNNING"), pool.run("PENDING", "RUNNING"), pool.run("PENDING"), pool.run("CANCELLING"),
    )  # fmt: skip
    env = {**os.environ, "PREFECT__FLOW_RUN_ID": alive}
    living.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=env))
    reconcile(pool.api, pool.name)
    states = [pool.state(run) for run in (lost, alive, unbegun, cancelled)]
    assert states == ["CRASHED", "RUNNING", "SCHEDULED", "CANCELLED"]
    limit = pool.there()["nightly-retrain"]["global_concurrency_limit"]["id"]
    pool.api.ask(f"/v2/concurrency_limits/{limit}", {"active_slots": 2}, "PATCH")  # as a power cut leaves it
    assert [taken for _, taken in stuck_slots(pool.api, pool.name)] == [1]
    reconcile(pool.api, pool.name)
    assert pool.there()["nightly-retrain"]["global_concurrency_limit"]["active_slots"] == 1
    assert stuck_slots(pool.api, pool.name) == []
    assert "has no process, and is Crashed" in capsys.readouterr().out
    living[0].kill()
    living[0].wait()
    reconcile(pool.api, pool.name)
    assert pool.state(alive) == "CRASHED"


def test_runs_of_another_machines_worker_are_left_alone(pool: Pool) -> None:
    run = pool.run("PENDING", "RUNNING")
    for name in (worker_name(), "elsewhere"):
        pool.api.ask(f"/work_pools/{pool.name}/workers/heartbeat", {"name": name})
    reconcile(pool.api, pool.name)
    assert pool.state(run) == "RUNNING"


def test_after_an_outage_each_schedule_has_one_run(pool: Pool) -> None:
    day = datetime.now(UTC) - timedelta(days=9)
    for number, dataset in enumerate(("a", "b")):
        schedule = {"cron": f"{number} 2 * * *", "timezone": "Europe/Berlin"}
        entry = {"schedule": schedule, "active": True, "parameters": {"dataset": dataset}}
        pool.api.ask(f"/deployments/{pool.deployment}/schedules", [entry])
    asked = pool.run()  # by a person: it stays
    times = {"start_time": day.isoformat(), "end_time": (day + timedelta(days=7)).isoformat(), "min_runs": 7}
    pool.api.ask(f"/deployments/{pool.deployment}/schedule", times)
    of = {"flow_runs": {"deployment_id": {"any_": [pool.deployment]}}}
    assert len(pool.api.all("/flow_runs/filter", of)) > 10
    reconcile(pool.api, pool.name)
    late = [
        run for run in pool.api.all("/flow_runs/filter", of)
        if run["state_type"] == "SCHEDULED" and run["expected_start_time"] < datetime.now(UTC).isoformat()
    ]  # fmt: skip
    assert sorted(run["parameters"]["dataset"] for run in late) == ["a", "b", "data/elpv.yaml"]
    assert pool.state(asked) == "SCHEDULED"


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("cron", ["0 2 * * *", "30 2 * * *", "15 1 * * *"])
def test_every_night_of_a_year_comes_once_where_clocks_change(zone: str, cron: str) -> None:
    """An hour that is left out or comes twice in the night neither loses a night nor doubles it."""
    start = datetime(2026, 1, 1, tzinfo=ZoneInfo(zone))
    nights = asyncio.run(CronSchedule(cron=cron, timezone=zone).get_dates(365, start))
    assert [f"{night.astimezone(ZoneInfo(zone)):%j}" for night in nights] == [f"{day:03}" for day in range(1, 366)]


def test_a_night_holds_no_lease_that_a_restarted_server_could_lose() -> None:
    assert not [d["name"] for d in merge({}, [])["deployments"] if d.get("concurrency_limit")]
    kept = os.environ["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]  # where a person sets a limit: in files
    assert kept.endswith(".filesystem")
    assert int(os.environ["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) * 5 <= _SILENT


def test_what_a_person_set_stays_and_is_said(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    (nightly,) = (d for d in merge(pool.there(), [])["deployments"] if d["name"] == "nightly-retrain")
    assert (nightly["schedules"][0]["active"], nightly["paused"]) == (False, False)
    assert capsys.readouterr().out == ""  # nothing has been set
    first = pool.there()["nightly-retrain"]["schedules"][0]["id"]
    hourly = {"interval": 3600.0, "anchor_date": "2026-01-01T00:00:00+00:00", "timezone": "UTC"}
    pool.set(f"/schedules/{first}", schedule={"cron": "30 4 * * *", "timezone": "Europe/Berlin"}, active=True)
    pool.api.ask(f"/deployments/{pool.deployment}/schedules", [{"schedule": hourly, "active": False}])
    pool.set(parameters={"dataset": "mine.yaml"}, paused=True)
    (nightly,) = (d for d in merge(pool.there(), [])["deployments"] if d["name"] == "nightly-retrain")
    assert (nightly["parameters"], nightly["paused"]) == ({"dataset": "mine.yaml"}, True)
    as_deployed = _construct_schedules(nightly, {}, console=Console(), is_interactive=lambda: False)
    deployed = {type(each["schedule"]).__name__: each for each in as_deployed}
    assert deployed["CronSchedule"]["schedule"].cron == "30 4 * * *"
    assert deployed["CronSchedule"]["schedule"].timezone == "Europe/Berlin"
    assert [deployed[kind]["active"] for kind in ("CronSchedule", "IntervalSchedule")] == [True, False]
    assert deployed["IntervalSchedule"]["schedule"].interval == timedelta(hours=1)
    assert "cron 30 4 * * * Europe/Berlin" in (out := capsys.readouterr().out)
    assert out.startswith("nightly-retrain keeps what was set: schedule ")
    assert out.count("\n") == 1
    assert "paused" in out


def test_only_data_sets_that_are_asked_for_have_nights(
    pool: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"{name}.yaml" for name in ("cells", "parts")]
    for file in files:
        file.write_text(f"name: {file.stem}\nsource: {tmp_path}\n")
    (nightly,) = (d for d in merge({}, [])["deployments"] if d["name"] == "nightly-retrain")
    assert not any(schedule["active"] for schedule in nightly["schedules"])
    (nightly,) = (d for d in merge({}, files)["deployments"] if d["name"] == "nightly-retrain")
    asked = [(s["slug"], s["active"], s["parameters"]["dataset"]) for s in nightly["schedules"]]
    assert asked == [("cells", True, str(files[0])), ("parts", True, str(files[1]))]
    assert capsys.readouterr().out.count("its nights are cron 0 2 * * * UTC") == 2
    (nightly,) = (d for d in merge(pool.there(), files[:1])["deployments"] if d["name"] == "nightly-retrain")
    assert [schedule["slug"] for schedule in nightly["schedules"]] == ["cells"]
    files[0].write_text("nme: cells\n")
    with pytest.raises(UserError, match="name"):
        merge({}, files)


def test_the_automation_is_set_once_and_a_paused_one_stays_paused(pool: Pool) -> None:
    watch_over(pool.api)
    (found,) = (each for each in pool.api.all("/automations/filter", {}) if "heartbeat" in each["name"])
    assert found["trigger"]["posture"] == "Proactive"
    pool.api.ask(f"/automations/{found['id']}", {"enabled": False}, "PATCH")
    watch_over(pool.api)
    again = [each for each in pool.api.all("/automations/filter", {}) if "heartbeat" in each["name"]]
    assert [(each["id"], each["enabled"]) for each in again] == [(found["id"], False)]
