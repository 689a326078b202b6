"""Images that are still being copied in wait for the next night."""

import os
import threading
import time
from pathlib import Path

import pytest
from upath import UPath

from tasks.ingest import pixels
from tests.tasks.ingest.test_ingest import dataset_of, ingested, table


def test_a_file_that_grows_waits_and_comes_in_the_next_night(digit_folder: Path, tmp_path: Path) -> None:
    dataset, store = dataset_of(digit_folder, quarantine_limit=0.0), UPath(tmp_path / "s")
    growing = next(digit_folder.glob("1/*.png"))
    whole = growing.read_bytes()
    growing.write_bytes(whole[:40])
    ended = threading.Event()

    def copy() -> None:
        while not ended.wait(0.3):  # slower than a part is read
            with growing.open("ab") as file:
                file.write(b"\0")

    copying = threading.Thread(target=copy)
    copying.start()
    try:
        first, _ = ingested(dataset, store)
    finally:
        ended.set()
        copying.join()
    row = table(first).query("reason_code == 'still_written'").iloc[0]
    assert (row["uri"], row["status"]) == (str(growing), "waiting")
    assert (first.ok, first.waiting, first.quarantined) == (199, 1, 0)
    growing.write_bytes(whole)
    second, _ = ingested(dataset, store)
    assert (second.ok, second.waiting, second.read) == (200, 0, 1)
    assert len(table(second)) == 200  # the half of a file has left no row


def test_a_file_that_can_be_decoded_waits_as_long_as_its_time_moves(
    digit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, store = dataset_of(digit_folder), UPath(tmp_path / "s")
    moving, read = next(digit_folder.glob("2/*.png")), pixels.read_files

    def read_while_it_moves(*what: object) -> object:
        images = read(*what)  # type: ignore[arg-type]
        os.utime(moving)
        return images

    with monkeypatch.context() as patch:
        patch.setattr(pixels, "read_files", read_while_it_moves)
        first, _ = ingested(dataset, store)
    assert (first.ok, first.waiting) == (199, 1)
    assert ingested(dataset, store)[0].ok == 200


def test_a_damaged_file_that_lies_still_is_quarantined(digit_folder: Path, tmp_path: Path) -> None:
    for name, age in (("new.png", 0), ("old.png", 3600), ("ahead.png", -30)):
        (digit_folder / "3" / name).write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 20)
        os.utime(digit_folder / "3" / name, (time.time() - age,) * 2)
    catalog, _ = ingested(dataset_of(digit_folder), UPath(tmp_path / "s"))
    assert (catalog.ok, catalog.waiting, catalog.quarantined) == (200, 0, 3)


@pytest.mark.parametrize("suffix", ["part", "tmp", "crdownload", "filepart"])
def test_an_unfinished_download_is_ignored(suffix: str, digit_folder: Path, tmp_path: Path) -> None:
    dataset, store = dataset_of(digit_folder), UPath(tmp_path / "s")
    image = next(digit_folder.glob("4/*.png"))
    partial = image.rename(image.with_name(f"{image.name}.{suffix}"))
    first, _ = ingested(dataset, store)
    assert (first.ok, first.ignored, first.quarantined) == (199, 1, 0)
    partial.rename(image)
    assert ingested(dataset, store)[0].ok == 200
