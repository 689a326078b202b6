"""Name files of other kinds than images by their first bytes, with a remedy where there is one."""

import codecs
import re

from resnet_core.reasons import ReasonCode

_CONVERT = "convert it to JPEG, PNG or TIFF"
_CAMERA = f"a camera's raw file; {_CONVERT}"
# The place, the bytes there, and what such a file is; the first that fits counts.
_SIGNATURES: list[tuple[int, bytes, str]] = [
    (0, b"version https://git-lfs.github.com/spec/", "a Git LFS pointer instead of the image; run `git lfs pull`"),
    (0, b"/annex/objects/", "a git-annex pointer instead of the image; run `git annex get`"),
    (0, b"%PDF-", "a PDF document; export its pages as images"),
    (0, b"%!PS", f"a PostScript document; {_CONVERT}"),
    (0, b"\xc5\xd0\xd3\xc6", f"a PostScript document; {_CONVERT}"),
    (0, b"\x93NUMPY", "a NumPy array (.npy); save it as PNG or TIFF"),
    (0, b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM); extract its frames as images"),
    (8, b"AVI ", "a video (AVI); extract its frames as images"),
    (0, b"\0\0\x01\xba", "a video (MPEG); extract its frames as images"),
    (0, b"\0\0\x01\xb3", "a video (MPEG); extract its frames as images"),
    (0, b"FLV\x01", "a video (Flash); extract its frames as images"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a video (Windows Media); extract its frames as images"),
    (4, b"moov", "a video (QuickTime); extract its frames as images"),
    (4, b"mdat", "a video (QuickTime); extract its frames as images"),
    (8, b"WAVE", "a sound file (WAV)"),
    (0, b"ID3", "a sound file (MP3)"),
    (0, b"OggS", "a sound or video file (Ogg)"),
    (0, b"fLaC", "a sound file (FLAC)"),
    (8, b"CR\x02\0", _CAMERA),
    (0, b"FUJIFILMCCD-RAW", _CAMERA),
    (0, b"IIRO", _CAMERA),
    (0, b"MMOR", _CAMERA),
    (0, b"IIRS", _CAMERA),
    (0, b"IIU\0", _CAMERA),
    (0, b"FOVb", _CAMERA),
    (0, b"\xff\x0a", f"a JPEG XL image; {_CONVERT}"),
    (0, b"\0\0\0\x0cJXL ", f"a JPEG XL image; {_CONVERT}"),
    (0, b"II\xbc", f"a JPEG XR image; {_CONVERT}"),
    (0, b"8BPS", f"a Photoshop document; {_CONVERT}"),
    (0, b"gimp xcf", f"a GIMP document; {_CONVERT}"),
    (0, b"v/1\x01", f"an OpenEXR image; {_CONVERT}"),
    (0, b"#?RADIANCE", f"a Radiance image; {_CONVERT}"),
    (0, b"DDS ", f"a DirectDraw texture; {_CONVERT}"),
    (0, b"qoif", f"a QOI image; {_CONVERT}"),
    (0, b"AT&TFORM", f"a DjVu document; {_CONVERT}"),
    (0, b"\0\0\x01\0", f"an icon (ICO); {_CONVERT}"),
    (0, b"icns", f"an icon (ICNS); {_CONVERT}"),
    (0, b"\x8aMNG", f"an animation (MNG); {_CONVERT}"),
    (0, b"SIMPLE  =", f"a FITS file; {_CONVERT}"),
    (344, b"n+1\0", f"a NIfTI volume; {_CONVERT}"),
    (344, b"ni1\0", f"a NIfTI volume; {_CONVERT}"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file; save its images as PNG or TIFF"),
    (0, b"MATLAB 5.0", "a MATLAB file; save its images as PNG or TIFF"),
    (0, b"PAR1", "a Parquet file; give it as the source itself"),
    (0, b"ARROW1", "an Arrow file"),
    (0, b"SQLite format 3\0", "a SQLite database"),
    (0, b"PK\x03\x04", "a zip archive, or a document or NumPy file in one; unpack it, or give it as the source itself"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"\x1f\x8b", "a gzip archive; unpack it"),
    (0, b"BZh", "a bzip2 archive; unpack it"),
    (0, b"\xfd7zXZ\0", "an xz archive; unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (0, b"Rar!", "a rar archive; unpack it"),
    (257, b"ustar", "a tar archive; unpack it, or give it as the source itself"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document or a thumbnail cache of Windows"),
    (0, b"\0\0\0\x01Bud1", "a folder's settings of macOS (.DS_Store)"),
    (0, b"\0\x05\x16\x07", "a sidecar of macOS (AppleDouble)"),
    (0, b"bplist00", "a property list of macOS"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program of Windows"),
    *(
        (0, b"\x80" + bytes([n]), "a Python pickle, which is never loaded; save the images as PNG")
        for n in (2, 3, 4, 5)
    ),
]
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_STILL = (b"avif", b"avis")
_HEIC_WORDS = (
    "a HEIC photograph; convert it to JPEG, as by `heif-convert`, or set the iPhone's camera to Most Compatible formats"
)
_PLAIN_PNM = re.compile(rb"P[1-3]\s+(#[^\n]*\s+)*\d")  # an image whose pixels are written as text


def name_foreign(data: bytes) -> str | None:
    """Return what a file is that no decoder knows, such as "a PDF document". None if its first bytes do not tell."""
    if data[4:8] == b"ftyp":
        return _name_of_media(data)
    head = data[:4096]
    text = None if _PLAIN_PNM.match(head) or head.startswith((b"GIF8", b"RIFF")) else _name_of_text(head)
    for place, signature, words in _SIGNATURES:
        if data.startswith(signature, place) and (text is None or len(signature) > 4):
            return words
    if not data.strip(b"\0"):
        return "zero bytes only, as of a copy that was cut off"
    return text


def code_of_foreign(name: str) -> ReasonCode:
    """Return the code for what `name_foreign` has named: pictures that are not read, a lost copy, or another thing."""
    if name.startswith("zero bytes"):
        return ReasonCode.DAMAGED
    picture = any(word in name for word in ("convert it", "pointer", "drawing"))
    return ReasonCode.UNSUPPORTED if picture else ReasonCode.NOT_AN_IMAGE


def _name_of_media(data: bytes) -> str | None:
    """Name a file of ISO's media format by its brands."""
    size = min(max(int.from_bytes(data[:4]), 16), 256)
    brands = [data[8:12], *(data[n : n + 4] for n in range(16, size, 4))]
    if any(brand in _STILL for brand in brands):
        return None
    if brands[0] in _HEIC:
        return _HEIC_WORDS
    if brands[0] == b"crx ":
        return _CAMERA
    if brands[0] in (b"M4A ", b"M4B "):
        return "a sound file (M4A)"
    return "a video (MP4 or QuickTime); extract its frames as images"


def _name_of_text(head: bytes) -> str | None:
    """Name a text by how it begins; None if it is not one."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head[: len(head) // 2 * 2].decode("utf-16", errors="replace")
    else:
        try:
            text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)  # the cut may split a character
        except UnicodeDecodeError:
            if sum(byte < 128 for byte in head) < 0.8 * len(head):
                return None
            text = head.decode("latin-1")
    if any(not (character.isprintable() or character.isspace()) for character in text):
        return None
    start = text.lstrip().lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "a web page (HTML), such as a page to log in; download the image again"
    if "<svg" in start[:1024]:
        return "a drawing (SVG); export it as PNG"
    if start.startswith("%pdf-"):
        return "a PDF document; export its pages as images"
    return "a text file"
