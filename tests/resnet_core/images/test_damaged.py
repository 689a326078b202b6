"""Damaged, hostile and foreign files: a reason instead of a crash, no noise, neither memory nor time."""

import io
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnet_core.images import _codecs, _png
from resnet_core.images.decode import decode, decode_square
from resnet_core.images.levels import BadImageError
from resnet_core.images.preprocessing import Preprocessing

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

KINDS = {
    "JPEG": {},
    "progressive": {"progressive": True},
    "PNG": {},
    "WEBP": {},
    "lossless": {"lossless": True},
    "TIFF": {},
    "LZW": {"compression": "tiff_lzw"},
    "deflate": {"compression": "tiff_adobe_deflate"},
    "jpeg in TIFF": {"compression": "jpeg"},
    "GIF": {},
    "BMP": {},
    "AVIF": {},
    "JPEG2000": {},
    "PPM": {},
}
FORMATS = {
    "progressive": "JPEG", "lossless": "WEBP", "LZW": "TIFF", "deflate": "TIFF", "jpeg in TIFF": "TIFF",
}  # fmt: skip


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, FORMATS.get(kind, kind), **{**KINDS[kind], **options})
    return sink.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_bad_at_each_tenth(photograph: Image.Image, kind: str) -> None:
    data = saved(photograph.resize((200, 160)), kind)
    for tenth in range(1, 10):
        for mode in ("exact", "fast"):
            with pytest.raises(BadImageError) as caught:
                decode_square(data[: len(data) * tenth // 10], Preprocessing(16, decode=mode))
            assert caught.value.reason.code in ("truncated", "damaged", "unsupported", "not_an_image")
            assert caught.value.reason.text.partition(": ")[2]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_bytes_never_crash(photograph: Image.Image, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(list(KINDS)))
    mode = data.draw(st.sampled_from(["exact", "fast"]))
    damaged = bytearray(saved(photograph.resize((48, 48)), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(BadImageError):  # and nothing else
        assert decode_square(bytes(damaged), Preprocessing(16, decode=mode)).pixels.shape == (16, 16)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "progressive", "PNG"]), st.integers(0, 2**32))
def test_pillow_has_the_last_word_on_damage(photograph: Image.Image, kind: str, seed: int) -> None:
    damaged = damage(saved(photograph.resize((64, 48)), kind), random.Random(seed))
    fast = verdict(damaged)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_png, "kornia", None)
        patch.setattr(_codecs, "simplejpeg", None)
        assert verdict(damaged) == fast


def verdict(data: bytes) -> bytes | str:
    try:
        return decode(data).tobytes()
    except BadImageError as error:
        return str(error)


def damage(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, removed, or repeated elsewhere."""
    place, count = chance.randrange(len(data)), chance.randrange(1, 60)
    return chance.choice(
        [
            data[:place] + chance.randbytes(count) + data[place + count :],
            data[:place] + data[place + count :],
            data[:place] + data[-count:] + data[place:],
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_damage_prints_nothing(photograph: Image.Image, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = saved(photograph.resize((64, 48)), kind)
    for seed in range(100):
        for mode in ("exact", "fast"):
            with suppress(BadImageError):
                decode_square(damage(data, random.Random(seed)), Preprocessing(16, decode=mode))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"path,label\n", "not_an_image"),
        (b"\x00" * 1000, "damaged"),
        (b"%PDF-1.7\n" * 50, "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported"),
        (_png.SIGNATURE, "truncated"),
        (b"\xff\xd8\xff\xe0", "truncated"),
    ],
)
def test_what_is_no_image_says_so(data: bytes, code: str) -> None:
    with pytest.raises(BadImageError) as caught:
        decode(data)
    assert caught.value.reason.code == code


def test_not_a_number_is_bad(photograph: Image.Image) -> None:
    levels = np.full((4, 4), np.nan, dtype=np.float32)
    with pytest.raises(BadImageError, match="not a number"):
        decode(saved(Image.fromarray(levels), "TIFF"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_the_pixel_limit_is_an_argument(photograph: Image.Image, kind: str) -> None:
    data = saved(photograph, kind)
    with pytest.raises(BadImageError, match=r"too large: 512 x 512 pixels, over the limit of 262,143"):
        decode(data, max_pixels=512 * 512 - 1)
    assert decode(data, max_pixels=512 * 512).shape == (512, 512)


def test_a_bomb_costs_neither_memory_nor_time(tmp_path: Path) -> None:
    """A process that may take 150 MB more and 20 seconds reads them all."""
    names = []
    for name, data in bombs():
        (tmp_path / name).write_bytes(data)
        names.append(name)
    code = """
import resource, sys
from pathlib import Path
from resnet_core.images.decode import decode
from resnet_core.images.levels import BadImageError
try:
    decode(b"GIF89a")  # imports the plugins
except BadImageError:
    pass
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 150 * 2**20, -1))
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        print(path.name, decode(path.read_bytes()).shape)
    except BadImageError as error:
        print(path.name, error)
