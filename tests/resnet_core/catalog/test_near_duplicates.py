"""Near-duplicates: the same picture is found, a similar one is not, at any number of images."""

import io
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from resnet_core.catalog.near_duplicates import NEAREST, candidates, clusters, look_alike, residuals
from resnet_core.images.preprocessing import Preprocessing, resize
from resnet_core.images.statistics import HASH_BYTES, perceptual_hash

SETTINGS = Preprocessing(size=96)
Change = Callable[[Image.Image], Image.Image]


def jpeg(quality: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        sink = io.BytesIO()
        image.save(sink, "JPEG", quality=quality)
        return Image.open(io.BytesIO(sink.getvalue()))

    return change


def scaled(factor: float) -> Change:
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)))


def toned(tone: Callable[[float], float]) -> Change:
    return lambda image: image.point([min(255, max(0, round(tone(level)))) for level in range(256)])


def cropped(left: float, top: float, right: float, bottom: float) -> Change:
    def change(image: Image.Image) -> Image.Image:
        width, height = image.size
        return image.crop(
            (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
        )

    return change


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 3, (image.height, image.width))
    return Image.fromarray(np.clip(np.rint(np.asarray(image) + noise), 0, 255).astype(np.uint8))


# The least share of the changed copies that must be found.
CHANGES: dict[str, tuple[Change, float]] = {
    "JPEG 95": (jpeg(95), 1.0),
    "JPEG 50": (jpeg(50), 0.97),
    "JPEG 30": (jpeg(30), 0.97),
    "half the size": (scaled(0.5), 0.99),
    "twice the size": (scaled(2), 0.99),
    "half the size, JPEG 50": (lambda image: jpeg(50)(scaled(0.5)(image)), 0.97),
    "brighter": (toned(lambda level: level + 25), 0.95),
    "more contrast": (toned(lambda level: 1.3 * level - 38), 0.93),
    "gamma 0.7": (toned(lambda level: 255 * (level / 255) ** 0.7), 0.95),
    "gamma 1.4": (toned(lambda level: 255 * (level / 255) ** 1.4), 0.95),
    "blurred": (lambda image: image.filter(ImageFilter.GaussianBlur(1)), 0.99),
    "noisy": (noisy, 0.97),
    "1% off each side": (cropped(0.01, 0.01, 0.01, 0.01), 0.95),
    "1% off two sides": (cropped(0.01, 0.01, 0, 0), 0.85),
    "2% off each side": (cropped(0.02, 0.02, 0.02, 0.02), 0.65),
}


def hashes_of(images: np.ndarray) -> np.ndarray:
    return np.frombuffer(b"".join(map(perceptual_hash, images)), np.uint8).reshape(-1, HASH_BYTES)


def squares(images: list[Image.Image]) -> np.ndarray:
    return np.stack([resize(np.asarray(image), SETTINGS) for image in images])


