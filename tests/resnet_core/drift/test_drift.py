"""Drift: what changed is found and named, what did not change is left alone, and the tests are the textbooks'."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import chi2_contingency, ks_2samp

from resnet_core.drift.checks import ChecksConfig, check
from resnet_core.drift.drift import (
    LEAST,
    Drift,
    Thresholds,
    discrepancy,
    estimates,
    gaussian_kernel,
    in_tenths,
    measure_drift,
    same_shares,
    stability_index,
)
from resnet_core.drift.reference import Reference, load_reference
from resnet_core.drift.summary import SCORE_MEASURES, Summary, summarise
from resnet_core.images.statistics import measure
from resnet_core.plotting.drift_plots import compare_batch

Digits = tuple[np.ndarray, list[str]]
Pixels = NDArray[np.uint8]


def rows(
    digits: Digits, places: NDArray[np.int64], change: Callable[[Pixels], Pixels] = lambda pixels: pixels
) -> pa.Table:
    """Return a batch's rows of these digits, by a model without errors; its confidence is the image's ink."""
    pixels, labels = change(digits[0][places]), np.array(digits[1])[places]
    brightness, contrast, sharpness = measure(pixels)
    return pa.table(
        {
            "label": pa.array(labels, pa.string()),
            "needs_review": pa.array(brightness < 60),
            "confidence": pa.array(brightness / 256, pa.float32()),
            "brightness": pa.array(brightness, pa.float32()),
            "contrast": pa.array(contrast, pa.float32()),
            "sharpness": pa.array(sharpness, pa.float32()),
        }
    )


def halves(digits: Digits, seed: int = 0, most: int = 10_000) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = np.random.default_rng(seed).permutation(len(digits[1]))
    return order[:900], order[900:][:most]


def vectors(digits: Digits, places: NDArray[np.int64]) -> NDArray[np.float32]:
    return digits[0][places].reshape(len(places), -1).astype(np.float32)


def drifted(found: tuple[Drift, ...]) -> list[str]:
    return [each.measure for each in found if each.drifted]


def test_the_summaries_of_parts_add_up_to_that_of_the_whole_and_last(digits: Digits) -> None:
    whole = rows(digits, np.arange(1000))
    total = summarise(whole)
    parts = sum((summarise(whole.slice(start, 130)) for start in range(0, 1000, 130)), Summary())
    assert parts.classes == total.classes
    assert (
        parts.reviews
        == total.reviews
        == (sum(whole["needs_review"].to_pylist()), 1000 - sum(whole["needs_review"].to_pylist()))
    )
    for name in SCORE_MEASURES:
        assert parts.histograms[name].counts == total.histograms[name].counts
        assert parts.histograms[name].sum == pytest.approx(total.histograms[name].sum)
    assert Summary.from_dict(json.loads(json.dumps(total.to_dict()))) == total


def test_rows_without_a_value_and_columns_that_are_missing_count_nothing(digits: Digits) -> None:
    table = rows(digits, np.arange(200))
    holes = table.set_column(2, "confidence", pa.array([None, *table["confidence"].to_pylist()[1:]], pa.float32()))
    found = summarise(holes.drop_columns(["needs_review"]))
    assert (found.labelled, found.reviews, found.histograms["confidence"].count) == (200, (0, 0), 199)
    assert measure_drift(Summary(), summarise(table), Thresholds()) == ()


def test_the_same_kind_of_images_is_never_drift(digits: Digits) -> None:
    """No batch of 60, of 100 to 800 images, drifts. Its p is as small as chance makes it, and not smaller."""
    found: list[Drift] = []
    for seed in range(60):
        before, now = halves(digits, seed, most=100 + 12 * seed)
        pair = (vectors(digits, before[:120]), vectors(digits, now[:120])) if seed < 20 else None
        found += measure_drift(summarise(rows(digits, before)), summarise(rows(digits, now)), Thresholds(), pair)
    assert drifted(tuple(found)) == []
    assert {each.measure for each in found} == {"label", "review", "embedding", *SCORE_MEASURES}
    for name in {each.measure for each in found}:
        p = np.array([each.p for each in found if each.measure == name])
        assert (p < 0.05).mean() <= 0.16, name
        assert p.max() > 0.5, name


def blurred(pixels: Pixels) -> Pixels:
    return np.stack([gaussian_filter(image, 0.7) for image in pixels])


@pytest.mark.parametrize(
    ("change", "keep", "expected", "untouched"),
    [
        (lambda x: (x * 0.7).astype(np.uint8), None, {"brightness", "contrast"}, {"label"}),
        (blurred, None, {"sharpness", "contrast"}, {"label", "brightness", "review"}),
        (lambda x: x, "147", {"label"}, set()),
    ],
)
def test_what_a_change_touches_is_found_and_nothing_else(
    digits: Digits, change: Callable[[Pixels], Pixels], keep: str | None, expected: set[str], untouched: set[str]
) -> None:
    before, now = halves(digits)
    if keep:
        now = now[[digits[1][k] in keep for k in now]]
    found = measure_drift(summarise(rows(digits, before)), summarise(rows(digits, now, change)), Thresholds())
    assert expected <= set(drifted(found))
    assert not untouched & set(drifted(found))


def test_a_line_says_what_moved_in_the_measures_own_terms(digits: Digits) -> None:
    before, now = halves(digits)
    few = now[[digits[1][k] != "8" for k in now]]
    one = summarise(rows(digits, before))
    found = {each.measure: each for each in measure_drift(one, summarise(rows(digits, few)), Thresholds(label=0.05))}
    share = 100 * one.classes["8"] / one.labelled
    assert f"'8' {share:.3g}% in training, 0% now" in found["label"].detail
    assert found["label"].drifted
    assert f"mean {one.histograms['brightness'].mean:.1f} gray levels in training, " in found["brightness"].detail
    assert str(found["label"]).startswith(f"label: PSI {found['label'].distance:.2f}, over 0.05 ('8' ")


def test_a_class_that_is_new_is_named(digits: Digits) -> None:
    before, now = halves(digits)
    known = before[[digits[1][k] != "0" for k in before]]
    found = measure_drift(summarise(rows(digits, known)), summarise(rows(digits, now)), Thresholds())
    assert "label" in drifted(found)
    assert found[0].detail.startswith("'0' 0% in training, ")


def test_few_images_say_nothing_and_a_threshold_of_none_never_speaks(digits: Digits) -> None:
    before, now = halves(digits)
    one, other = summarise(rows(digits, before)), rows(digits, now, lambda x: x // 2)
    assert measure_drift(one, summarise(other.slice(0, LEAST - 1)), Thresholds()) == ()
    loud = measure_drift(one, summarise(other), Thresholds())
    assert "brightness" in drifted(loud)
    still = measure_drift(one, summarise(other), Thresholds(brightness=None))
    assert set(drifted(loud)) - set(drifted(still)) == {"brightness"}
    assert [each.distance for each in still] == [each.distance for each in loud]


def test_far_by_chance_alone_is_no_drift() -> None:
    """A threshold of 0 is passed by everything; only what chance does not make counts."""
    rng, nothing = np.random.default_rng(0), Thresholds(*([0.0] * 7))
    flagged = 0
    for _ in range(100):
        one, other = (summarise(pa.table({"label": pa.array(rng.choice(list("abcd"), n))})) for n in (400, 150))
        (found,) = measure_drift(one, other, nothing)
        assert found.distance > 0
        flagged += found.drifted
    assert flagged <= 2


def test_the_distance_on_bins_is_that_of_the_values_or_a_little_less(digits: Digits) -> None:
    before, now = (
        rows(digits, places, change)
        for places, change in zip(halves(digits), (lambda x: x, lambda x: x // 2 + 30), strict=True)
    )
    for each in measure_drift(summarise(before), summarise(now), Thresholds()):
        if each.measure in SCORE_MEASURES:
            exact = ks_2samp(before[each.measure].to_numpy(), now[each.measure].to_numpy())
            assert exact.statistic - 0.06 < each.distance <= exact.statistic + 1e-9


def test_the_tests_of_shares_are_pearsons_and_where_counts_are_small_the_exact_one() -> None:
    before, now = np.array([300, 200, 500]), np.array([40, 10, 50])
    assert same_shares(before, now) == pytest.approx(chi2_contingency([before, now], correction=False).pvalue)
    small, other = np.array([40, 3, 2, 0, 1]), np.array([30, 0, 3, 4, 0])
    exact = chi2_contingency([small, other], correction=False).pvalue
    assert same_shares(small, other) == pytest.approx(exact, abs=0.05)
    assert same_shares(np.array([10**9, 3]), np.array([10**9, 10**8])) < 1e-6
    assert same_shares(np.array([5, 0]), np.array([7, 0])) == 1.0


def test_sparse_shares_are_significant_no_more_often_than_chance_makes_them() -> None:
    rng = np.random.default_rng(0)
    p = np.array(
        [same_shares(rng.multinomial(120, [1 / 60] * 60), rng.multinomial(100, [1 / 60] * 60)) for _ in range(80)]
    )
    assert (p < 0.05).mean() < 0.15
    assert 0.3 < np.median(p) < 0.7


def test_the_stability_index_is_the_textbooks() -> None:
    before, now = np.array([25_000, 75_000]), np.array([45_000, 55_000])
    assert stability_index(before, now) == pytest.approx(
        0.2 * np.log(0.45 / 0.25) - 0.2 * np.log(0.55 / 0.75), abs=1e-3
    )
    assert stability_index(before, 3 * before) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(stability_index(np.array([5, 0]), np.array([0, 5])))
    tenths, others = in_tenths(np.full(200, 50), np.arange(200))
    assert tenths.tolist() == [1000] * 10
    assert others.sum() == np.arange(200).sum()
    assert in_tenths(np.array([0, 1000, 0]), np.array([3, 4, 5]))[0].sum() == 1000


def test_half_a_standard_deviation_is_the_default_threshold_of_both_measures() -> None:
    rng = np.random.default_rng(0)
    one, other = (
        summarise(pa.table({"brightness": pa.array(rng.normal(mean, 20, 200_000), pa.float32())}))
        for mean in (100, 110)
    )
    (found,) = measure_drift(one, other, Thresholds())
    assert found.distance == pytest.approx(Thresholds().brightness, abs=0.02)
    assert found.psi == pytest.approx(0.25, abs=0.05)


def test_the_discrepancy_is_the_unbiased_one_and_sees_what_no_mean_shows() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(40, 3)), rng.normal(0.5, 1, size=(30, 3))
    kernel = gaussian_kernel(np.concatenate([one, other]).astype(np.float32)).astype(np.float64)
    xx, yy, xy = kernel[:40, :40], kernel[40:, 40:], kernel[:40, 40:]
    by_hand = xx.sum() / (40 * 39) + yy.sum() / (30 * 29) - 2 * xy.mean()
    first = np.repeat([1, 0], [40, 30]).astype(np.float32)[:, None]
    assert estimates(kernel.astype(np.float32), first)[0] == pytest.approx(by_hand, abs=1e-6)
    assert discrepancy(one, other)[0] == pytest.approx(max(by_hand, 0) ** 0.5, abs=1e-5)
    two_heaps = rng.choice([-1, 1], (400, 1)) + rng.normal(0, 0.1, (400, 1))
    distance, p = discrepancy(two_heaps, rng.normal(0, 1.005, (400, 1)))  # of the same mean and variance
    assert distance > 0.1
    assert p < 0.001
    assert discrepancy(np.ones((5, 2)), np.ones((6, 2)))[0] == 0.0


def test_what_a_reference_holds_comes_back(digits: Digits, tmp_path: Path) -> None:
    embeddings = vectors(digits, np.arange(50))
    kept = Reference(summarise(rows(digits, np.arange(300))), Thresholds(label=0.3, embedding=None), embeddings)
    assert load_reference(tmp_path) is None
    kept.save(tmp_path)
    found = load_reference(tmp_path)
    assert found is not None
    assert (found.summary, found.thresholds) == (kept.summary, kept.thresholds)
    np.testing.assert_array_equal(found.embeddings, embeddings)
    content = json.loads((tmp_path / "reference.json").read_text())
    content["thresholds"] = {"label": 0.3, "of a later release": 1}
    content["histograms"]["brightness"]["counts"].pop()  # other bins
    (tmp_path / "reference.json").write_text(json.dumps(content))
    (tmp_path / "reference.safetensors").unlink()
    found = load_reference(tmp_path)
    assert found is not None
    assert found.thresholds == Thresholds(label=0.3)
    assert found.embeddings is None
    assert found.summary.histograms["brightness"].count == 0
    measures = [each.measure for each in measure_drift(found.summary, kept.summary, found.thresholds)]
    assert measures == ["label", "review", "confidence", "contrast", "sharpness"]


def test_a_reference_and_a_nights_summary_of_older_code_are_read(digits: Digits, tmp_path: Path) -> None:
    summary = summarise(rows(digits, np.arange(300)))
    histograms = {name: asdict(summary.histograms[name]) for name in SCORE_MEASURES}
    before = {"labels": dict(summary.classes), "reviews": list(summary.reviews), "histograms": histograms}
    (tmp_path / "reference.json").write_text(json.dumps({"thresholds": {"label": 0.3}, **before}))
    reference = load_reference(tmp_path)
    assert reference is not None
    assert replace(reference.summary, total=300, ok=300) == summary
    night = {"total": 300, "ok": 300, "classes": summary.classes, "reasons": {}, "examples": {}}
    night |= {"histograms": {name: histogram for name, histogram in histograms.items() if name != "confidence"}}
    assert check(Summary.from_dict(night), summary, ChecksConfig()) == check(summary, summary, ChecksConfig())


def test_the_figure_marks_what_drifted_and_bears_any_name(digits: Digits) -> None:
    before, now = halves(digits)
    one, other = rows(digits, before), rows(digits, now, lambda x: x // 2)
    odd = other.set_column(0, "label", pa.array([f"$x^{k}$ \u7f3a" for k in range(30)] * 30)[: len(other)])
    pair = (vectors(digits, before), vectors(digits, now) / 2)
    found = measure_drift(summarise(one), summarise(odd), Thresholds(), (pair[0][:100], pair[1][:100]))
    figure = compare_batch(summarise(one), summarise(odd), found, pair)
    figure.draw_without_rendering()
    titles = {axes.get_title().partition(":")[0]: axes for axes in figure.axes}
    assert set(titles) == {"label", "embedding", *SCORE_MEASURES}
    assert {name for name, axes in titles.items() if axes.get_title().endswith(", drift")} == set(drifted(found)) - {
        "review"
    }
