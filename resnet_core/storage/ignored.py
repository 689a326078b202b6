"""Names of files that are never images: hidden files, sidecars, and what systems put beside images.

IGNORED is the whole list, for every source and for the store. docs/ignored.md is made of it. Case does not matter.
"""

import re
from functools import lru_cache
from typing import NamedTuple


class Ignored(NamedTuple):
    """A line of the list. `folders`: everything within is ignored, at any depth. `files`: whole names."""

    what: str
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()


def _split(names: str) -> tuple[str, ...]:
    return tuple(names.split())


IGNORED = (
    Ignored(
        "Synology, QNAP and other NAS: thumbnails, indexes, bins, snapshots",
        ("@eaDir", "#recycle", "@Recycle", "#snapshot", "@Recently-Snapshot", "@tmp", "@sharebin"),
    ),
    Ignored(
        "Windows",
        ("$RECYCLE.BIN", "System Volume Information", "FOUND.000"),
        ("Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "IconCache.db"),
    ),
    Ignored(
        "macOS",
        ("__MACOSX", "Network Trash Folder", "Temporary Items", "TheVolumeSettingsFolder"),
        ("Icon\r", "Icon\uf00d"),
    ),
    Ignored("Linux and Android", ("lost+found", "LOST.DIR"), ("nohup.out", "aquota.user", "aquota.group")),
    Ignored("Python, MLflow", ("__pycache__", "mlruns", "mlartifacts")),
    Ignored("image managers", (), ("Picasa.ini", "ZbThumbnail.info", "pspbrwse.jbf")),
    Ignored(
        "sidecars of photographs, maps and slides",
        suffixes=_split(".xmp .aae .thm .pp3 .dop .vrd .ovr .aux .tfw .jgw .pgw .wld .prj"),
    ),
    Ignored(
        "labels, lists, settings and texts",
        suffixes=_split(
            ".csv .tsv .json .jsonl .ndjson .geojson .xml .yaml .yml .toml .ini .cfg .cls .txt .md .rst .html .htm .log"
        ),
    ),
    Ignored("programs", suffixes=_split(".py .pyc .ipynb .sh .bat .ps1")),
    Ignored("databases and checksums", suffixes=_split(".db .sqlite .sqlite3 .md5 .sha1 .sha256 .sfv")),
    Ignored("shortcuts", suffixes=_split(".lnk .url .webloc .desktop")),
    Ignored("unfinished downloads", suffixes=_split(".part .partial .tmp .crdownload .download .filepart .aria2")),
)
# Also with a suffix of a document, or with words behind a hyphen: README.pdf, LICENSE-MIT.
DOCUMENTS = ("README", "LICENSE", "LICENCE", "COPYING", "NOTICE", "CHANGELOG", "CITATION", "AUTHORS", "CONTRIBUTING")
DOCUMENT_SUFFIXES = (".pdf", ".doc", ".docx", ".odt", ".rtf", ".tex", ".cff", ".bib")

# A folder below the source with a file of such a name is an own output: a store, a batch or a feature set.
OWN_MARKS = frozenset({"_store.json", "_batch.json", "_features.json"})

_NAMES = frozenset(name.lower() for line in IGNORED for name in (*line.folders, *line.files))
_SUFFIXES = frozenset(suffix for line in IGNORED for suffix in line.suffixes)
_BEGINNINGS = tuple(name.lower() for name in DOCUMENTS)
_DOCUMENT = re.compile(rf"({'|'.join(_BEGINNINGS)})(-[a-z]+)*({'|'.join(map(re.escape, DOCUMENT_SUFFIXES))})?")
# The same rules for columns of paths, in a fifth of the time.
IGNORED_PATTERN = (
    rf"(?is)(^|/)(~\$[^/]*|\.[^./][^/]*|\.\.[^/]+|{'|'.join(map(re.escape, sorted(_NAMES)))})(/|$)"
    rf"|[^/]({'|'.join(map(re.escape, sorted(_SUFFIXES)))})$|(^|/){_DOCUMENT.pattern}$"
)
_USUAL = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".webp", ".gif", ".pgm"))


def is_ignored(path: str) -> bool:
    """Return whether a file is ignored by its path below the source, with forward slashes."""
    folder, _, name = path.rpartition("/")
    if folder and _is_in_ignored_folder(folder):
        return True
    dot = name.rfind(".")
    suffix = name[dot:].lower() if dot > 0 else ""
    if suffix in _USUAL and name[0] not in ".~":  # in no need of a closer look
        return False
    lower = name.lower()
    return suffix in _SUFFIXES or is_from_system(lower) or _DOCUMENT.fullmatch(lower) is not None


def is_from_system(name: str) -> bool:
    """Return whether a file or a folder is hidden, or put there by a system. Such names may lie in a store, too."""
    return name.lower() in _NAMES or name[:2] == "~$" or (name[:1] == "." and name not in (".", ".."))


@lru_cache(maxsize=4096)
def _is_in_ignored_folder(folder: str) -> bool:
    """Remember the answers, for neighbours share their folder."""
    parts = folder.lower().split("/")
    looks_hidden = folder[0] in ".~" or "/." in folder or "/~" in folder
    return not _NAMES.isdisjoint(parts) or (looks_hidden and any(map(is_from_system, parts)))
