"""`grayline report`: what stands on the page, and how a browser shows it."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner
from upath import UPath

from flows.cli.versions import app
from flows.nightly_retrain import nightly_retrain
from resnet_core.errors import UserError
from tasks.registry.runs import client
from tasks.registry.versions import CALIBRATION, CHALLENGER, CHAMPION, GATE, ROLLED_BACK, SINCE
from tasks.report.charts import uncalibrated
from tasks.report.pages import check_place
from tasks.report.parts import Parts, read_parts
from tasks.report.story import verdict
from tasks.report.version_page import render, write_report
from tasks.settings import Settings
from tests.browser import PALE_TEXT, TOO_WIDE, UNREADABLE, chromium, opened
from tests.versions import TEMPERATURE, Digits, complete_version, predicted, register_version

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "{{ 7 * 7 }}", *"3456789")
LONG = ("a class whose name is long enough to be a sentence", "averyveryverylongnamewithoutanyspaces", *"23456789")


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("registry")
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture(scope="module")
def parts(tracking_uri: str, digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    version = complete_version(tracking_uri, digits, tmp_path_factory.mktemp("version"))
    return read_parts(tracking_uri, version)


@pytest.fixture(scope="module")
def page(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(render(parts), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def text(html: str) -> str:
    """What a person reads."""
    body = html[html.index("<body>") :]
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", " ", body, flags=re.DOTALL)).split())


def test_held_out_images_stand_beside_the_training_images_they_look_like(parts: Parts) -> None:
    html = render(parts)
    section = html[html.index('<section id="look_alikes"') :].split("</section>")[0]
    assert section.count("<img") == 2
    assert 'alt="Test image &lt;out&gt;.png"' in section
    assert 'title="/trained &amp; on.png"' in section
    assert "1.3%" in text(f"<body>{section}")
    assert f"1 of {parts.metrics['images']} held-out images look like a training image of their class." in text(html)
    without = replace(parts, gallery={**parts.gallery, "look_alikes": []})
    assert "no held-out image is known to look like a training image" in text(render(without))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_fits_every_screen_and_can_be_read_in_light_and_dark(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    shown, said = opened(browser, page, width, scheme)
    assert shown.evaluate(TOO_WIDE) == []
    assert shown.evaluate(UNREADABLE) == []
    assert shown.evaluate(PALE_TEXT) == []
    assert shown.locator("img").count() > 30
    ground = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", ground)[:3])) < 60) == (scheme == "dark")
    assert said == []
    shown.close()


def test_it_prints_on_white_paper(browser: Any, page: Path, tmp_path: Path) -> None:
    shown, said = opened(browser, page, 700, "dark")
    shown.emulate_media(media="print")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert shown.evaluate(TOO_WIDE) == []
    assert shown.evaluate(PALE_TEXT) == []
    pdf = shown.pdf(path=str(tmp_path / "report.pdf"), format="A4")
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 20_000
    assert said == []
    shown.close()


def test_names_from_the_data_are_text_and_long_ones_fit(
    browser: Any, tracking_uri: str, digits: Digits, tmp_path: Path
) -> None:
    for name, classes in (("hostile", HOSTILE), ("long", LONG)):
        version = complete_version(tracking_uri, digits, tmp_path / name, classes, name)
        client(tracking_uri).update_model_version(
            name,
            version.version,
            "## Limits\n\n<script>alert(3)</script> ![x](http://127.0.0.1:9/x.png) [y](javascript:z)",
        )
        write_report(tracking_uri, version, UPath(tmp_path / name / "report.html"))
        shown, said = opened(browser, tmp_path / name / "report.html", 360)
        assert said == []  # no alert, nothing fetched
        assert shown.locator("script").count() == 0
        assert shown.locator("img[src='x']").count() == 0
        assert shown.evaluate(TOO_WIDE) == []
        assert shown.evaluate(UNREADABLE) == []
        assert classes[0] in shown.inner_text("#metrics")
        shown.close()


def test_everything_that_the_version_has_is_on_the_page(parts: Parts) -> None:
    html = render(parts)
    said = text(html)
    metrics = parts.metrics or {}
    accuracy = metrics["metrics"]["accuracy"]
    for expected in (
        f"{100 * accuracy['value']:.1f}%", f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f}%",
        "Champion", "since 24 Nov 2026, 02:14 UTC", "promoted by hand, by &lt;b&gt;Ann&lt;/b&gt; &amp; Bob",
        "1 of 2 checks failed: slices", "accuracy at least 0.900", "Significantly worse than the rest: side left",
        "18.0% of images go to a person", "Called unknown 4.0% 3.0 to 6.0%, at most 5% wanted",
        "before the temperature of 0.70", "Reading digits .", "No letters.",
        "c" * 16, "5" * 16, "8" * 40, "a" * 64, "f" * 64, "Most accurate at 8 pixels: 95.0%", "the first of all",
        "Nearest in training", "layer4", "8 epochs of training",
    ):  # fmt: skip
        assert expected in said, expected
    assert "Left out" not in said
    items = (parts.gallery or {})["items"]
    pictures = sum(2 + len(item["neighbours"]) for item in items) + len(parts.classes)  # with one of each class
    pictures += 2 * len(parts.gallery["look_alikes"])
    assert html.count("data:image/webp;base64,") == pictures
    counts = metrics["confusion"]["counts"]
    shown = [int(cell) for cell in re.findall(r'style="--share:[\d.]+" title="[^"]*">(\d+)</td>', html)]
    assert shown == [count for row in counts for count in row]


def test_a_version_with_nothing_but_a_run_gets_a_page_that_says_what_is_missing(
    browser: Any, tracking_uri: str, tmp_path: Path
) -> None:
    version, _ = register_version(tracking_uri, "bare")
    size = write_report(tracking_uri, version, UPath(tmp_path / "bare.html"))
    assert size == (tmp_path / "bare.html").stat().st_size
    shown, said = opened(browser, tmp_path / "bare.html", 360)
    for expected in ("Registered", "has no evaluation/metrics.json", "the gate has not judged", "has no explanation/"):
        assert expected in shown.inner_text("body")
    assert shown.evaluate(UNREADABLE) == []
    assert shown.evaluate(TOO_WIDE) == []
    assert said == []
    shown.close()


def test_pictures_that_are_gone_or_lie_elsewhere_are_left_out(
    tracking_uri: str, digits: Digits, tmp_path: Path
) -> None:
    version = complete_version(tracking_uri, digits, tmp_path / "made", name="gone")
    gallery = json.loads((tmp_path / "made" / "explanation" / "gallery.json").read_text())
    gallery["items"][0]["image"] = "../../../../../../../../../../etc/hostname"
    gallery["items"][1]["image"] = "images/not-there.webp"
    (tmp_path / "gallery.json").write_text(json.dumps(gallery))
    client(tracking_uri).log_artifact(version.run_id, str(tmp_path / "gallery.json"), "explanation")
    found = read_parts(tracking_uri, version)
    assert all(name.startswith("images/") for name in found.pictures)
    assert render(found).count('<li class="card">') == len(gallery["items"]) - 2 + len(gallery["look_alikes"])


def test_figures_of_another_calibration_than_the_versions_own_are_said_to_be(parts: Parts) -> None:
    newer = "They are newer than this version"
    assert parts.calibration
    own, other = {**parts.tags, CALIBRATION: parts.calibration}, {**parts.tags, CALIBRATION: "0" * 64}
    assert newer not in render(parts)
    assert newer not in render(replace(parts, tags=own))
    assert newer in render(replace(parts, tags=other))


@pytest.mark.parametrize(
    ("tags", "aliases", "word", "kind"),
    [
        ({SINCE: "2026-11-24T02:14:05+00:00"}, [CHAMPION], "Champion", "good"),
        ({SINCE: "2026-11-24T02:14:05+00:00"}, [], "Former champion", "plain"),
        ({SINCE: "x", ROLLED_BACK: "2026-11-24T09:30:00+00:00: scores badly"}, [], "Rolled back", "bad"),
        ({GATE: "refused: floor: 0.6"}, [CHALLENGER], "Refused", "bad"),
        ({}, [CHALLENGER], "Challenger", "plain"),
        ({}, [], "Registered", "plain"),
    ],
)
def test_the_headline_says_what_the_version_is_today(
    parts: Parts, tags: dict[str, str], aliases: list[str], word: str, kind: str
) -> None:
    found = verdict(replace(parts, tags=tags, aliases=aliases))
    assert (found.word, found.kind) == (word, kind)
    if ROLLED_BACK in tags:
        assert (found.text, found.why) == ("It was rolled back on 24 Nov 2026, 09:30 UTC.", "scores badly")


def test_probabilities_before_the_temperature_follow_from_those_after_it(digits: Digits) -> None:
    raw = predicted(digits)[2].astype(np.float64)
    powers = raw ** (1 / TEMPERATURE)
    found = uncalibrated(powers / powers.sum(1, keepdims=True), TEMPERATURE)
    np.testing.assert_allclose(found, raw, atol=1e-9)


def test_the_command(
    store: Path, tracking_uri: str, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    done = CliRunner().invoke(app, ["report", "digits@champion", "-o", str(tmp_path / "a" / "report.html")])
    assert done.exit_code == 0, done.exception
    assert "digits version 1" in done.stdout
    assert (tmp_path / "a" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    wrong = CliRunner().invoke(app, ["report", "digit@champion", "-o", str(tmp_path / "b.html")])
    assert isinstance(wrong.exception, UserError)
    assert "NAME@ALIAS: no model 'digit'. Did you mean 'digits'?" in str(wrong.exception)


def test_the_place_of_the_page_is_checked_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--output: .* is a folder"):
        check_place(str(tmp_path), "report.html")
    with pytest.raises(UserError, match="is a folder"):
        check_place("reports/", "report.html")
    assert check_place(str(tmp_path / "x.html"), "report.html") == UPath(tmp_path / "x.html")


@pytest.mark.usefixtures("prefect")
def test_what_the_stages_leave_is_what_the_page_shows(store: Path, digit_folder: Path, tmp_path: Path) -> None:
    train = {"epochs": 2, "batch_size": 32, "augment": {"flips": "none"}}
    content = {"name": "few", "source": str(digit_folder), "image": {"size": 8}, "train": train}
    content |= {"model": {"arch": "resnet10", "width": 16}, "gate": {"minimum": 0.99}}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(content))
    night = nightly_retrain(str(tmp_path / "few.yaml"))
    assert night.version is not None
    assert night.evaluation is not None
    found = read_parts(Settings().tracking_uri, night.version)
    said = text(render(found))
    left_out = said[said.index("Left out") :] if "Left out" in said else ""
    for missing in ("metrics.json", "explanation/", "slices", "input size", "no temperature", "description", "curves"):
        assert missing not in left_out
    assert f"{100 * night.evaluation.metrics['accuracy'].value:.1f}%" in said
    assert "are too few to find one (200)" in said
    assert "Nearest in training" in said
    assert "2 epochs of training" in said
    assert night.catalog.digest in said
    assert "checks failed: floor" in said