"""
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=20)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    found = dict(line.split(" ", 1) for line in ran.stdout.splitlines())
    assert set(found) == set(names)
    for name, text in found.items():
        # A strip that goes on behind a small image's last row is not unpacked further than that.
        assert text == "(8, 8)" if name.startswith("small") else text.startswith("too large: "), (name, text)


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that claim to be, or unpack to, hundreds of megabytes or more."""
    zeros = zlib.compress(bytes(30_000 * 3751), 9)  # 30,000 rows of 30,000 bits
    assert 100_000 < len(zeros) < 120_000
    yield "large.png", png_of(30_000, 30_000, 1, zeros)
    yield "large.tif", tiff_of(30_000, 30_000, zeros, {273: None, 278: 30_000, 279: len(zeros)})
    yield "small_strip.tif", tiff_of(8, 8, zeros, {273: None, 278: 8, 279: len(zeros)})
    yield "tile.tif", tiff_of(8, 8, zeros, {322: 30_000, 323: 30_000, 324: None, 325: len(zeros)})
    dot = Image.new("RGB", (16, 16))
    side = struct.pack("<H", 16)
    yield "large.gif", saved(dot, "GIF").replace(side * 2, struct.pack("<HH", 30_000, 30_000))
    yield "large.webp", saved(dot, "WEBP").replace(side * 2, struct.pack("<HH", 16_383, 16_383))
    lossless = saved(dot, "lossless")
    yield "lossless.webp", lossless.replace(struct.pack("<I", 15 | 15 << 14), struct.pack("<I", 16_382 | 16_382 << 14))
    yield "large.avif", saved(dot, "AVIF").replace(struct.pack(">II", 16, 16), struct.pack(">II", 16_000, 16_000))
    yield "large.jpg", saved(dot, "JPEG").replace(b"\x08\0\x10\0\x10", b"\x08\xff\xdc\xff\xdc")
    yield "large.jp2", saved(dot, "JPEG2000").replace(struct.pack(">II", 16, 16), struct.pack(">II", 30_000, 30_000))
    yield "large.bmp", saved(dot, "BMP").replace(struct.pack("<ii", 16, 16), struct.pack("<ii", 30_000, 30_000))
    yield "large.pgm", b"P5 30000 30000 255\n"


def png_of(width: int, height: int, depth: int, deflated: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return _png.SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", deflated) + chunk(b"IEND", b"")


def tiff_of(width: int, height: int, deflated: bytes, where: dict[int, int | None]) -> bytes:
    """8-bit gray, compressed by deflate; None in the tags stands for the place of the data."""
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, **where}
    start = 8 + 2 + 12 * len(tags) + 4
    entries = (struct.pack("<HHII", tag, 4, 1, start if tags[tag] is None else tags[tag]) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + deflated
