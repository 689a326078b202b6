"""Answers are kept with a version as they are, unreadable without the key where images are confidential."""

from pathlib import Path

import numpy as np
import pytest

from resnet_core.inference.answers import ANSWERS, Answers, NoAnswersError, how_many, load_answers, save_answers
from resnet_core.shards.encryption import Keys, parse_keys

CLASSES = ("a", "b", "c")
IDS = [f"{k:064x}" for k in range(5)]


@pytest.fixture
def answers() -> Answers:
    drawn = np.random.default_rng(0)
    shares = drawn.random((5, 3), np.float32)
    return Answers(drawn.integers(0, 256, (5, 16, 16), np.uint8), shares / shares.sum(1, keepdims=True))


@pytest.fixture
def keys() -> Keys:
    return parse_keys("k = " + "A" * 43 + "=")


def test_they_come_back_to_the_bit(answers: Answers, tmp_path: Path) -> None:
    save_answers(tmp_path, IDS, answers, CLASSES, None)
    again = load_answers(tmp_path, CLASSES, 16, None)
    np.testing.assert_array_equal(again.pixels, answers.pixels)
    np.testing.assert_array_equal(again.probabilities, answers.probabilities)


def test_confidential_pixels_are_nowhere_in_the_clear(answers: Answers, keys: Keys, tmp_path: Path) -> None:
    save_answers(tmp_path, IDS, answers, CLASSES, None)
    plain = (tmp_path / ANSWERS).read_bytes()
    save_answers(tmp_path, IDS, answers, CLASSES, keys)
    secret = (tmp_path / ANSWERS).read_bytes()
    for clear in (answers.pixels[0].tobytes(), IDS[4].encode(), b"image_id"):
        assert clear in plain
        assert clear not in secret
    np.testing.assert_array_equal(load_answers(tmp_path, CLASSES, 16, keys).pixels, answers.pixels)
    with pytest.raises(NoAnswersError, match=r"cannot be read \(.*is encrypted.*GRAYLINE_KEY"):
        load_answers(tmp_path, CLASSES, 16, None)


def test_answers_that_cannot_be_used_say_why(answers: Answers, tmp_path: Path) -> None:
    with pytest.raises(NoAnswersError, match="no answers were kept with it"):
        load_answers(tmp_path, CLASSES, 16, None)
    save_answers(tmp_path, IDS, answers, CLASSES, None)
    for classes, size in ((("a", "c", "b"), 16), (("a", "b"), 16), (CLASSES, 8)):
        with pytest.raises(NoAnswersError, match="of other classes, or of images of another size"):
            load_answers(tmp_path, classes, size, None)
    whole = (tmp_path / ANSWERS).read_bytes()
    for damaged in (b"", whole[:-9], b"PAR1" + bytes(40) + whole[-8:]):
        (tmp_path / ANSWERS).write_bytes(damaged)
        with pytest.raises(NoAnswersError, match="are damaged"):
            load_answers(tmp_path, CLASSES, 16, None)
    for spoiled in (answers.some(0), Answers(answers.pixels, np.full_like(answers.probabilities, np.nan))):
        save_answers(tmp_path, IDS[: len(spoiled)], spoiled, CLASSES, None)
        with pytest.raises(NoAnswersError, match="are empty, or are not numbers"):
            load_answers(tmp_path, CLASSES, 16, None)


def test_what_counts_as_another_decision(answers: Answers) -> None:
    own, decided = answers.probabilities, lambda found: found.argmax(1)
    assert answers.differing(lambda pixels: own * np.float32(0.5), decided) == 0
    turned = own.copy()
    turned[3] = np.roll(own[3], 1)
    turned[4, own[4].argmin()] = np.nan
    assert answers.differing(lambda pixels: turned, decided) == 2
    assert answers.differing(lambda pixels: own[:, :2], decided) == 5


def test_a_sample_is_spread_over_all(answers: Answers) -> None:
    some = answers.some(3)
    np.testing.assert_array_equal(some.probabilities, answers.probabilities[[0, 2, 4]])
    assert len(answers.some(512)) == 5


def test_large_images_are_fewer() -> None:
    assert [how_many(size) for size in (8, 96, 181, 224, 512)] == [512, 512, 512, 334, 128]
