"""Sheets: every class and sample that fits is there, and a note counts the rest."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from resnet_core.plotting.canvas import drawable, smaller
from resnet_core.plotting.sheets import (
    CELL,
    CLASSES,
    GAP,
    MARGIN,
    PAIRS,
    WIDTH,
    ConflictPair,
    conflict_sheet,
    contact_sheet,
)

Digits = tuple[np.ndarray, list[str]]


def opened(picture: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(picture)) as image:
        assert image.mode == "L"
        return np.asarray(image)


def by_class(digits: Digits) -> dict[str, list[np.ndarray]]:
    images, labels = digits
    return {
        str(k): [pixels for pixels, label in zip(images, labels, strict=True) if label == str(k)] for k in range(10)
    }


def ink(pixels: np.ndarray) -> float:
    """The share of pixels that are not paper."""
    return float((pixels < 250).mean())


def test_sixteen_samples_a_class_in_two_lines_of_eight(digits: Digits) -> None:
    sheet = opened(contact_sheet(by_class(digits), "digits"))
    assert sheet.shape[1] == WIDTH
    one = opened(contact_sheet({"0": by_class(digits)["0"]}, "digits"))
    assert sheet.shape[0] - one.shape[0] == 9 * (one.shape[0] - opened(contact_sheet({}, "digits")).shape[0])
    last_line = sheet[-MARGIN - CELL - GAP : -MARGIN - GAP]
    for column in range(8):
        left = MARGIN + column * (CELL + GAP)
        assert ink(last_line[:, left : left + CELL]) > 0.3


def test_a_sample_is_shown_as_it_is(digits: Digits) -> None:
    first = digits[0][0]
    sheet = opened(contact_sheet({"0": [first]}, "digits"))
    cell = sheet[-MARGIN - CELL - GAP : -MARGIN - GAP, MARGIN : MARGIN + CELL]
    assert np.array_equal(cell[4::9, 4::9], first)


def test_images_of_any_shape_fit_their_cell(photograph: Image.Image) -> None:
    gray = np.asarray(photograph.convert("L"))
    for pixels in (gray, gray[:100], gray[:, :3], gray[:1, :1]):
        sheet = opened(contact_sheet({"astronaut": [pixels]}, "photographs"))
        assert sheet.shape[1] == WIDTH
        outside = sheet[-MARGIN - CELL - GAP : -MARGIN - GAP, MARGIN + CELL + GAP :]
        assert ink(outside) == 0


def test_more_classes_than_fit_are_cut_with_a_note(digits: Digits) -> None:
    fits = {f"class {k}": [digits[0][k]] for k in range(CLASSES)}
    whole = opened(contact_sheet(fits, "many"))
    more = opened(contact_sheet({**fits, **{f"more {k}": [digits[0][k]] for k in range(200)}}, "many"))
    assert 0 < more.shape[0] - whole.shape[0] < CELL
    assert ink(more[-MARGIN - 26 :]) > 0


@pytest.mark.parametrize("name", ["", "x" * 400, "Prüfung", "缺陷", "a\nb\tc", "$x^2$", "\U0001f600", "مثال"])
def test_any_name_can_be_drawn(name: str, digits: Digits) -> None:
    assert opened(contact_sheet({name: [digits[0][0]]}, name)).shape[1] == WIDTH


def test_what_the_font_lacks_is_told_apart_by_its_code() -> None:
    assert drawable("Prüfung Ωλ Тест") == "Prüfung Ωλ Тест"
    assert drawable("缺\n") == "\\u7f3a\\u000a"


def pairs(photograph: Image.Image, count: int) -> Sequence[ConflictPair]:
    gray = np.asarray(photograph.convert("L"))
    return [
        ConflictPair(gray, "left", f"/a/{k}.png", gray, "right", f"s3://b/{'c' * 200}/{k}.png") for k in range(count)
    ]


def test_the_two_images_of_a_conflict_stand_conflict_sheet(photograph: Image.Image) -> None:
    sheet = opened(conflict_sheet(pairs(photograph, 1)))
    shift = MARGIN + (WIDTH - 3 * MARGIN) // 2
    rows, columns = slice(MARGIN + 24, MARGIN + 24 + 200), slice(MARGIN, MARGIN + 200)
    left, right = sheet[rows, columns], sheet[rows, columns.start + shift : columns.stop + shift]
    assert left.std() > 50
    assert np.array_equal(left, right)
    assert ink(sheet[:, -MARGIN:]) == 0


def test_more_pairs_than_fit_are_cut_with_a_note(photograph: Image.Image) -> None:
    whole, more = (opened(conflict_sheet(pairs(photograph, count))) for count in (PAIRS, PAIRS + 30))
    assert 0 < more.shape[0] - whole.shape[0] < 100


def test_a_page_carries_a_smaller_copy(photograph: Image.Image) -> None:
    gray = np.asarray(photograph.convert("L"))
    sheet = contact_sheet({"astronaut": [gray[k : k + 300, k : k + 300] for k in range(0, 200, 13)]}, "photographs")
    copy = smaller(sheet)
    assert len(copy) < len(sheet) / 2
    with Image.open(io.BytesIO(copy)) as image:
        assert np.abs(np.asarray(image.convert("L")).astype(int) - opened(sheet)).mean() < 4
