"""The queue: what is unsure or unknown comes in, and nothing twice."""

from dataclasses import replace

import numpy as np

from resnet_core.explain.queue import NEAR, Pool, choose, novel, unit

RNG = np.random.default_rng(0)


def pool(count: int = 400, unknown: int = 0, taken: int = 0) -> Pool:
    """Two classes along the first axis, of which the middle is unsure; unknown images lie elsewhere."""
    features = RNG.normal(size=(count, 16)).astype(np.float32)
    share = 1 / (1 + np.exp(-4 * features[:, 0]))
    far = np.arange(count) < unknown
    features[far] += 8 * np.eye(16, dtype=np.float32)[1]
    probabilities = np.stack([share, 1 - share], 1).astype(np.float32)
    marked = np.arange(count) >= count - taken
    return Pool(probabilities, features, far, np.where(far, features[:, 1], 0).astype(np.float32), marked)


def rows(found: list[tuple[int, str]], why: str) -> list[int]:
    return [row for row, said in found if said == why]


def test_unsure_images_are_chosen_much_more_often_than_sure_ones() -> None:
    images = pool()
    chosen = [row for row, _ in choose(images, 60, 1)]
    assert len(set(chosen)) == 60
    confidence = images.probabilities.max(1)
    assert confidence[chosen].mean() < confidence.mean() - 0.1
    assert choose(images, 60, 1) == choose(images, 60, 1)


def test_a_third_at_most_are_unknown_unless_all_are() -> None:
    images = pool(unknown=100)
    assert len(rows(choose(images, 60, 1), "unknown")) == 6
    assert len(rows(choose(images, 60, 1, novel=11), "unknown")) == 11
    found = choose(images, 60, 1, novel=100)
    assert len(rows(found, "unknown")) == 20
    assert len(rows(found, "unsure")) == 40
    assert not images.unknown[rows(found, "unsure")].any()
    assert rows(found, "unknown")[0] == int(images.distances.argmax())
    few = choose(pool(unknown=5), 60, 1, novel=5)
    assert len(rows(few, "unknown")) == 5
    assert len(few) == 60
    assert len(rows(choose(pool(60, unknown=30, taken=25), 30, 1), "unknown")) == 25  # nothing else is left
    everything = pool(50, unknown=50)
    assert len(rows(choose(everything, 30, 1), "unknown")) == 30


def test_images_are_novel_beyond_chance() -> None:
    """451 held-out images, 1,797 scored: 36 farther than all of them are not chance, and 4 are."""
    first = 1 / 452
    assert novel(np.array([first] * 40 + [0.04] * 40, np.float32), 1797) == 40
    assert novel(np.array([first] * 4 + [0.02] * 32 + [0.04] * 40, np.float32), 1797) == 0
    assert novel(np.array([0.01] * 9723, np.float32), 10_000) == 9723
    assert novel(np.empty(0, np.float32), 100) == 0


def test_a_tenth_tells_of_a_drift_in_its_order_and_never_twice() -> None:
    images = replace(pool(unknown=20, taken=5), drifted=(399, 30, 0, 7, 200, 201, 202, 203, 204, 205))
    found = choose(images, 60, 1, novel=20)
    assert len(found) == len({row for row, _ in found}) == 60
    assert rows(found, "drift") == [30, 0, 7, 200, 201, 202]  # 399 is there already
    assert len(rows(found, "unknown")) == 18
    everything = replace(pool(50, unknown=50), drifted=(3, 5, 8, 9))  # a camera that is darker: all are unknown
    found = choose(everything, 30, 1)
    assert rows(found, "drift") == [3, 5, 8]
    assert len(rows(found, "unknown")) == 27
    assert rows(choose(replace(pool(), drifted=(3, 5, 8)), 11, 1), "drift") == [3, 5]  # a tenth, rounded up


def test_no_two_are_near_duplicates_nor_like_an_image_that_is_there_already() -> None:
    original = pool(60, unknown=20)
    copies = [original.features + RNG.normal(0, 1e-3, original.features.shape).astype(np.float32) for _ in range(4)]
    features = np.concatenate([original.features, *copies])
    images = Pool(
        np.tile(original.probabilities, (5, 1)), features, np.tile(original.unknown, 5),
        np.tile(original.distances, 5), np.arange(300) >= 290,
    )  # fmt: skip
    chosen = [row for row, _ in choose(images, 200, 1)]
    assert len(chosen) <= 60 - 10
    directions = unit(features - features.mean(0))
    every = [*chosen, *range(290, 300)]
    likeness = directions[every] @ directions[every].T - np.eye(len(every)) * 2
    assert likeness.max() < NEAR


def test_a_pool_may_be_empty_or_all_taken() -> None:
    empty = Pool(np.empty((0, 2), np.float32), np.empty((0, 0), np.float32), np.empty(0, bool), np.empty(0, np.float32),
                 np.empty(0, bool))  # fmt: skip
    assert choose(empty, 5, 1) == []
    assert choose(pool(10, taken=10), 5, 1) == []
    assert choose(pool(10), 0, 1) == []
