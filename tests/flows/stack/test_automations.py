"""Prefect's automations send alerts to a webhook: each once, with the run's link and the remedy in the first line."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import get_current_settings
from upath import UPath

from flows.stack.api import Api
from flows.stack.automations import watch_over
from tasks.settings import Settings
from tasks.store import Store
from tasks.watch.alerts import Alert, settle
from tasks.watch.channels import channels
from tests.receiver import Receiver, receiving


@pytest.fixture
def api(prefect: None) -> Api:
    return Api(str(get_current_settings().api.url), "")


@pytest.fixture
def hook(api: Api, store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("GRAYLINE_ALLOWED_PROTOCOLS", "file, http, https")
    monkeypatch.setenv("GRAYLINE_PRIVATE_HOSTS", "127.0.0.1")
    with receiving() as receiver:
        monkeypatch.setenv("GRAYLINE_ALERTS", f"{receiver.url} {receiver.url.replace('http', 'json')}")
        for _ in range(2):  # a second `make up` changes nothing
            watch_over(api, channels(Settings()))
        yield receiver
        watch_over(api)


def run_of_a_night(api: Api, *states: dict[str, str]) -> tuple[str, str]:
    flow = api.ask("/flows/", {"name": "nightly-retrain"})["id"]
    deployment = api.ask("/deployments/", {"name": "nightly-retrain", "flow_id": flow, "tags": ["grayline"]})["id"]
    run = api.ask(f"/deployments/{deployment}/create_flow_run", {})
    set_states(api, run["id"], *states)
    return run["id"], run["name"]


def set_states(api: Api, run: str, *states: dict[str, str]) -> None:
    for state in states:
        api.ask(f"/flow_runs/{run}/set_state", {"state": state, "force": True})


def test_an_alert_of_a_night_reaches_the_webhook_and_apprise_once(api: Api, hook: Receiver, store: Path) -> None:
    alert = Alert("refused", 'version 2 was "not" promoted: floor.', "`grayline report elpv/2` shows why.")
    for _ in range(2):
        settle(Store(UPath(store)), "elpv", ["refused"], [alert], "7")
    got = hook.wait_for(2)
    (sent,) = [each for each in got if "state" in each]
    (mail,) = [each for each in got if "title" in each]
    assert sent["text"] == mail["message"]
    assert sent["text"].startswith(
        'elpv: version 2 was "not" promoted: floor. `grayline report elpv/2` shows why. http'
    )
    assert sent["text"].endswith("/runs/flow-run/7")
    for _ in range(2):
        settle(Store(UPath(store)), "elpv", ["refused"], [], "8")
    assert [each["state"] for each in hook.wait_for(4) if "state" in each] == ["raised", "well"]


def test_a_run_that_prefect_ends_is_told_with_its_link_and_late_ones_once(api: Api, hook: Receiver) -> None:
    late, crashed = (
        {"type": "SCHEDULED", "name": "Late"},
        {"type": "CRASHED", "name": "Crashed", "message": "No heartbeat."},
    )
    id_, name = run_of_a_night(api, {"type": "RUNNING", "name": "Running"}, crashed)
    for _ in range(2):
        run_of_a_night(api, late)
    got = [each for each in hook.wait_for(4) if "text" in each]
    texts = sorted((each["text"] for each in got), key=lambda text: "is late" in text)
    assert len(texts) == 2, texts
    assert texts[0].startswith(f"nightly-retrain: run {name} is Crashed: No heartbeat. The next run goes on")
    assert texts[0].endswith(id_)
    assert "is late: no worker begins it. `grayline up` starts one" in texts[1]
    run_of_a_night(api, {"type": "RUNNING", "name": "Running"})
    assert "it is well again" in [each["text"] for each in hook.wait_for(6) if "text" in each][2]


def test_channels_are_kept_secret_and_removed_with_the_setting(api: Api, hook: Receiver) -> None:
    blocks = api.all("/block_documents/filter", {})
    ours = [block for block in blocks if str(block["name"]).startswith("grayline-alerts-")]
    assert [block["data"]["url"].strip("*") for block in ours] == ["", ""]
    watch_over(api)
    names = [automation["name"] for automation in api.all("/automations/filter", {})]
    assert not [name for name in names if "alerts" in name or "late" in name]
    assert not [block for block in api.all("/block_documents/filter", {}) if str(block["name"]).startswith("grayline-")]
