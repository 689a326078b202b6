"""The page of flips: both answers beside the image, near-certain ones first, and no pixel of encrypted images."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from resnet_core.evaluation.bootstrap import Interval
from resnet_core.images.limits import DEFAULT_LIMITS
from tasks.report.flips_page import NO_PICTURES, markdown, render
from tasks.values import Flip, Flips, FlipsPart, ModelVersion
from tests.browser import PALE_TEXT, TOO_WIDE, UNREADABLE, chromium, opened
from tests.versions import Digits

HOSTILE = "<img src=x onerror=alert(1)> | [a](http://b)"


@pytest.fixture
def found(tmp_path: Path, digits: Digits) -> Flips:
    """Three flips: the champion was near-certain of the first, and the file of the last is gone."""
    for number in range(2):
        Image.fromarray(digits[0][number]).save(tmp_path / f"{number}.png")
    answers = [(("0", 0.99), (HOSTILE, 0.5)), (("1", 0.8), ("7", 0.7)), (("1", 0.6), ("7", 0.9))]
    flips = tuple(Flip(str(tmp_path / f"{number}.png"), *both) for number, both in enumerate(answers))
    old, new = ModelVersion("digits", "3", ""), ModelVersion("digits", "4", "")
    parts = (FlipsPart("'0'", 20, 1), FlipsPart("'1'", 20, 2), FlipsPart("brightness 1 to 2", 12, 3, more=True))
    kinds = (("1", "7", 2), ("0", HOSTILE, 1))
    share = Interval(3 / 40, 0.026, 0.199)
    return Flips(old, new, "of the last batch", 40, 3, share, {"empty": 1}, 1, kinds, parts, flips)


def test_it_says_the_certain_ones_first_then_kinds_slices_and_what_is_left_out(found: Flips) -> None:
    assert replace(found, kinds=found.kinds[:1]).in_words() == (
        "7.5% (2.6% to 19.9%) of 40 images of the last batch; 1 of which version 3 was 95% sure: 0.png; '1' to '7' 2; "
        "significantly more on brightness 1 to 2 (3 of 12); left out: 1 empty"
    )


def test_the_nights_page_has_pictures_and_both_answers_and_data_is_text(found: Flips) -> None:
    page = markdown(found, DEFAULT_LIMITS)
    assert page.count("](data:image/webp;base64,") == 2
    assert "<img" not in page.replace("\\<img", "")
    assert "[a](http" not in page
    rows = [line for line in page.splitlines() if line.endswith(".png |")]
    assert [line.rpartition("/")[2] for line in rows] == ["0.png |", "1.png |", "2.png |"]
    assert "| 1 80% | 7 70% |" in rows[1]
    assert "| brightness 1 to 2 | 12 | 3 | more |" in page
    assert "- " not in markdown(replace(found, count=0, first=()), DEFAULT_LIMITS).replace("---", "")


def test_of_encrypted_images_no_picture_is_made(found: Flips) -> None:
    secret = replace(found, secret=True)
    for page in (markdown(secret, DEFAULT_LIMITS), render(secret, DEFAULT_LIMITS)):
        assert NO_PICTURES in page
        assert "data:image" not in page
        assert "1.png" in page


def test_it_fits_every_screen_and_names_from_the_data_are_text(found: Flips, tmp_path: Path) -> None:
    (tmp_path / "flips.html").write_text(render(found, DEFAULT_LIMITS), encoding="utf-8")
    with chromium() as browser:
        for width, scheme in ((360, "light"), (1280, "dark")):
            shown, said = opened(browser, tmp_path / "flips.html", width, scheme)
            for wrong in (TOO_WIDE, UNREADABLE, PALE_TEXT):
                assert shown.evaluate(wrong) == []
            assert said == []
            assert shown.locator("h3").all_text_contents() == ["Version 3 was 95% sure", "Others"]
            assert shown.locator(".shot .file").all_text_contents() == ["0.png", "1.png", "2.png"]
            assert shown.locator(".shot").nth(1).locator(".says").all_inner_texts() == ["1\n80%", "7\n70%"]
            assert shown.locator(".shot img").count() == 2
            assert "the file is gone" in shown.locator(".shot").nth(2).inner_text()
            shown.close()
