"""The pairs of look-alikes that a version's report shows."""

from pathlib import Path

import numpy as np
from upath import UPath

from resnet_core.images.preprocessing import Gray
from tasks.evaluation.look_alikes import closest, described
from tests import drawn
from tests.tasks.ingest.test_ingest import ingested, sharded, table
from tests.tasks.ingest.test_splits import pictures


def test_the_pairs_are_the_closest_and_have_the_pixels_of_both_sides(tmp_path: Path) -> None:
    dataset = pictures(tmp_path / "drawn", drawn.jig(60))
    store = UPath(tmp_path / "s")
    catalog, shard_set = ingested(dataset, store)[0], sharded(dataset, store)
    pairs, rows = closest(catalog), table(catalog).set_index("image_id")
    held = rows[(rows["split"] == "test") & rows["look_alike"].notna()]
    assert len(pairs) == min(12, len(held)) > 3
    assert [pair["residual"] for pair in pairs] == sorted(held["residual"])[:12]
    written: dict[str, Gray] = {}

    def write(image_id: str, pixels: Gray) -> str:
        written[image_id] = pixels
        return f"images/{image_id}.webp"

    entries = described(pairs, shard_set, {rows.index[0]: "elsewhere"}, write)
    for entry in entries:
        own, other = (written[each["image_id"]].astype(float) for each in (entry, entry["train"]))
        assert rows.loc[entry["train"]["image_id"], "split"] == "train"
        assert rows.loc[entry["train"]["image_id"], "label"] == entry["label"]
        assert entry["image"] == f"images/{entry['image_id']}.webp"
        assert np.corrcoef(own.ravel(), other.ravel())[0, 1] > 0.8


def test_without_look_alikes_there_are_no_pairs(tmp_path: Path) -> None:
    dataset = pictures(tmp_path / "drawn", drawn.forms(40))
    store = UPath(tmp_path / "s")
    catalog = ingested(dataset, store)[0]
    assert closest(catalog) == []
    assert described([], sharded(dataset, store), {}, lambda *_: "") == []