def confirm(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return whether pictures look the same, bool [M]."""
    return residuals(left, right) <= look_alike(left.shape[1])


def confirmed(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pairs = candidates(hashes_of(images), np.ones(len(images), np.bool_))
    same = confirm(images[pairs.left], images[pairs.right])
    return pairs.left[same], pairs.right[same]


@pytest.fixture(scope="module")
def cells() -> list[Image.Image]:
    """All 2,624 solar cells: alike in everything but their crystals and flaws."""
    import elpv_dataset

    folder = Path(elpv_dataset.__file__).parent / "data" / "images"
    return [Image.open(path).convert("L") for path in sorted(folder.glob("*.png"))]


@pytest.fixture(scope="module")
def cell_squares(cells: list[Image.Image]) -> np.ndarray:
    return squares(cells)


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    from skimage import data

    shipped = [data.astronaut, data.brick, data.camera, data.cat, data.clock, data.coffee, data.coins, data.grass]
    shipped += [data.gravel, data.hubble_deep_field, data.moon, data.page, data.retina, data.rocket, data.text]
    return [Image.fromarray(load()).convert("L") for load in shipped]


@pytest.mark.parametrize("name", CHANGES)
def test_changed_copies_are_found(
    name: str, photographs: list[Image.Image], cells: list[Image.Image], cell_squares: np.ndarray
) -> None:
    change, least = CHANGES[name]
    changed = squares([change(image) for image in [*photographs, *cells[::13]]])
    elders = np.concatenate([squares(photographs), cell_squares])
    originals = np.r_[: len(photographs), len(photographs) + np.arange(0, len(cells), 13)]
    new = np.arange(len(elders) + len(changed)) >= len(elders)
    images = np.concatenate([elders, changed])
    pairs = candidates(hashes_of(images), new)
    same = confirm(images[pairs.left], images[pairs.right])
    wanted = pairs.left == np.r_[np.full(len(elders), -1), originals][pairs.right]
    assert (same & wanted).sum() / len(changed) >= least


def test_few_solar_cells_are_taken_for_one_another(cell_squares: np.ndarray) -> None:
    left, right = confirmed(cell_squares)
    assert len(left) < 170  # 45 of them really are the same cell, below
    assert np.bincount(clusters(len(cell_squares), left, right)).max() <= 8


def test_the_module_that_elpv_holds_twice_is_found(cell_squares: np.ndarray) -> None:
    """Cells 1735 to 1784 are cells 2277 to 2326, photographed again out of focus."""
    left, right = confirmed(cell_squares)
    again = (right - left == 2276 - 1734) & (left >= 1734) & (left < 1784)
    assert again.sum() >= 40


def test_different_digits_are_not_joined(digits: tuple[np.ndarray, list[str]]) -> None:
    images, labels = digits
    assert len(confirmed(images)[0]) == 0
    large = squares([scaled(8)(Image.fromarray(image)) for image in images])
    left, right = confirmed(large)
    assert len(left) <= 30
    assert all(labels[a] == labels[b] for a, b in zip(left, right, strict=True))
    assert np.bincount(clusters(len(large), left, right)).max() <= 5


def test_photographs_are_not_joined(photographs: list[Image.Image]) -> None:
    images = squares(photographs)
    left, right = np.triu_indices(len(images), 1)
    assert not confirm(images[left], images[right]).any()


def test_two_pictures_with_the_same_frame_are_two(photograph: Image.Image) -> None:
    whole = np.asarray(photograph.convert("L").resize((96, 96)))
    other = whole.copy()
    other[30:54, 30:54] = whole[60:84, 8:32]  # 6% of the area
    negative = 255 - whole
    assert confirm(np.stack([whole] * 3), np.stack([whole, other, negative])).tolist() == [True, False, False]


def test_pairs_with_equal_pixels_alone_leave_nothing_unexplained(cell_squares: np.ndarray) -> None:
    assert not residuals(cell_squares[:70], cell_squares[:70].copy()).any()


def test_flat_images_match_only_when_equal(photograph: Image.Image) -> None:
    flat = np.full((64, 64), 100, np.uint8)
    faint = flat.copy()
    faint[10:20, 10:20] += 1
    left = np.stack([flat, flat, flat, faint])
    right = np.stack([flat, faint, np.asarray(photograph.convert("L").resize((64, 64))), faint])
    assert confirm(left, right).tolist() == [True, False, False, True]


@pytest.mark.parametrize("size", [8, 31, 32, 64, 224])
def test_any_size(size: int, photograph: Image.Image) -> None:
    gray = photograph.convert("L")
    original = np.asarray(gray.resize((size, size)))
    again = np.asarray(jpeg(90)(gray).resize((size, size)))
    assert len(perceptual_hash(original)) == HASH_BYTES
    distance = hashes_of(np.stack([original, again]))
    assert np.bitwise_count(distance[0] ^ distance[1]).sum() <= 8
    assert confirm(original[None], again[None]).all()


def random_hashes(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, HASH_BYTES), dtype=np.uint8)


def flipped(hashes: np.ndarray, share: float) -> np.ndarray:
    """Flip every bit with the probability `share`."""
    turn = np.random.default_rng(1).random((len(hashes), 8 * HASH_BYTES)) < share
    return hashes ^ np.packbits(turn, axis=1)


def test_close_hashes_are_found_in_a_crowd() -> None:
    hashes = random_hashes(100_000)
    hashes[-2000:] = flipped(hashes[:2000], 0.05)
    pairs = candidates(hashes, np.ones(len(hashes), np.bool_))
    planted = pairs.right - pairs.left == len(hashes) - 2000
    assert planted.sum() >= 0.97 * 2000
    assert len(pairs.left) <= 2100  # chance makes few
    differing = np.bitwise_count(hashes[pairs.left] ^ hashes[pairs.right]).sum(1)
    assert np.array_equal(differing, pairs.distance)


@pytest.mark.parametrize("share", [0.0, 0.02])
def test_a_flood_of_equal_or_close_hashes_is_one_chain(share: float) -> None:
    count = 200_000
    hashes = flipped(np.repeat(random_hashes(1), count, 0), share)
    pairs = candidates(hashes, np.ones(count, np.bool_))
    assert len(pairs.left) <= NEAREST * count
    assert np.bincount(clusters(count, pairs.left, pairs.right)).max() > 0.99 * count


def test_later_nights_give_the_pairs_of_one_night() -> None:
    hashes = flipped(random_hashes(300)[np.random.default_rng(2).integers(0, 300, 6000)], 0.04)  # dense enough to crowd
    night = np.repeat([0, 1, 2], [5000, 940, 60])
    at_once = candidates(hashes, np.ones(len(hashes), np.bool_))
    for last in (1, 2):
        known = night <= last
        pairs = candidates(hashes[known], night[known] == last)
        wanted = night[at_once.right] == last
        assert wanted.sum() > 60
        for field in ("left", "right", "distance"):
            assert np.array_equal(getattr(pairs, field), getattr(at_once, field)[wanted])


def test_new_images_may_stand_anywhere() -> None:
    hashes = random_hashes(40)
    hashes[5] = hashes[30]
    pairs = candidates(hashes, np.arange(40) == 5)
    assert (pairs.left.tolist(), pairs.right.tolist(), pairs.distance.tolist()) == ([30], [5], [0])


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare(count: int) -> None:
    assert len(candidates(random_hashes(count), np.ones(count, np.bool_)).left) == 0
    assert len(confirm(np.empty((0, 64, 64), np.uint8), np.empty((0, 64, 64), np.uint8))) == 0
    assert len(candidates(random_hashes(10), np.zeros(10, np.bool_)).left) == 0


def test_hashes_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="need"):
        candidates(np.zeros((3, 8), np.uint8), np.ones(3, np.bool_))


def test_a_cluster_is_named_by_its_first_row() -> None:
    assert clusters(6, np.array([1, 4, 2]), np.array([4, 5, 3])).tolist() == [0, 1, 2, 2, 1, 1]


def test_the_reading_process_is_spared_slow_imports() -> None:
    slow = ("scipy", "torch", "pandas")
    code = f"import resnet_core.catalog.near_duplicates, sys; print([m for m in {slow} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Hashes of the same pixels by pdqhash 0.2.8, the authors' code: the 128 of its 256 bits that are kept.
REFERENCE = {
    "cell0001.png": "f6ab5904e603689002b061425d29aa52",
    "cell1000.png": "850288053020964495b9efe27e3ffb53",
    "camera": "f442040ca1f8fe658e295492a2fc00be",
    "coins": "99a6ccc47bb89bca0c9db6ba720885af",
}


@pytest.mark.parametrize("name", REFERENCE)
def test_the_hash_is_that_of_the_authors_library(name: str) -> None:
    import skimage.data

    cells = Path(str(files("elpv_dataset"))) / "data" / "images"
    image = Image.open(cells / name) if name.endswith(".png") else Image.fromarray(getattr(skimage.data, name)())
    pixels = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.BILINEAR))
    assert perceptual_hash(pixels).hex() == REFERENCE[name]
