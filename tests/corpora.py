"""Hold decoding against other decoders on whole corpora of test files: `python -m tests.corpora FOLDER...`.

Each folder is a corpus, such as a checkout of Pillow, tifffile, pydicom or libtiff. The files stay where they are.
OpenCV and pylibjpeg take part if they are installed. Exit status 1 for a difference without a reason.
docs/formats.md has the table of the last run.
"""

# ruff: noqa: T201 a command
import hashlib
import io
import json
import logging
import os
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from resnet_core.images.decode import decode
from resnet_core.images.levels import BadImageError, Decided, Rule, luma

_LARGEST = 40_000_000  # bytes
_LOSSY = 3.0  # gray levels, on average, between two decoders of a lossy format
# Differences that are right, by the end of a path: which reader differs, and why. Each was looked at in the file
# itself: its header, its samples, or the same picture in another file.
RIGHT = [
    (
        r"trns|tRNS_null|caption_6|tiny\.png|pal\.png|star\.png",
        "spng",
        "does not apply the opacity of a palette or a color",
    ),
    (r"[il]_trns\.png|1_trns\.png", "OpenCV|Pillow", "does not apply a transparent level; libpng does"),
    (r"apng/", "OpenCV", "gives another frame of the animation; libpng, spng and Pillow the default image"),
    (r"app13\.jpg", ".*", "luma after colors beyond RGB were clipped; Grayline takes the luma that is stored"),
    (r"rgb32bf-abgr\.bmp", ".*", "takes a fourth byte of 0 everywhere for opacity: the image is invisible"),
    (r"rgb16[-.\w]*\.bmp|blauesglas_16\.bmp", "OpenCV", "spreads 5 bits over 8 by a shift, so that white is 248"),
    (r"-IM\.bmp|mmap_error\.bmp", "OpenCV", "spoils it: Grayline's levels are those of the same picture uncompressed"),
    (r"rgb32h52\.bmp", "OpenCV", "leaves out the masks of the colors"),
    (r"i1\.tif|i8|int8|integral-8|8bit\.s\.tif", "Pillow|libtiff", "reads signed levels as unsigned ones"),
    (r"i2\.tif|part\.tif|16b-|16b\.|12in16", "libtiff", "gives the upper 8 bits, which are empty here"),
    (r"int8_4bit", "Pillow", "spreads 4 bits over 8 by a shift"),
    (r"int8_4bit", "OpenJPEG", "gives the 4 bits as they are"),
    (r"9bit", "Pillow", "spreads 9 bits over 16 by a shift"),
    (r"file8", "OpenJPEG", "converts by the profile, and gives colors"),
    (r"issue205", "OpenJPEG", "gives ink; converted, it is the same"),
    (r"gray\.(contig|separate)", "tifffile", "gives five samples; Grayline the first, which is gray"),
    (
        r"(?i)1[024]b|-(10|12|14)\.tif",
        "OpenCV",
        "spreads the bits over 16 by a shift; off by more in planes, which it mixes up",
    ),
    (r"(?i)cmyk", "tifffile", "gives ink instead of colors"),
    (r"wrong_bits|unassoc|\.u1\.tif", "OpenCV", "multiplies colors by their opacity, which the file does not"),
    (r"(?i)rgba|minisblack-2c|strike", "tifffile|OpenCV", "gives colors as stored: multiplied by their opacity"),
    (r"\.gif$", "OpenCV", "leaves out transparency"),
    (r"test_extents\.gif$", "giflib", "takes the frame's size for the image's"),
    (
        r"(?i)lab|ColorChecker",
        "libtiff|OpenCV",
        "converts Lab for a display of its own; by the D50 formula Grayline is off by 0.5",
    ),
    (r"eCT_Supplemental", ".*", "leaves out the palette over gray levels, which the header asks for"),
    (
        r"caspian|planar_16bit|planar-(16|32)",
        "OpenCV|Pillow",
        "mixes up planes of 16 or more bits; the same picture in pixels agrees",
    ),
    (r"testfax4|crash-74d2", "tifffile", "differs in damaged lines of a fax; libtiff, OpenCV and Pillow agree"),
    (
        r"jpeg2000\.u1\.tif|jpegxr|\.png\.u1|gray-zip",
        "libtiff|OpenCV",
        "does not know the compression, and gives an empty image",
    ),
    (r"feep16\.pgm", "OpenCV", "gives 12 bits as they are"),
    (r"hopper_be\.pfm", "OpenCV", "divides by the header's scale; Pillow and Grayline leave it out"),
    (r"gradient-1c-32b", "Pillow", "cuts uint32 to int32"),
    (r"8bit-colormap", "Pillow", "takes a palette of 8 bits for one of 16, and is black"),
]

Levels = np.ndarray[Any, Any]


def _opencv(data: bytes) -> Levels | None:
    import cv2

    levels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if levels is None or levels.ndim == 2:
        return levels
    return levels[..., [2, 1, 0, *range(3, levels.shape[2])]] if levels.shape[2] > 2 else levels


