"""What a batch and corrections may reach: a list names files beside it, unless a person names the list."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from upath import UPath

from flows.cli.options import persons_list
from resnet_core.errors import UserError
from resnet_core.storage.files import to_output
from tasks.batch import finish as finish_batch
from tasks.report.pages import check_place
from tests.resnet_core.model.test_classifier import a_classifier
from tests.scoring import classify, plan, use
from tests.tasks.ingest.test_ingest import dataset_of, ingested, table

Digits = tuple[np.ndarray, list[str]]


@pytest.fixture(autouse=True)
def _classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    use(a_classifier(), monkeypatch)
    monkeypatch.setattr(finish_batch, "publish_page", lambda *page, **more: None)


@pytest.fixture
def listed(digit_folder: Path, tmp_path: Path) -> Path:
    """A list in a folder of its own: an image beside it, and one elsewhere."""
    inside = tmp_path / "lists" / "in.png"
    inside.parent.mkdir()
    first, second = sorted(digit_folder.rglob("*.png"))[:2]
    inside.write_bytes(first.read_bytes())
    list_of = inside.with_name("list.txt")
    list_of.write_text(f"in.png\n{second}\n")
    return list_of


def test_a_list_of_a_deployments_run_names_files_beside_it(listed: Path, tmp_path: Path) -> None:
    scores = classify(listed, tmp_path / "out")
    rows = pd.read_parquet(tmp_path / "out").set_index("status")
    assert (scores.files, scores.scored) == (2, 1)
    assert rows.loc["ok", "uri"] == str(listed.with_name("in.png"))
    assert "#out-of-reach=" in rows.loc["failed", "uri"]


def test_a_list_on_the_command_line_is_the_persons_word(listed: Path, tmp_path: Path) -> None:
    with persons_list(str(listed)):
        assert classify(listed, tmp_path / "out").scored == 2
    with persons_list("https://example.org/list.txt"):  # somebody else's
        assert plan(listed, tmp_path / "other").files == 2
        assert classify(listed, tmp_path / "other").scored == 1


def test_manifest_roots_of_the_machine_count_for_a_batch(
    listed: Path, digit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAYLINE_MANIFEST_ROOTS", f"s3://bucket/x, {digit_folder}")
    assert classify(listed, tmp_path / "out").scored == 2


@pytest.mark.parametrize("seen", [True, False], ids=["with the bytes' digest", "without"])
def test_a_mailed_correction_names_no_image_that_its_writer_has_not_seen(
    digit_folder: Path, tmp_path: Path, seen: bool
) -> None:
    private = tmp_path / "private" / "x.png"
    private.parent.mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save(private)
    digest = hashlib.sha256(private.read_bytes()).hexdigest() if seen else ""
    mailed = tmp_path / "mail" / "labels.csv"
    mailed.parent.mkdir()
    mailed.write_text(f"path,label,image_id\n{private},3,{digest}\nhttp://127.0.0.1:9/x.png,3,{'a' * 64}\n")
    found, _ = ingested(dataset_of(digit_folder, corrections=str(mailed)), UPath(tmp_path / "s"))
    rows = table(found)
    rows = rows[~rows["uri"].str.startswith(str(digit_folder))].set_index("uri")
    assert (rows["status"] == "ok").tolist().count(True) == seen
    away = rows[rows["status"] != "ok"]
    assert away.index.str.contains("#out-of-reach=").all()
    assert set(away["reason_code"]) == {"file_missing"}


def test_an_output_replaces_nothing_of_others(tmp_path: Path, digit_folder: Path) -> None:
    image = next(digit_folder.rglob("*.png"))
    before = image.read_bytes()
    with pytest.raises(UserError, match="is not a page of Grayline's, and is not replaced"):
        check_place(str(image), "gallery.html")
    assert image.read_bytes() == before
    classify(digit_folder, tmp_path / "one")
    (tmp_path / "other").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "other" / "x.png")
    with pytest.raises(UserError, match="holds a batch of"):
        plan(tmp_path / "other", tmp_path / "one")
    with pytest.raises(UserError, match="would be scored itself"):
        plan(digit_folder, digit_folder)
    with pytest.raises(UserError, match="belongs to the system"):
        to_output("/etc/grayline", "--output")
