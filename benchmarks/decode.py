"""Reading an image: `resnet_core.read.read_image` against the Pillow line that people write.

Ours hashes the bytes, decodes, takes the luma and resizes; the peer opens, converts to "L" and
resizes, and knows no hash. Both start from bytes in memory, end at uint8 [64, 64], use Pillow's
bilinear filter and one thread. The difference is between the two results, in gray levels.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.images import cells, photographs
from benchmarks.rounds import Comparison, Difference, Result, Track, interleave, timed
from resnet_core.preprocessing import Preprocessing
from resnet_core.read import read_image

SIZE = 64  # pixels
ROUNDS = 9


def run(folder: Path, track: Track) -> Result:
    jpegs = list(photographs(each=8))
    pngs = [path.read_bytes() for path in cells(128)]
    rates = interleave(
        ROUNDS,
        {
            "jpeg ours": timed(lambda: len([ours(data) for data in jpegs])),
            "jpeg peer": timed(lambda: len([peer(data) for data in jpegs])),
            "png ours": timed(lambda: len([ours(data) for data in pngs])),
            "png peer": timed(lambda: len([peer(data) for data in pngs])),
        },
        track,
    )
    what, pillow = f"read_image, {{}} to {SIZE} px", "Pillow open, convert, resize"
    return Result(
        "decode",
        "one thread, from bytes in memory; ours hashes as well",
        (
            Comparison(what.format("JPEG 1024x768"), pillow, rates["jpeg ours"], rates["jpeg peer"], difference(jpegs)),
            Comparison(what.format("PNG 300x300"), pillow, rates["png ours"], rates["png peer"], difference(pngs)),
        ),
    )


def ours(data: bytes) -> NDArray[np.uint8]:
    pixels = read_image(data, Preprocessing(SIZE)).pixels
    assert pixels is not None
    return pixels


def peer(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def difference(files: Sequence[bytes]) -> Difference:
    gaps = np.stack([np.abs(ours(data).astype(int) - peer(data)) for data in files])
    return Difference(float(gaps.mean()), float(gaps.max()), "gray levels")
