"""A JPEG's luma by libjpeg-turbo, without the colours and as small as is wanted.

simplejpeg hands the whole file to the decoder at once, where Pillow feeds it piece by piece; the pixels
are the same. It lets go of the GIL. At the first doubt (another colour space, anything that the decoder
warns of) Pillow has to look, and its verdict and its words are those that count.
"""

from importlib import import_module
from types import ModuleType

from resnet_core.images._levels import Gray

simplejpeg: ModuleType | None
try:
    simplejpeg = import_module("simplejpeg")
except ImportError:  # no wheel for this platform: Pillow gives the same pixels
    simplejpeg = None

# Where luma is stored as such. In RGB, CMYK and YCCK it is not.
WITH_LUMA = ("YCbCr", "Gray")


def decode_luma(data: bytes, shrink: int) -> Gray | None:
    """A JPEG file's bytes -> uint8 [ceil(H / shrink), ceil(W / shrink)], `shrink` being 1, 2, 4 or 8: more
    than 1 is done in the DCT domain. None when Pillow has to look at the file."""
    if simplejpeg is None:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in WITH_LUMA:
            return None
        rows, columns = -(-height // shrink), -(-width // shrink)
        return simplejpeg.decode_jpeg(data, "GRAY", min_height=rows, min_width=columns, strict=True)[..., 0]
    except ValueError:
        return None
