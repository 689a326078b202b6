"""Reading an image: hash, decode, luma, resize, against the Pillow line that people write.

Ours hashes the bytes, decodes and resizes (`decode_square`, what `read` does with them); the peer
opens, converts to "L" and resizes, and knows no hash. Both start from bytes in memory, end at uint8
[64, 64], use an antialiased bilinear filter and one thread. The difference is between the two results, in
gray levels.

A JPEG's bits have to be read one after the other, whatever is then made of them: the finer its quality,
the more of the time that is, and the less is there to gain. So there are two, Pillow's own quality
and a camera's.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.images import QUALITY, cells, photographs
from benchmarks.rounds import Comparison, Difference, Result, Track, interleave, timed
from resnet_core.images.decode import decode_square
from resnet_core.images.preprocessing import Decode, Preprocessing

SIZE = 64  # pixels
ROUNDS = 9
PILLOWS_QUALITY = 75

Reader = Callable[[bytes], NDArray[np.uint8]]


def run(folder: Path, track: Track) -> Result:
    camera = list(photographs(each=8))
    small = [again(data, PILLOWS_QUALITY) for data in camera]
    contests: list[tuple[str, Sequence[bytes], Decode]] = [
        (f"exact, JPEG 1024x768 of quality {PILLOWS_QUALITY}", small, "exact"),
        (f"fast, JPEG 1024x768 of quality {PILLOWS_QUALITY}", small, "fast"),
        (f"exact, JPEG 1024x768 of quality {QUALITY}", camera, "exact"),
        (f"fast, JPEG 1024x768 of quality {QUALITY}", camera, "fast"),
        ("exact, PNG 300x300", [path.read_bytes() for path in cells(128)], "exact"),
    ]
    turns = {}
    for what, files, mode in contests:
        turns[f"{what}, ours"] = turn(ours(mode), files)
        turns[f"{what}, peer"] = turn(peer, files)
    rates = interleave(ROUNDS, turns, track)
    return Result(
        "decode",
        "one thread, from bytes in memory; ours hashes as well",
        tuple(
            Comparison(
                f"decode: {what} to {SIZE} px",
                "Pillow open, convert, resize",
                rates[f"{what}, ours"],
                rates[f"{what}, peer"],
                difference(ours(mode), files),
            )
            for what, files, mode in contests
        ),
    )


def turn(reader: Reader, files: Sequence[bytes]) -> Callable[[], float]:
    return timed(lambda: len([reader(data) for data in files]))


def ours(mode: Decode) -> Reader:
    settings = Preprocessing(SIZE, decode=mode)

    def read(data: bytes) -> NDArray[np.uint8]:
        hashlib.sha256(data).hexdigest()
        return decode_square(data, settings).pixels

    return read


def peer(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def again(data: bytes, quality: int) -> bytes:
    """The same JPEG, 4:2:0, at another quality."""
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def difference(reader: Reader, files: Sequence[bytes]) -> Difference:
    gaps = np.stack([np.abs(reader(data).astype(int) - peer(data)) for data in files])
    return Difference(float(gaps.mean()), float(gaps.max()), "gray levels")
