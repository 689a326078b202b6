"""The gallery: who is in it, and that its pictures show what they say."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from resnet_core.explain.gallery import CLASSES, ERRORS, SAMPLES, UNCERTAIN, choose
from resnet_core.plotting.canvas import heated, picture, webp
from resnet_core.plotting.sheets import SUSPECTS, GalleryImage, NeighbourImage, Suspect, gallery_sheet, label_sheet

Digits = tuple[np.ndarray, list[str]]


@pytest.fixture
def predictions() -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """400 images of 15 classes, 40 of them wrong."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 15, 400)
    predicted = labels.copy()
    predicted[:40] = (labels[:40] + 1) % 15
    return [f"{k * 7919 % 400:04x}" for k in range(400)], labels, predicted, rng.uniform(0.3, 1, 400).astype(np.float32)


def test_the_gallery_has_the_surest_errors_the_least_sure_and_some_of_each_class(predictions: tuple) -> None:
    image_ids, labels, predicted, confidence = predictions
    found = choose(image_ids, labels, predicted, confidence)
    rows = {kind: [one.row for one in found if one.kind == kind] for kind in {one.kind for one in found}}
    every = [one.row for one in found]
    assert len(every) == len(set(every))
    errors = rows["confident error"]
    assert sorted(errors) == sorted(np.argsort(-confidence[:40])[:ERRORS])
    assert list(confidence[errors]) == sorted(confidence[errors], reverse=True)
    rest = np.setdiff1d(np.arange(400), errors)
    assert list(rows["most uncertain"]) == list(rest[np.argsort(confidence[rest])][:UNCERTAIN])
    counts = np.bincount(labels[rows["sample"]], minlength=15)
    assert list(counts) == [SAMPLES] * CLASSES + [0] * (15 - CLASSES)


def test_the_same_images_whatever_their_order(predictions: tuple) -> None:
    image_ids, *columns = predictions
    order = np.random.default_rng(2).permutation(400)
    shuffled = [image_ids[k] for k in order]
    found = {(one.kind, image_ids[one.row]) for one in choose(image_ids, *columns)}
    again = {(one.kind, shuffled[one.row]) for one in choose(shuffled, *(column[order] for column in columns))}
    assert found == again


def test_few_images_make_a_small_gallery() -> None:
    found = choose(["a", "b"], np.array([0, 1]), np.array([0, 0]), np.array([0.9, 0.8], np.float32))
    assert [(one.kind, one.row) for one in found] == [("confident error", 1), ("sample", 0)]


def test_a_rare_class_has_a_sample_though_all_of_it_is_uncertain() -> None:
    labels = np.array([0] * 30 + [1] * 3)
    confidence = np.linspace(0.99, 0.5, 33).astype(np.float32)
    found = choose([f"{n:02}" for n in range(33)], labels, labels, confidence)
    assert [labels[one.row] for one in found if one.kind == "sample"] == [0] * SAMPLES + [1]
    assert [one.row for one in found if one.kind == "most uncertain"][:3] == [32, 31, 29]  # 30 is the sample


def test_heat_is_coloured_where_it_is_and_nowhere_else(digits: Digits) -> None:
    pixels, heat = digits[0][3], np.zeros((8, 8), np.float32)
    plain = np.asarray(heated(pixels, heat))
    assert (plain == np.asarray(picture(pixels))[..., None]).all()
    heat[:4, :4] = 1
    hot = np.asarray(heated(pixels, heat)).astype(int)
    side = hot.shape[0]
    assert side >= 160
    middle, far = hot[side // 5, side // 5], hot[-side // 5 :, -side // 5 :]
    assert middle[0] - middle[2] > 60
    assert np.ptp(far, axis=2).max() == 0


def test_small_pictures_are_enlarged_without_a_blur_and_large_ones_made_smaller(
    digits: Digits, photograph: Image.Image
) -> None:
    small = picture(digits[0][0])
    with Image.open(io.BytesIO(webp(small, lossless=True))) as read:
        again = np.asarray(read.convert("L"))
    factor = again.shape[0] // 8
    np.testing.assert_array_equal(again, np.kron(digits[0][0], np.ones((factor, factor), np.uint8)))
    large = picture(np.asarray(photograph.convert("L")))
    assert max(large.size) == 256


@pytest.fixture
def shown(digits: Digits) -> GalleryImage:
    beside = NeighbourImage(digits[0][1], "[b] ü", 0.987)
    return GalleryImage(
        "confident error", digits[0][0], np.eye(8, dtype=np.float32), "a", "b" * 300, 0.9, "x" * 500, (beside,) * 5
    )


def test_a_sheet_grows_with_what_it_shows(shown: GalleryImage) -> None:
    def size(*items: GalleryImage) -> tuple[int, int]:
        with Image.open(io.BytesIO(gallery_sheet(items, "digits", "note"))) as sheet:
            assert sheet.mode == "RGB"
            colour = np.ptp(np.asarray(sheet).astype(int), axis=2)
            assert (colour.max() > 60) == bool(items)
            return sheet.size

    nothing, one = size(), size(shown)
    assert size(*[shown] * 3)[1] - one[1] == 2 * (one[1] - nothing[1] - 42)
    sample = replace(shown, kind="sample", neighbours=())
    assert size(*[sample] * 5)[1] > size(*[sample] * 4)[1] == size(sample)[1]
    assert size(shown, sample)[0] == one[0]


def test_a_sheet_of_labels_says_how_many_it_leaves_out(digits: Digits) -> None:
    suspect = Suspect(digits[0][0], 1, "3", "8" * 99, 0.01, "folder/" + "x" * 200)

    def sheet(count: int) -> np.ndarray:
        with Image.open(io.BytesIO(label_sheet([suspect] * min(count, SUSPECTS + 5), "digits", count))) as image:
            return np.asarray(image)

    assert sheet(SUSPECTS + 5).shape[0] > sheet(SUSPECTS).shape[0]
    assert sheet(0).shape[0] < sheet(1).shape[0] == sheet(6).shape[0] < sheet(7).shape[0]
