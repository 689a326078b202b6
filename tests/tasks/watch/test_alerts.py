"""Alerts are told once, and once when it is well again; metrics are what the dashboard asks for."""

import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from upath import UPath

from resnet_core.errors import DataCheckError, UserError
from resnet_core.policy import OutOfReachError, check_host
from tasks.batch.values import DriftReport, Scores
from tasks.progress import JsonLines
from tasks.settings import Settings
from tasks.store import Store
from tasks.values import ModelVersion
from tasks.watch import alerts, metrics, rules
from tasks.watch.alerts import Alert, message, open_alerts, settle
from tasks.watch.channels import channels
from tests.receiver import Receiver, receiving

HOME = Path(__file__).parents[3]
REFUSED = Alert("refused", "version 2 was not promoted: floor: 0.61.", "`grayline report elpv/2` shows why.")


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch, store: Path) -> Iterator[Receiver]:
    """A receiver that the settings name, by an http URL and an address that the machine's owner allows."""
    monkeypatch.setenv("GRAYLINE_ALLOWED_PROTOCOLS", "file, http, https")
    monkeypatch.setenv("GRAYLINE_PRIVATE_HOSTS", "127.0.0.1")
    without_server = temporary_settings(restore_defaults={PREFECT_API_URL})  # a session's tests share one
    with receiving() as receiver, without_server:
        monkeypatch.setenv("GRAYLINE_ALERTS", receiver.url)
        yield receiver


def test_an_alert_is_told_once_and_once_when_it_is_well_again(hook: Receiver, store: Path) -> None:
    here = Store(UPath(store))
    for _ in range(3):
        settle(here, "elpv", ["refused", "failed"], [REFUSED], None)
    settle(here, "other", ["refused"], [], None)  # another data set's night says nothing about this one
    assert [(got["state"], got["alert"], got["name"]) for got in hook.got] == [("raised", "refused", "elpv")]
    assert set(open_alerts(here, "elpv")) == {"refused"}
    settle(here, "elpv", ["failed"], [], None)  # a run that judges other kinds leaves it open
    for _ in range(2):
        settle(here, "elpv", ["refused", "failed"], [], None)
    assert [got["state"] for got in hook.got] == ["raised", "well"]
    assert open_alerts(here, "elpv") == {}
    settle(here, "elpv", ["refused"], [REFUSED], None)
    assert [got["state"] for got in hook.got] == ["raised", "well", "raised"]


def test_what_no_channel_took_is_told_by_the_next_run(
    hook: Receiver, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hook.status = 500
    settle(Store(UPath(store)), "elpv", [], [REFUSED], None)
    assert open_alerts(Store(UPath(store)), "elpv") == {}
    hook.status = 200
    settle(Store(UPath(store)), "elpv", [], [REFUSED], None)
    assert len(hook.got) == 2
    assert set(open_alerts(Store(UPath(store)), "elpv")) == {"refused"}


def test_the_first_line_has_what_the_remedy_and_the_link() -> None:
    content = message("elpv", REFUSED, alerts.RAISED, "http://127.0.0.1:4200/runs/flow-run/7")
    assert content["text"] == (
        "elpv: version 2 was not promoted: floor: 0.61. `grayline report elpv/2` shows why. "
        "http://127.0.0.1:4200/runs/flow-run/7"
    )
    assert content["subject"] == "grayline: elpv: the gate refuses the new version"
    odd = Alert("failed", "first\nsecond\x1b[2J s3://me:geheim77@host/x " + "long " * 500)
    text = message("elpv", odd, alerts.RAISED, "http://run")["text"]
    assert "\n" not in text
    assert "\x1b" not in text
    assert "geheim77" not in text
    assert text.endswith("... http://run")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("hooks.example.com/x", "URL 1 does not begin with a scheme"),
        ("nosuch://me:geheim77@host", r"URL 1 is not a URL of Apprise's: nosuch://\.\.\."),
        ("http://8.8.8.8/geheim77", "the protocol 'http' is not allowed"),
        ("https://127.0.0.1/geheim77", "private address .* GRAYLINE_PRIVATE_HOSTS"),
        ("https://[::1]:8443/geheim77", "private address .* GRAYLINE_PRIVATE_HOSTS"),
        ("https://2130706433/geheim77", "private address .* GRAYLINE_PRIVATE_HOSTS"),
        ("json://127.0.0.1:8080/geheim77", "private address .* GRAYLINE_PRIVATE_HOSTS"),
        ("mailto://me:geheim77@localhost", "private address .* GRAYLINE_PRIVATE_HOSTS"),
        ("https://[x/geheim77", "URL 1 cannot be read"),
    ],
)
def test_a_channel_that_cannot_be_is_one_line_without_its_secrets(
    url: str, words: str, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    monkeypatch.delenv("GRAYLINE_ALLOWED_PROTOCOLS")
    monkeypatch.setenv("GRAYLINE_ALERTS", url)
    with pytest.raises(UserError, match=words) as error:
        channels(Settings())
    assert "geheim77" not in str(error.value)
    assert "\n" not in str(error.value)


def test_channels_come_from_the_setting_and_from_a_file_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, store: Path, tmp_path: Path
) -> None:
    file = tmp_path / "alerts"
    file.write_text("# the team\nslack://TokenA123/TokenB1234/tokentokentokentokentoke/#night\n")
    file.chmod(0o644)
    monkeypatch.setenv("GRAYLINE_ALERTS", "https://1.1.1.1/a json://me:geheim77@1.1.1.1/b")
    monkeypatch.setenv("GRAYLINE_ALERTS_FILE", str(file))
    with pytest.raises(UserError, match="GRAYLINE_ALERTS_FILE: everybody on this machine can read"):
        channels(Settings())
    file.chmod(0o600)
    found = channels(Settings())
    assert [(channel.is_webhook, channel.place) for channel in found] == [
        (True, "https://1.1.1.1"), (False, "json://..."), (False, "slack://..."),
    ]  # fmt: skip
    assert found[1].url == "json://me:geheim77@1.1.1.1/b"
    assert [channel.block[0] for channel in found] == ["webhook", "slack-webhook", "slack-webhook"]
    assert found[0].block[1]["allow_private_urls"] is False
    assert "geheim77" not in repr(Settings())