def _pillow(data: bytes) -> Levels:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        if image.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "RGBX", "HSV", "1", "RGBa", "La"):
            image = image.convert("RGBA" if image.has_transparency_data else "L" if image.mode == "1" else "RGB")
        elif image.has_transparency_data and image.mode in ("L", "RGB"):
            image = image.convert("RGBA")
        return np.asarray(image)


def _tifffile(data: bytes) -> Levels | None:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        if page.photometric not in (0, 1, 2) and page.compression != 7:
            return None
        levels = page.asarray(maxworkers=1).reshape(page.shaped)[:, 0]
        levels = levels[0] if levels.shape[0] == 1 else np.moveaxis(levels[..., 0], 0, -1)
        if page.photometric in (0, 1) and not page.extrasamples:
            levels = levels[..., 0]
        bits = int(page.bitspersample)
        if bits < 8 or levels.dtype == bool:
            levels = (levels.astype(np.uint16) * 255 / (2**bits - 1)).round().astype(np.uint8)
        if page.photometric == 0:
            levels = 255 - levels if levels.dtype == np.uint8 else levels
        return levels


def _dicom(data: bytes) -> Levels:
    import pydicom
    from pydicom.pixels import processing, utils

    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    plugin = {} if dataset.file_meta.TransferSyntaxUID.is_encapsulated is False else {"decoding_plugin": "pylibjpeg"}
    try:
        values = utils.pixel_array(dataset, index=0, **plugin)
    except Exception:  # noqa: BLE001 pylibjpeg is not installed, or does not know the kind
        values = utils.pixel_array(dataset, index=0)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return processing.apply_color_lut(values, dataset)
    if values.ndim == 3:
        return values
    values = processing.apply_voi_lut(processing.apply_modality_lut(values, dataset), dataset).astype(np.float64)
    return -values if dataset.PhotometricInterpretation == "MONOCHROME1" else values


READERS: dict[str, dict[str, Callable[[bytes], Levels | None]]] = {
    "TIFF": {
        "Pillow": _pillow,
        "tifffile": _tifffile,
        "libtiff": lambda data: imagecodecs.tiff_decode(data, asrgb=True)[..., :3],
        "OpenCV": _opencv,
    },
    "PNG": {"Pillow": _pillow, "OpenCV": _opencv, "libpng": imagecodecs.png_decode, "spng": imagecodecs.spng_decode},
    "JPEG": {"Pillow": _pillow, "OpenCV": _opencv, "libjpeg-turbo": imagecodecs.jpeg8_decode},
    "JPEG 2000": {"Pillow": _pillow, "OpenCV": _opencv, "OpenJPEG": imagecodecs.jpeg2k_decode},
    "BMP": {"Pillow": _pillow, "OpenCV": _opencv, "imagecodecs": imagecodecs.bmp_decode},
    "GIF": {"Pillow": _pillow, "OpenCV": _opencv, "giflib": lambda data: imagecodecs.gif_decode(data, index=0)},
    "WebP": {"Pillow": _pillow, "OpenCV": _opencv, "libwebp": lambda data: imagecodecs.webp_decode(data, index=0)},
    "AVIF": {"Pillow": _pillow, "libavif": lambda data: imagecodecs.avif_decode(data, index=0)},
    "PNM": {"Pillow": _pillow, "OpenCV": _opencv},
    "DICOM": {"pydicom, pylibjpeg": _dicom},
}
_KINDS = {
    "DICOM": rb".{128}DICM|[\x02\x08]\0..[A-Z]{2}",
    "TIFF": rb"II[*+]\0|MM\0[*+]", "PNG": rb"\x89PNG\r\n\x1a\n", "JPEG": rb"\xff\xd8\xff", "BMP": rb"BM",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "GIF": rb"GIF8", "WebP": rb"RIFF....WEBP",
    "AVIF": rb"....ftypavi[fs]", "PNM": rb"P[1-7fF]\s",
}  # fmt: skip


def kind_of(data: bytes) -> str | None:
    return next((kind for kind, sign in _KINDS.items() if re.match(sign, data, re.DOTALL)), None)


