"""Nearest training images: those of all of them, however they come; the same sample of very many."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest

from resnet_core.explain.neighbours import embed, nearest, sampled
from resnet_core.model.classifier import Classifier
from resnet_core.shards.format import Images
from tests.resnet_core.explain.test_heat import classifier as made

Digits = tuple[np.ndarray, list[str]]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return made(size=8)


@pytest.fixture(scope="module")
def known(digits: Digits) -> Images:
    pixels = digits[0][:150]
    ids = np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in pixels], dtype=object)
    return Images(ids, np.array(digits[1][:150], dtype=np.int64), np.ones(150, np.float32), pixels)


def cut(images: Images, size: int) -> Iterator[Images]:
    for k in range(0, len(images), size):
        some = slice(k, k + size)
        yield Images(images.image_ids[some], images.labels[some], images.weights[some], images.pixels[some])


@pytest.mark.parametrize("size", [2, 40, 150])
def test_they_are_the_most_alike_of_all(classifier: Classifier, known: Images, digits: Digits, size: int) -> None:
    queries = digits[0][200:206]
    found = nearest(classifier, queries, cut(known, size), 4)
    similarity = embed(classifier, queries) @ embed(classifier, known.pixels).T
    for row, neighbours in enumerate(found):
        wanted = np.argsort(-similarity[row])[:4]
        np.testing.assert_allclose([one.similarity for one in neighbours], similarity[row, wanted], atol=1e-5)
        for one in neighbours:
            (place,) = np.flatnonzero(known.image_ids == one.image_id)
            assert one.similarity == pytest.approx(similarity[row, place], abs=1e-5)
            assert one.label == known.labels[place]
            np.testing.assert_array_equal(one.pixels, known.pixels[place])


def test_an_image_is_most_like_itself(classifier: Classifier, known: Images) -> None:
    found = nearest(classifier, known.pixels[:5], cut(known, 64), 1)
    assert [one.image_id for (one,) in found] == list(known.image_ids[:5])
    assert all(one.similarity == pytest.approx(1, abs=1e-5) for (one,) in found)


def test_no_questions_no_work(classifier: Classifier) -> None:
    def never() -> Iterator[Images]:
        raise AssertionError("the training images are not to be gone through")
        yield

    assert nearest(classifier, np.empty((0, 8, 8), np.uint8), never(), 3) == []


def test_of_very_many_a_sample_is_taken_the_same_every_time(known: Images) -> None:
    some = [image for images in sampled(cut(known, 40), len(known), most=50) for image in images.image_ids]
    again = [image for images in sampled(cut(known, 7), len(known), most=50) for image in images.image_ids]
    assert some == again
    assert 25 < len(some) < 80
    every = [image for images in sampled(cut(known, 40), len(known), most=150) for image in images.image_ids]
    assert every == list(known.image_ids)
