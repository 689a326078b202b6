"""Copies that are found, images that are taken for copies, and what is held out, before and after a change.

    python -m benchmarks.look_alikes [--checkout DIR] [--cards DIR] [--fashion DIR] [NAME ...]

Copies are planted in each data set: re-encoded (JPEG 60), half the size, other tones, 2% cropped. Then the ingest of
this checkout runs, and that of another one beside it, such as a worktree of 62bb84c.

column  meaning
jpeg..  planted copies that a tie or their group keeps on their original's side, or that the catalog says to be
        look-alikes; without copies that chance alone has put on that side
joined  images that are tied to another one of which no copy was planted
largest the images of the largest cluster of ties
held    test images; `out`: good images that are left out of the training

Cards: Debian's gnome-cards-data, unpacked, and the package resvg-py. Fashion: Debian's dataset-fashion-mnist.
"""

import argparse
import gzip
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Console
from rich.table import Table

from tests import drawn
from tests.drawn import Picture

KINDS = ("jpeg", "half", "tones", "crop")
PLANTED = 60
SIZES = {"digits": 8, "fashion": 28}
INGEST = """
import json, sys
from upath import UPath
from resnet_core.images.limits import Limits
from tasks.dataset import Dataset
from tasks.ingest.catalog import write_catalog
from tasks.ingest.pixels import read_part
from tasks.ingest.scan import scan
from tests.places import a_workspace
data = Dataset.model_validate(json.loads(sys.argv[2]))
here = a_workspace(UPath(sys.argv[1]))
found = scan.fn(data, here)
for part in found.unread:
    read_part.fn(part, data.image, Limits())
write_catalog.fn(found, data, here)
"""


def elpv() -> Iterator[Picture]:
    folder = Path(str(files("elpv_dataset"))) / "data"
    for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines():
        path, probability, *_ = line.replace(",", " ").split()
        if path.endswith(".png"):
            yield ("defective" if float(probability) > 0.5 else "functional"), "", np.asarray(Image.open(folder / path))


def digits() -> Iterator[Picture]:
    from sklearn.datasets import load_digits

    found = load_digits()
    for image, label in zip(found.images, found.target, strict=True):
        yield str(label), "", (image * 255 / 16).astype(np.uint8)


def fashion(folder: Path, count: int = 3000) -> Iterator[Picture]:
    def read(name: str, offset: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=offset)

    images = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)[:count]
    for image, label in zip(images, read("t10k-labels-idx1-ubyte.gz", 8)[:count], strict=True):
        yield str(label), "", image


def cards(folder: Path) -> Iterator[Picture]:
    """Yield the cards of every deck: a sheet of 13 ranks by 4 suits and a row of jokers."""
    import resvg_py

    for path in sorted(folder.glob("*.svgz")):
        try:
            sheet = resvg_py.svg_to_bytes(svg_path=str(path), width=13 * 120, background="#ffffff")
        except ValueError:
            continue
        pixels = np.asarray(Image.open(io.BytesIO(sheet)).convert("L"))
        high, wide = pixels.shape[0] // 5, 120
        for row, suit in enumerate(drawn.SUITS):
            for rank in range(13):
                card = pixels[row * high : (row + 1) * high, rank * wide : (rank + 1) * wide]
                if card.std() > 5:
                    yield suit, path.stem, card