def files_of(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield each content once, of the files that begin as an image does."""
    seen = set()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not {".git", "fuzz_images"} & set(path.parts) and 0 < path.stat().st_size < _LARGEST:
            data = path.read_bytes()
            digest = hashlib.sha256(data).digest()
            if digest not in seen and kind_of(data):
                seen.add(digest)
                yield path, data


def flat(levels: Levels) -> Levels:
    """Any reader's samples -> gray [H, W] on the same scale; what is transparent lies over black."""
    while levels.ndim > 3:
        levels = levels[0]
    if levels.dtype == bool:
        levels = levels.astype(np.uint8) * 255
    if levels.ndim == 2:
        return levels
    if levels.dtype == np.int8:
        levels = (levels.astype(np.int16) + 128).astype(np.uint8)
    count = levels.shape[2]
    white = np.iinfo(levels.dtype).max if levels.dtype.kind in "iu" else 1.0
    gray = luma(levels) if count >= 3 else levels[..., 0].astype(np.float64)
    if count in (2, 4):
        gray = gray * (levels[..., -1] / white)
    return gray.round().astype(levels.dtype) if levels.dtype in (np.uint8, np.uint16) else gray


def difference(data: bytes, other: Levels, kind: str) -> float:
    """Return how many gray levels a reader is away on average, in the orientation that fits best."""
    wanted = other.astype(np.float64)
    low, high = float(np.nanmin(wanted)), float(np.nanmax(wanted))
    rule = Rule(decided=Decided(integers=(0, 255), floats=(0, 255), claims=False))
    if kind == "DICOM":  # readers clip at other ends of a window
        gray = decode(data)
        alike = np.ptp(gray) and np.ptp(wanted) and gray.shape == wanted.shape
        return 255 * (1 - float(np.corrcoef(gray.ravel(), wanted.ravel())[0, 1])) / 10 if alike else float(np.ptp(gray))
    if other.dtype == np.int8:
        wanted += 128
    elif kind == "PNM" and other.dtype == np.uint16:
        wanted /= 257
    elif other.dtype != np.uint8:
        wanted = (wanted - low) / (high - low) * 255 if high > low else np.zeros_like(wanted)
        rule = Rule(setting=(low, high), clip=True, decided=Decided())
    gray = decode(data, rule).astype(np.float64)
    bases = [wanted, wanted.T] if other.dtype == np.uint8 or kind != "TIFF" else [wanted, wanted.T, 255 - wanted]
    turns = [turned for base in bases for turned in (base, base[::-1], base[:, ::-1], base[::-1, ::-1])]
    return min(
        (float(np.nanmean(np.abs(gray - turned))) for turned in turns if turned.shape == gray.shape), default=999.0
    )


def verdicts(data: bytes, kind: str, readers: Iterable[str] | None = None) -> dict[str, float]:
    """Return each reader that reads the file, and its difference.

    The readers run in a child process: some abort on damaged files, and are then tried one by one.
    """
    names = list(readers or READERS[kind])
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        found = {}
        for name in names:
            with suppress(Exception):
                if (levels := READERS[kind][name](data)) is not None:
                    found[name] = difference(data, flat(levels), kind)
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as source:
        answer = source.read()
    os.waitpid(child, 0)
    if answer:
        return json.loads(answer)
    return {} if len(names) == 1 else {k: v for name in names for k, v in verdicts(data, kind, [name]).items()}


def reason_of(path: Path, reader: str) -> str | None:
    return next((why for end, who, why in RIGHT if re.search(end, str(path)) and re.fullmatch(who, reader)), None)


def main(folders: list[str]) -> int:
    """Print the table, the differences with their reasons, and those without."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # other decoders print about damaged files
    right: dict[str, list[str]] = defaultdict(list)
    left: list[str] = []
    print("| corpus | format | files | images | with a reason | held by another reader | by no other | differences |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for folder in folders:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for path, data in files_of(Path(folder)):
            kind = kind_of(data) or ""
            count = counts[kind]
            count["files"] += 1
            name = f"{Path(folder).name}/{path.relative_to(folder)}"
            try:
                decode(data)
            except BadImageError as error:
                count[f"{error.reason.code}"] += 1
                count["refused"] += 1
                if "-v" in os.environ.get("CORPORA", ""):
                    print(f"  {name}: {error}")
                continue
            count["images"] += 1
            found = verdicts(data, kind)
            limit = _LOSSY if kind in ("JPEG", "JPEG 2000", "WebP", "AVIF") or b"JFIF" in data else 1.0
            count["held"] += any(value <= limit for value in found.values())
            count["alone"] += not found
            for reader, value in found.items():
                if value > limit:
                    count["differ"] += 1
                    why = reason_of(path, reader)
                    line = f"{name}: {reader} {value:.0f} levels"
                    right[why].append(line) if why else left.append(line)
        for kind, count in sorted(counts.items()):
            codes = ", ".join(f"{n} {code}" for code, n in count.items() if code in _CODES)
            numbers = (count["files"], count["images"], codes or 0, count["held"], count["alone"], count["differ"])
            print("|", *(f"{cell} |" for cell in (Path(folder).name, kind, *numbers)), flush=True)
    for why, lines in right.items():
        print(f"\n{why}: {len(lines)}\n" + "\n".join(f"  {line}" for line in lines))
    print(f"\nwithout a reason: {len(left)}\n" + "\n".join(f"  {line}" for line in left))
    return int(bool(left))


_CODES = (
    "unsupported",
    "truncated",
    "damaged",
    "too_large",
    "not_an_image",
    "beyond_levels",
    "levels_unknown",
    "blank",
)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
