"""Handwritten digits: 1,797 images of 8x8 pixels and 16 gray levels, from scikit-learn.

Origin: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998 (doi:10.24432/C50P49), CC BY 4.0. Licence of scikit-learn's copy: BSD-3-Clause.
"""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

LICENCE = "CC BY 4.0"


def make(to: Path) -> int:
    """Write the images and labels.csv; returns the number of images. Needs `grayline[samples]`."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    (to / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (levels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = f"images/{number:04}.png"
        Image.fromarray(np.rint(levels * (255 / 16)).astype(np.uint8)).save(to / path)
        rows.append((path, str(digit)))
    with open(to / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label"))
        writer.writerows(rows)
    return len(rows)
