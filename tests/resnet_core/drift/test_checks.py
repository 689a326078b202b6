"""Data checks: changes of the images are found and named, and nothing else is."""

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from elpv_dataset.utils import load_dataset
from pydantic import TypeAdapter, ValidationError

from resnet_core.drift.checks import (
    ChecksConfig,
    ClassShareCheck,
    DataCheckError,
    DistributionCheck,
    Finding,
    ImagesCheck,
    check,
    check_quarantine,
)
from resnet_core.drift.summary import CATALOG_MEASURES, Summary, summarise
from resnet_core.plotting.drift_plots import compare_nights

Digits = tuple[np.ndarray, list[str]]
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("label", "status", "reason_code", "reason")),
        *((name, pa.int32()) for name in ("width", "height")),
        *((name, pa.float32()) for name in ("brightness", "contrast", "sharpness")),
    ]
)


def rows(images: Sequence[np.ndarray], labels: Sequence[str]) -> pa.Table:
    """The catalog's rows of these images, all of them good."""
    made = []
    for pixels, label in zip(images, labels, strict=True):
        gray = pixels.astype(np.float64)
        inside = gray[1:-1, 1:-1]
        around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
        facts = {"brightness": gray.mean(), "contrast": gray.std(), "sharpness": np.abs(4 * inside - around).mean()}
        made.append({"label": label, "status": "ok", "width": gray.shape[1], "height": gray.shape[0], **facts})
    return pa.Table.from_pylist(made, schema=SCHEMA)


def quarantined(reasons: dict[str, int]) -> pa.Table:
    made = [
        {"status": "quarantined", "reason_code": reason.partition(":")[0], "reason": reason}
        for reason, count in reasons.items()
        for _ in range(count)
    ]
    return pa.Table.from_pylist(made, schema=SCHEMA)


def found(findings: Sequence[Finding]) -> list[str]:
    return [finding.name for finding in findings if finding.action != "ok"]