def test_a_host_that_is_no_host_is_not_asked_for() -> None:
    check_host("TokenA123")
    check_host("")
    with pytest.raises(OutOfReachError, match="localhost has a private address"):
        check_host("localhost")


def test_apprise_sends_by_prefects_block(hook: Receiver, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAYLINE_ALERTS", hook.url.replace("http://", "json://"))
    settle(Store(UPath(store)), "elpv", [], [REFUSED], None)
    (got,) = hook.got
    assert got["title"] == "grayline: elpv: the gate refuses the new version"
    assert got["message"].startswith("elpv: version 2 was not promoted: floor: 0.61. `grayline report")


class _Run:
    id, deployment_id = "7", "d"
    parameters = MappingProxyType({"dataset": "data/elpv.yaml"})


class _Flow:
    name = "nightly-retrain"


class _State:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def result(self, raise_on_failure: bool) -> Exception:
        assert raise_on_failure is False
        return self._error


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (DataCheckError("quarantine: 9 of 10 images (90%), over `quarantine_limit: 0.1`."), "quarantine", "9 of 10"),
        (DataCheckError("elpv: images: 3, 9 before"), "data", "3, 9 before"),
        (OSError(28, "No space left on device"), "disk", "No space left"),
        (ZeroDivisionError("division by zero"), "failed", "ZeroDivisionError: division by zero. `grayline doctor`"),
        (UserError("source: there is none. Correct the path.", "second line"), "failed", "Correct the path."),
    ],
)
def test_a_failed_night_is_told_by_its_kind(
    error: Exception, kind: str, words: str, hook: Receiver, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAYLINE_METRICS", str(store / "metrics"))
    for _ in range(2):
        rules.tell_of_a_failure(_Flow(), _Run(), _State(error))  # type: ignore[arg-type]
    (got,) = hook.got
    assert (got["name"], got["alert"]) == ("elpv", kind)
    assert words in got["text"]
    assert (
        f'grayline_alert{{kind="{kind}",name="elpv"}} 1.0'
        in (store / "metrics" / "grayline-alerts-elpv.prom").read_text()
    )


def test_a_champion_that_nights_have_not_confirmed_for_a_week_is_stale(
    hook: Receiver, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts.confirm_champion(Store(UPath(store)), "elpv", now=True)
    eight_days = time.time() + 8 * 86400
    monkeypatch.setattr(time, "time", lambda: eight_days)
    rules.tell_of_a_failure(_Flow(), _Run(), _State(ZeroDivisionError()))  # type: ignore[arg-type]
    assert [got["alert"] for got in hook.got] == ["failed", "stale"]
    assert "for 8 days" in hook.got[1]["text"]


def test_a_log_line_is_json(caplog: pytest.LogCaptureFixture) -> None:
    record = logging.LogRecord(
        "grayline", logging.WARNING, "x.py", 1, "read %s of\x1b %s", (3, "s3://me:geheim77@h/x"), None
    )
    record.created = 0.5
    assert json.loads(JsonLines().format(record)) == {
        "time": "1970-01-01T00:00:00.500+00:00", "level": "warning", "logger": "grayline",
        "message": "read 3 of\\x1b s3://h/x",
    }  # fmt: skip


def asked_for() -> set[str]:
    """The metrics that the dashboard asks for."""
    return set(re.findall(r"grayline_[a-z_]+", (HOME / "deploy" / "grafana" / "grayline.json").read_text())) - {
        "grayline_"
    }


def test_the_dashboard_asks_for_metrics_that_exist_and_for_all_of_them() -> None:
    assert asked_for() == set(metrics.METRICS)
    panels = json.loads((HOME / "deploy" / "grafana" / "grayline.json").read_text())["panels"]
    assert all(target["expr"] for panel in panels for target in panel["targets"])


def test_a_batch_writes_its_metrics(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "textfile"
    monkeypatch.setenv("GRAYLINE_METRICS", str(folder))
    model = ModelVersion("elpv", "3", "run")
    scores = Scores("src", UPath(tmp_path / "out"), (), model, "torch", 100, 90, 40, {}, 5.0, review=9)
    metrics.write_batch(scores, DriftReport(model, 90, (), "too few"), 10.0)
    text = (folder / "grayline-batch-elpv.prom").read_text()
    assert 'grayline_images_per_second{job="batch",name="elpv"} 5.0' in text
    assert 'grayline_review_share{name="elpv"} 0.1' in text
    assert 'grayline_batch_images{name="elpv",outcome="failed"} 10.0' in text
    assert "grayline_drifted_measures" not in text
    assert not [path for path in folder.iterdir() if path.suffix != ".prom"]


def test_a_folder_of_metrics_that_cannot_be_written_ends_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAYLINE_METRICS", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(metrics.log, "propagate", True)
    metrics.write_alerts("elpv", ["failed"])
    assert "GRAYLINE_METRICS: cannot write to" in caplog.text
