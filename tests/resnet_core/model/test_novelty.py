"""Novelty: distances and p-values by hand, and a file that says what it does not fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from resnet_core.evaluation.novelty import find_novelty
from resnet_core.inference.scores import PREDICTED, predictions
from resnet_core.inference.single import predict_images
from resnet_core.model.calibration import Calibration
from resnet_core.model.classifier import Classifier
from resnet_core.model.novelty import NOVELTY, Novelty, load_novelty
from resnet_core.model.resnet import build
from tests.resnet_core.model.test_classifier import a_classifier


def some(held_out: list[float], level: float = 0.3) -> Novelty:
    """Two classes 10 apart in the first of two last features, which counts half; one early feature."""
    return Novelty(
        level,
        centre=torch.tensor([0.0, 0.0, 7.0]),
        directions=torch.tensor([[0.5], [0.0]]),
        means=torch.tensor([[-2.5], [2.5]]),
        shrunk=torch.tensor([0.2]),
        early=torch.tensor([[2.0]]),
        early_means=torch.tensor([[0.0], [1.0]]),
        scale=torch.tensor([1.0, 2.0, 0.0, 4.0]),
        held_out=np.array(held_out, np.float32),
    )


def test_the_distance_is_that_among_classes_and_that_in_early_layers_each_in_its_unit() -> None:
    features = torch.tensor([[5.0, 9.0, 7.0], [0.0, 0.0, 7.0], [-5.0, 0.0, 9.0], [20.0, 0.0, 6.0]])
    # To the nearest class, squared, less a fifth of the square from the centre; then from the early means.
    near = np.array([0 - 0.2 * 2.5**2, 2.5**2, 0 - 0.2 * 2.5**2, 7.5**2 - 0.2 * 10**2])
    early = np.array([0, 0, 9, 4])  # 2 * (9 - 7) is 4, and 3 from the nearest mean; -2 is 2 from it
    np.testing.assert_allclose(some([]).distances(features), (near - 1) / 2 + early / 4, atol=1e-5)


def test_a_p_value_is_the_share_of_held_out_images_at_least_as_far() -> None:
    kept = some([1, 2, 2, 5], level=0.4)
    p_values = kept.p_values(np.array([0, 1, 1.5, 2, 4.9, 5, 9], np.float32))
    np.testing.assert_allclose(p_values, [1, 1, 0.8, 0.8, 0.4, 0.4, 0.2])
    assert kept.is_unknown(p_values).tolist() == [False] * 6 + [True]  # below the level, not at it
    assert kept.depth == 1


def test_ranks_among_other_arithmetics_distances_become_our_own() -> None:
    kept, others = some([1, 2, 2, 5]), np.array([10, 20, 30, 50], np.float32)
    found = kept.translated(np.array([0, 10, 15, 20, 30, 40, 50, 51], np.float32), others)
    np.testing.assert_allclose(found, [1, 1, 1.5, 2, 2, 3.5, 5, 6])
    np.testing.assert_allclose(kept.p_values(found), [1, 1, 0.8, 0.8, 0.8, 0.4, 0.4, 0.2])


@pytest.mark.parametrize(("held_out", "level", "depth"), [(18, 0.05, 0), (19, 0.05, 0), (20, 0.05, 1), (99, 0.05, 4)])
def test_with_too_few_held_out_images_nothing_is_unknown(held_out: int, level: float, depth: int) -> None:
    kept = some(list(range(held_out)), level)
    assert kept.depth == depth
    assert kept.is_unknown(kept.p_values(np.array([1e6], np.float32))).tolist() == [depth > 0]


def a_judge(photograph: Image.Image, level: float = 0.2) -> tuple[Classifier, np.ndarray]:
    """A classifier that has seen parts of a photograph, and other parts of it."""
    ours = a_classifier()
    gray = np.asarray(photograph.convert("L"))
    pixels = np.stack([gray[9 * k : 9 * k + 16, 7 * k : 7 * k + 16] for k in range(50)])
    features = torch.from_numpy(ours.features(pixels[:40]))
    kept = find_novelty(features.numpy(), np.arange(40) % 3, ours.network.at(16).fc.in_features, level)
    assert kept is not None
    ranked = replace(kept, held_out=np.sort(kept.distances(features).numpy()))
    return replace(ours, novelty=ranked), pixels


def test_the_file_is_read_as_it_was_written_and_one_of_another_network_is_refused(
    photograph: Image.Image, tmp_path: Path
) -> None:
    ours, pixels = a_judge(photograph)
    ours.save(tmp_path)
    again = Classifier.load(tmp_path, "cpu")
    for one, other in zip(ours.answer(pixels), again.answer(pixels), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.novelty is not None
    assert again.novelty.level == 0.2
    first = (tmp_path / NOVELTY).read_bytes()
    ours.save(tmp_path)
    assert (tmp_path / NOVELTY).read_bytes() == first
    assert ours.novelty is not None
    for wrong in (some([1, 2]), replace(ours.novelty, means=ours.novelty.means * float("nan"))):
        wrong.save(tmp_path)
        with pytest.raises(ValueError, match=r"novelty\.safetensors does not fit the network, which has 128 and 48 f"):
            load_novelty(tmp_path, *build(ours.config, size=16, classes=3).described())
    save_file({"means": torch.zeros(2, 2)}, tmp_path / NOVELTY)
    with pytest.raises(ValueError, match="does not fit the network"):
        Classifier.load(tmp_path, "cpu")
    (tmp_path / NOVELTY).unlink()
    assert Classifier.load(tmp_path, "cpu").novelty is None


def test_rows_say_what_is_unknown_and_why_it_needs_a_look(photograph: Image.Image) -> None:
    ours, pixels = a_judge(photograph)
    probabilities, distances = ours.answer(pixels)
    assert distances is not None
    distances[40:] = 1e6
    rows = predictions(ours, probabilities, distances).to_pandas()
    assert rows["unknown"].tolist() == (rows["novelty"] < 0.2).tolist()
    assert rows["unknown"][:40].sum() == 7  # 8 of 41 ranks are below 0.2, and one is that of a new image
    assert rows["unknown"][40:].all()
    assert rows["needs_review"].equals(rows["unknown"])  # a version without sets
    assert set(rows["review_reason"][rows["unknown"]]) == {"unknown"}
    assert rows["review_reason"][~rows["unknown"]].isna().all()
    np.testing.assert_allclose(rows["distance"], distances)

    sets = replace(ours, calibration=Calibration(threshold=0.9, weights=(1.0, 0.001, 0.001)))
    rows = predictions(sets, probabilities, distances).to_pandas()
    several = rows["prediction_set"].str.len() != 1
    moved = np.array([label != top[0] for label, top in zip(rows["label"], rows["top_labels"], strict=True)])
    assert rows["needs_review"].tolist() == (several | rows["unknown"]).tolist()
    marks = zip(rows["unknown"], several, moved & rows["needs_review"], strict=True)
    wanted = [
        ", ".join(n for n, m in zip(("unknown", "set", "cost"), mark, strict=True) if m) or None for mark in marks
    ]
    assert rows["review_reason"].where(rows["needs_review"], None).tolist() == wanted
    assert {"unknown, set, cost", "set", "set, cost"} & set(wanted)
    assert ours.novelty is not None
    stern = replace(sets, novelty=replace(ours.novelty, held_out=np.full(9, -1e6, np.float32)))
    alone = predict_images(stern, list(pixels[:5]))
    assert [(each.unknown, each.novelty) for each in alone] == [(True, pytest.approx(0.1))] * 5
    assert [each.review_reason for each in alone] == [
        ", ".join(["unknown", *([] if reason in (None, "unknown") else [reason.removeprefix("unknown, ")])])
        for reason in wanted[:5]
    ]


def test_a_version_without_has_null_columns(photograph: Image.Image) -> None:
    ours, pixels = a_judge(photograph)
    plain = replace(ours, novelty=None)
    probabilities, distances = plain.answer(pixels)
    assert distances is None
    rows = predictions(plain, probabilities)
    assert rows.schema == PREDICTED
    for name in ("novelty", "unknown", "distance", "needs_review", "review_reason"):
        assert rows[name].null_count == len(rows)
    # And an engine without features: the version could, the engine cannot.
    assert predictions(ours, probabilities)["unknown"].null_count == len(rows)
