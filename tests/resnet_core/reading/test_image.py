"""One pass over a file's bytes: its name, its size, how it looks; what costs too much is a reason."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_core.images.decode import decode_square
from resnet_core.images.limits import Limits
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.images.statistics import measure, perceptual_hash
from resnet_core.reading.image import ReadImage, as_table, read_image, schema
from resnet_core.reading.pool import read_file
from resnet_core.reasons import Reason, ReasonCode

SETTINGS = Preprocessing(size=32)


@pytest.fixture(scope="module")
def png(photograph: Image.Image) -> bytes:
    sink = io.BytesIO()
    photograph.resize((300, 200)).save(sink, "PNG")
    return sink.getvalue()


def test_one_pass_gives_name_size_looks_and_pixels(png: bytes) -> None:
    image = read_image(png, SETTINGS)
    assert image.image_id == hashlib.sha256(png).hexdigest()
    assert (image.width, image.height, image.reason) == (300, 200, None)
    assert image.pixels is not None
    assert np.array_equal(image.pixels, decode_square(png, SETTINGS).pixels)


def test_a_bad_image_keeps_its_name(png: bytes) -> None:
    cut = png[: len(png) // 2]
    image = read_image(cut, SETTINGS)
    assert image.image_id == hashlib.sha256(cut).hexdigest()
    assert image.reason is not None
    assert image.reason.code == "truncated"
    assert image.reason.text.startswith("truncated: ")
    assert image.pixels is None


@pytest.mark.parametrize(("limits", "named"), [(Limits(bytes=1000), True), (Limits(pixels=1000), False)])
def test_what_is_over_a_limit_is_too_large(png: bytes, limits: Limits, named: bool) -> None:
    image = read_image(png, SETTINGS, limits)
    assert image.reason is not None
    assert image.reason.code == "too_large"
    assert "over the limit of 1,000" in image.reason.text
    assert (image.image_id is None) is named


def test_a_file_that_cannot_be_opened_has_a_reason_and_no_name(tmp_path: Path) -> None:
    assert read_file(str(tmp_path / "gone.png"), SETTINGS) == ReadImage(
        None, reason=Reason(ReasonCode.UNREACHABLE, "unreachable: No such file or directory")
    )
    assert read_file(str(tmp_path), SETTINGS).image_id is None


def test_a_table_holds_every_field(png: bytes) -> None:
    good, bad = read_image(png, SETTINGS), read_image(b"", SETTINGS)
    assert good.pixels is not None
    assert as_table([good, bad], SETTINGS.size).to_pylist() == [
        {
            "image_id": good.image_id,
            "width": 300,
            "height": 200,
            "reason_code": None,
            "reason": None,
            "phash": perceptual_hash(good.pixels),
            "brightness": pytest.approx(good.pixels.mean()),
            "contrast": pytest.approx(good.pixels.std()),
            "range": None,
            "sharpness": pytest.approx(measure(good.pixels[None])[2, 0]),
            "pixels": good.pixels.tobytes(),
        },
        {
            **dict.fromkeys(("width", "height", "phash", "brightness", "contrast", "sharpness", "range")),
            "image_id": hashlib.sha256(b"").hexdigest(),
            "reason_code": "empty",
            "reason": "empty: the file has 0 bytes",
            "pixels": bytes(32 * 32),
        },
    ]


def test_a_table_of_nothing_has_the_same_columns() -> None:
    assert as_table([], SETTINGS.size).schema == schema(SETTINGS.size)