def by_name(findings: Sequence[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture(scope="module")
def cells() -> tuple[list[np.ndarray], list[str]]:
    """600 of ELPV's solar cells, in random order, and whether they are defective."""
    images, probability, _ = load_dataset()
    order = np.random.default_rng(0).permutation(len(images))[:600]
    return [images[k] for k in order], ["defective" if probability[k] > 0.5 else "functional" for k in order]


def test_the_same_images_and_more_of_the_same_pass(digits: Digits, cells: tuple[list[np.ndarray], list[str]]) -> None:
    for images, labels in (digits, cells):
        half = len(labels) // 2
        first, rest = summarise(rows(images[:half], labels[:half])), summarise(rows(images[half:], labels[half:]))
        assert found(check(first, first, ChecksConfig())) == []
        assert found(check(first + rest, first, ChecksConfig(), rest)) == []


def test_darker_images_are_found_with_their_means(cells: tuple[list[np.ndarray], list[str]]) -> None:
    images, labels = cells
    last = summarise(rows(images, labels))
    now = summarise(rows([(pixels * 0.8).astype(np.uint8) for pixels in images], labels))
    findings = check(now, last, ChecksConfig())
    assert "brightness" in found(findings)
    assert not {"images", "class share", "new classes", "size"} & set(found(findings))
    means = [np.mean([pixels.mean() * share for pixels in images]) for share in (1.0, 0.8)]
    detail = by_name(findings)["brightness"].detail
    assert f"{means[0]:.1f} gray levels before" in detail
    assert float(detail.split(", ")[1].split()[0]) == pytest.approx(means[1], abs=1)


def test_a_fault_that_began_tonight_shows_in_the_new_images_first(cells: tuple[list[np.ndarray], list[str]]) -> None:
    images, labels = cells
    last = summarise(rows(images[:560], labels[:560]))
    new = summarise(rows([pixels // 3 for pixels in images[560:]], labels[560:]))
    names = found(check(last + new, last, ChecksConfig(), new))
    assert "brightness of new images" in names
    assert "brightness" not in names


def test_blurred_and_smaller_images_are_found(cells: tuple[list[np.ndarray], list[str]]) -> None:
    images, labels = cells
    last = summarise(rows(images, labels))
    blurred = [(pixels[:-1].astype(int) + pixels[1:]).astype(np.uint16) // 2 for pixels in images]
    assert found(check(summarise(rows(blurred, labels)), last, ChecksConfig())) == ["sharpness"]
    cut = by_name(check(summarise(rows([p[:, :200] for p in images], labels)), last, ChecksConfig()))["size"]
    assert cut.action == "warn"
    assert cut.detail == "width: mean 300.0 px before, 200.0 now"


def test_a_class_that_vanishes_and_one_that_comes_are_named(digits: Digits) -> None:
    images, labels = digits
    keep = [k for k, label in enumerate(labels) if label != "3"]
    fewer, every = summarise(rows(images[keep], [labels[k] for k in keep])), summarise(rows(images, labels))
    gone = by_name(check(fewer, every, ChecksConfig()))["class share"]
    assert gone.action == "warn"
    assert "'3' 10.2% before, 0% now" in gone.found
    came = by_name(check(every, fewer, ChecksConfig()))["new classes"]
    assert (came.action, came.found) == ("warn", f"'3' ({labels.count('3')} images)")


def test_a_share_that_moves_is_found_unless_chance_explains_it(digits: Digits) -> None:
    images, labels = digits
    last = summarise(rows(images, labels))
    threes = [k for k, label in enumerate(labels) if label == "3"]
    half = np.setdiff1d(np.arange(len(labels)), threes[::2])
    now = summarise(rows(images[half], [labels[k] for k in half]))
    assert found(check(now, last, ChecksConfig())) == ["class share"]
    zeros = [0, *range(10), 10, 20]
    few, more = (summarise(rows(images[part], [labels[k] for k in part])) for part in (zeros, [*range(20)]))
    assert (few.share("0"), more.share("0")) == (pytest.approx(4 / 13), 0.1)
    assert found(check(more, few, ChecksConfig())) == []


def test_images_that_go_fail_the_night_where_the_file_says_so(digits: Digits) -> None:
    images, labels = digits
    every, most = summarise(rows(images, labels)), summarise(rows(images[:1500], labels[:1500]))
    config = ChecksConfig(images=ImagesCheck(drop=0.1, action="fail"))
    assert by_name(check(most, every, config))["images"].action == "fail"
    assert by_name(check(every, most, config))["images"].action == "ok"
    ignored = ChecksConfig(images=ImagesCheck(action="ignore"))
    assert "images" not in by_name(check(most, every, ignored))


def test_the_first_night_has_only_absolute_limits(digits: Digits) -> None:
    first = summarise(rows(*digits))
    assert check(first, None, ChecksConfig()) == ()
    config = ChecksConfig(images=ImagesCheck(minimum=2000), class_share=ClassShareCheck(minimum=0.15))
    assert found(check(first, None, config)) == ["images", "class share"]


def test_a_night_without_a_good_image_is_told_from_one_with(digits: Digits) -> None:
    empty = summarise(quarantined({"empty": 3}))
    last = summarise(rows(*digits))
    assert found(check(empty, last, ChecksConfig())) == ["images", "class share"]
    assert found(check(last, empty, ChecksConfig())) == ["new classes"]
    compare_nights(empty, None)
    compare_nights(empty, last, empty)


def test_parts_add_up_to_the_whole_and_survive_json(digits: Digits) -> None:
    table = pa.concat_tables([rows(*digits), quarantined({"truncated: 3 bytes": 2, "truncated: 7 bytes": 1})])
    whole, parts = summarise(table), Summary()
    for batch in table.to_batches(100):
        parts += summarise(batch)
    assert (parts.total, parts.ok, parts.reasons) == (1800, 1797, {"truncated": 3})
    assert parts.classes == whole.classes == {str(k): digits[1].count(str(k)) for k in range(10)}
    assert parts.examples == {"truncated": "truncated: 3 bytes"}
    for name in CATALOG_MEASURES:
        assert parts.histograms[name].counts == whole.histograms[name].counts
        assert parts.histograms[name].mean == pytest.approx(whole.histograms[name].mean)
    assert Summary.from_dict(json.loads(json.dumps(parts.to_dict()))) == parts


def test_quarantine_over_the_limit_fails_and_names_ten_reasons() -> None:
    reasons = [
        *("empty", "unsupported", "truncated", "too_large", "damaged", "over_time"),
        *("decoder_crashed", "blank", "too_small", "label_missing", "label_conflict", "file_missing"),
    ]
    summary = summarise(quarantined({f"{reason}: in the decoder's words": 20 - k for k, reason in enumerate(reasons)}))
    with pytest.raises(DataCheckError) as raised:
        check_quarantine(summary, 0.2)
    text = str(raised.value)
    assert "174 of 174 images (100%)" in text
    assert "quarantine_limit: 0.2" in text
    named = [reason for k, reason in enumerate(reasons) if f"{reason} {20 - k}" in text]
    assert named == reasons[:10]
    check_quarantine(summary, 1.0)


def test_the_settings_are_read_as_they_stand_in_a_file() -> None:
    adapter = TypeAdapter(ChecksConfig)
    config = adapter.validate_python({"brightness": {"change": 0.3}, "new_classes": {"action": "fail"}})
    assert config.brightness == DistributionCheck(0.3, "warn")
    assert config.new_classes.action == "fail"
    assert config.size == DistributionCheck()
    for wrong in ({"brightnes": {}}, {"size": {"limit": 1}}, {"size": {"change": 2}}, {"size": {"action": "stop"}}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
