"""Label issues: planted errors are found, and a label that says itself that it may be wrong is left alone."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from resnet_core.evaluation.label_issues import find

Digits = tuple[np.ndarray, list[str]]


def shares(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[labels]


@pytest.fixture(scope="module")
def planted(digits: Digits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """900 digits of which 45 have another label, what has been predicted of each without it, and which 45."""
    images, labels = digits[0][:900].reshape(900, -1) / 255, np.array(digits[1][:900], dtype=np.int64)
    rng = np.random.default_rng(0)
    wrong = np.zeros(900, dtype=bool)
    wrong[rng.choice(900, 45, replace=False)] = True
    given = np.where(wrong, (labels + rng.integers(1, 10, 900)) % 10, labels)
    model = LogisticRegression(max_iter=300)
    return given, cross_val_predict(model, images, given, method="predict_proba").astype(np.float32), wrong


def test_planted_errors_are_found_with_what_they_were(planted: tuple[np.ndarray, ...], digits: Digits) -> None:
    given, probabilities, wrong = planted
    found = find(given, shares(given, 10), probabilities)
    assert wrong[found.rows].sum() >= 0.8 * wrong.sum()
    assert wrong[found.rows].mean() >= 0.5
    caught = found.rows[wrong[found.rows]]
    right = np.array(digits[1][:900], dtype=np.int64)
    assert (found.suggested[wrong[found.rows]] == right[caught]).mean() > 0.9
    assert wrong[found.rows[:20]].mean() > wrong[found.rows].mean() - 1e-9  # the worst come first
    assert (found.suggested != given[found.rows]).all()
    np.testing.assert_allclose(found.self_confidence, probabilities[found.rows, given[found.rows]])


def test_a_soft_label_is_an_issue_only_beyond_what_it_names(planted: tuple[np.ndarray, ...]) -> None:
    given, probabilities, wrong = planted
    targets = shares(given, 10)
    issues = set(find(given, targets, probabilities).rows)
    best = probabilities.argmax(1)
    row = next(k for k in np.flatnonzero(wrong) if k in issues and probabilities[k].max() > 0.95)

    third = next(k for k in range(10) if k not in (given[row], best[row]))
    other = targets.copy()
    other[row] = 0
    other[row, given[row]], other[row, third] = 0.6, 0.4
    assert row in find(given, other, probabilities).rows

    named = targets.copy()
    named[row, given[row]], named[row, best[row]] = 0.6, 0.4
    assert row not in find(given, named, probabilities).rows

    torn = probabilities.copy()
    torn[row] = 0.02
    torn[row, best[row]] = 0.82 - 0.4
    torn[row, given[row]] = 0.4
    assert row not in find(given, other, torn).rows


@pytest.mark.parametrize("classes", [2, 10])
def test_labels_that_nothing_contradicts_are_no_issues(classes: int) -> None:
    labels = np.arange(60) % classes
    sure = np.full((60, classes), 0.1 / (classes - 1), dtype=np.float32)
    sure[np.arange(60), labels] = 0.9
    assert len(find(labels, shares(labels, classes), sure).rows) == 0
    one = np.zeros(60, dtype=np.int64)
    assert len(find(one, shares(one, classes), sure).rows) == 0
