"""ELPV: 2,624 electroluminescence images of solar cells, from the package `elpv-dataset`.

Licence of the images: CC BY-NC-SA 4.0 (not for commercial use). Source: Buerhop-Lutz et al. 2018,
Deitsch et al. 2019 (doi:10.1016/j.solener.2019.02.067), Deitsch et al. 2021.

Experts gave each cell a probability of being defective: 0, 1/3, 2/3 or 1. Above a half it is called
`defective` here, else `functional`; where they were not sure, the soft label says how far. In labels4.csv
the four probabilities are four classes, with the same split. Three quarters are for training; the quarter
that is held out has the same share of every (cell type, probability).
"""

import csv
import hashlib
import math
import shutil
from collections import defaultdict
from pathlib import Path

SEED = 0
LICENCE = "CC BY-NC-SA 4.0"
# The probability in the published file, and its class in labels4.csv.
GRADES = {"0.0": "0", "0.3333333333333333": "1/3", "0.6666666666666666": "2/3", "1.0": "1"}


def make(to: Path) -> int:
    """Write the images, labels.csv and labels4.csv; returns the number of images. Needs `grayline[samples]`."""
    import elpv_dataset

    source = Path(elpv_dataset.__file__).parent / "data"
    cells = [line.split() for line in (source / "labels.csv").read_text().splitlines() if line.strip()]
    (to / "images").mkdir(parents=True, exist_ok=True)
    rows, strata = [], defaultdict(list)
    for path, probability, kind in cells:
        shutil.copyfile(source / path, to / path)
        defective = float(probability) > 0.5
        rows.append(
            {
                "path": path,
                "label": "defective" if defective else "functional",
                "split": "train",
                "soft_label": soft_label(float(probability)),
                "probability": probability,
                "type": kind,
            }
        )
        strata[kind, probability].append(rows[-1])
    for stratum in strata.values():
        hold_out(stratum, source)
    rows.sort(key=lambda row: row["path"])
    write(to / "labels.csv", rows)
    write(to / "labels4.csv", [row | {"label": GRADES[row["probability"]], "soft_label": ""} for row in rows])
    return len(rows)


def soft_label(defective: float) -> str:
    """Nothing for a cell on which the experts agree."""
    return "" if defective in (0, 1) else f"defective={defective:.2f}; functional={1 - defective:.2f}"


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def hold_out(stratum: list[dict[str, str]], source: Path) -> None:
    """The quarter whose hashes of (seed, image) are lowest. The published set is fixed, so an image's
    split depends on nothing but its bytes and the seed."""
    stratum.sort(key=lambda row: position(source / row["path"]))
    for row in stratum[: math.floor(len(stratum) / 4 + 0.5)]:
        row["split"] = "test"


def position(image: Path) -> str:
    return hashlib.sha256(f"{SEED}:".encode() + image.read_bytes()).hexdigest()