def changed(image: Image.Image, kind: str) -> tuple[Image.Image, str]:
    """Return a copy of a picture, and how its file ends."""
    wide, high = image.size
    if kind == "jpeg":
        return image, "jpg"
    if kind == "half":
        return image.resize((max(8, wide // 2), max(8, high // 2)), Image.Resampling.BILINEAR), "png"
    if kind == "tones":
        return image.point([min(255, round(1.1 * level + 12)) for level in range(256)]), "png"
    edge = max(1, round(0.02 * min(wide, high)))
    return image.crop((edge, edge, wide - edge, high - edge)), "png"


def write(pictures: Iterator[Picture], folder: Path) -> dict[str, str]:
    """Write the data set, its labels and the copies. Returns original by copy, as file names."""
    rows, originals = [], {}
    pictures = list(pictures)
    planted = set(
        np.random.default_rng(1).choice(len(pictures), min(PLANTED, len(pictures) // 4), replace=False).tolist()
    )
    for number, (label, group, pixels) in enumerate(pictures):
        image = Image.fromarray(pixels)
        names = {f"{number:05}.png": image}
        for kind in KINDS if number in planted else ():
            copy, suffix = changed(image, kind)
            names[f"{number:05}-{kind}.{suffix}"] = copy
            originals[f"{number:05}-{kind}.{suffix}"] = f"{number:05}.png"
        for name, picture in names.items():
            picture.save(folder / name, **({"quality": 60} if name.endswith("jpg") else {}))
            rows.append({"path": name, "label": label, "group": group})
    table = pd.DataFrame(rows)
    table.drop(columns=[] if table["group"].any() else ["group"]).to_csv(folder / "labels.csv", index=False)
    return originals


def ingest(checkout: Path, folder: Path, size: int) -> pd.DataFrame:
    """Return the catalog that a checkout makes of the data set."""
    settings = {"name": "d", "source": str(folder), "labels": f"{folder}/labels.csv", "image": {"size": size}}
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, "-c", INGEST, store, json.dumps(settings)]
        subprocess.run(
            command, cwd=checkout, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(checkout)}
        )
        rows = pd.read_parquet(f"{store}/catalog/d/catalog.parquet")
    rows["name"] = rows["uri"].str.rsplit("/", n=1).str[-1]
    return rows.set_index("name")


def measure(rows: pd.DataFrame, originals: dict[str, str]) -> dict[str, str]:
    """Return the columns of the table for one catalog."""
    parent = {image: image for image in rows["image_id"]}

    def root(image: str) -> str:
        while parent.setdefault(image, image) != image:
            image = parent[image]
        return image

    label = dict(zip(rows["image_id"], rows["label"], strict=True))
    for image, near in zip(rows["image_id"], rows["near"], strict=True):
        if isinstance(near, str) and label.get(near) == label[image]:
            parent[root(image)] = root(near)
    cluster = rows["image_id"].map(root)
    like = rows["look_alike"] if "look_alike" in rows else pd.Series(None, rows.index, dtype=object)
    found = {kind: [] for kind in KINDS}
    for copy, original in originals.items():
        tied = cluster[copy] == cluster[original] or (rows.at[copy, "group"] or copy) == rows.at[original, "group"]
        apart = rows.at[copy, "split"] != rows.at[original, "split"]
        if tied or apart:
            held = copy if rows.at[copy, "split"] == "test" else original
            found[copy.split("-")[1].split(".")[0]].append(tied or isinstance(like[held], str))
    original = {name: originals.get(name, name) for name in rows.index}
    families = pd.DataFrame({"cluster": cluster, "original": original, "image": rows["image_id"]})
    families = families.drop_duplicates("image").groupby("cluster")["original"].nunique()
    joined = int(cluster.map(families).gt(1).sum())
    good = rows[rows["status"] == "ok"]
    held = good["split"] == "test"
    leaks = f", {int(good.loc[held, 'look_alike'].notna().sum())} alike" if "look_alike" in rows else ""
    return {
        **{kind: f"{np.mean(found[kind]):.2f}" for kind in KINDS},
        "joined": f"{joined:,}",
        "largest": f"{cluster.value_counts().iloc[0]:,}",
        "held": f"{int(held.sum()):,} ({held.mean():.1%}{leaks})",
        "out": f"{int((rows['reason_code'] == 'near_duplicate').sum()):,}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="elpv, digits, jig, forms, drawn-cards, characters, cards, fashion")
    parser.add_argument("--checkout", type=Path, help="another state of the code, measured beside this one")
    parser.add_argument("--cards", type=Path, default=Path("/usr/share/aisleriot/cards"))
    parser.add_argument("--fashion", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    given = parser.parse_args()
    sets: dict[str, Callable[[], Iterator[Picture]]] = {
        "elpv": elpv, "digits": digits, "jig": drawn.jig, "forms": drawn.forms, "drawn-cards": drawn.cards,
        "characters": drawn.characters, "cards": lambda: cards(given.cards), "fashion": lambda: fashion(given.fashion),
    }  # fmt: skip
    here = Path(__file__).parents[1]
    table = Table("data set", "images", "code", *KINDS, "joined", "largest", "held", "out", box=None)
    for name in given.names or sets:
        with tempfile.TemporaryDirectory() as folder:
            pictures = sets[name]()
            first = next(pictures, None)
            if first is None:
                continue
            originals = write(chain([first], pictures), Path(folder))
            for code, checkout in (("before", given.checkout), ("after", here)):
                if checkout:
                    rows = ingest(checkout.absolute(), Path(folder), SIZES.get(name, 96))
                    table.add_row(name, f"{len(rows):,}", code, *measure(rows, originals).values())
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
