"""`grayline doctor --deep` proves that registry, catalog, shards and rows agree; `--repair` does what is safe."""

import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from upath import UPath

from flows.machine.audit import audit
from flows.machine.findings import Finding
from resnet_core.shards.encryption import Keys
from resnet_core.storage.digest import file_digest
from resnet_core.storage.turns import turn
from tasks.registry.champion import record
from tasks.registry.versions import CHAMPION, FILES, SHARDS
from tasks.store import Store
from tests.batches import write_batch
from tests.places import a_workspace
from tests.tasks.ingest.test_ingest import dataset_of, sharded
from tests.versions import register_version

Digits = tuple[np.ndarray, list[str]]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An empty registry, because to make one takes seconds."""
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"
    MlflowClient(uri, registry_uri=uri).search_registered_models()
    return uri


@pytest.fixture
def store(digit_folder: Path, tmp_path: Path, digits: Digits) -> Path:
    """A store with a catalog, shards, pixels, a batch and an engine."""
    root = tmp_path / "store"
    sharded(dataset_of(digit_folder), UPath(root))
    scores, _ = write_batch(root, digits, 30)
    manifest = json.loads((scores / "_manifest.json").read_text())
    manifest["parts"] = {f"{part}.parquet": 10 for part in range(3)}
    (scores / "_manifest.json").write_text(json.dumps(manifest))
    engine = root / "engines" / "d-0123456789abcdef-1234"
    engine.mkdir(parents=True)
    (engine / "model.onnx").write_bytes(b"graph")
    (engine / "trials.json").write_text(json.dumps([{"name": "onnx", "digest": file_digest(engine / "model.onnx")}]))
    return root


def found(store: Path, registry: str) -> list[Finding]:
    return list(audit(a_workspace(UPath(store), registry)))


def of_databases(store: Path, registry: str) -> list[Finding]:
    """The registry may have versions of other tests."""
    return [each for each in found(store, registry) if each.place.endswith(".db")]


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def flip(path: Path) -> None:
    """Change a byte of the file. Of a Parquet file it is one of a column: headers have bytes that nothing reads."""
    content, place = bytearray(path.read_bytes()), -1
    if path.suffix == ".parquet":
        column = pq.read_metadata(path).row_group(0).column(0)
        place += (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
    content[place] ^= 1
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [cut, flip])
def test_every_torn_file_is_found_and_derived_ones_are_repaired(
    store: Path, registry: str, harm: Callable[[Path], None]
) -> None:
    assert found(store, registry) == []
    derived = [
        min(store.glob(pattern)) for pattern in ("shards/d/*/*.parquet", "pixels/d/*/*.parquet", "engines/*/model.onnx")
    ]
    truth = [
        min(store.glob(pattern)) for pattern in ("catalog/d/*.parquet", "history/d/*.parquet", "scores/new/*.parquet")
    ]
    for path in derived + truth:
        harm(path)
    (store / "shards/d/.set.0123abcd").mkdir()
    (store / "work/d/2026-01-01").mkdir(parents=True)
    findings = found(store, registry)
    places = "\n".join(finding.place for finding in findings)
    for path in derived[:2] + truth[:1] + truth[2:]:
        assert str(path) in places
    assert str(truth[1].parent) in places
    assert str(derived[2].parent) in places
    assert all(finding.remedy for finding in findings)
    for finding in findings:
        if finding.mend:
            finding.mend()
    assert all(path.exists() for path in truth)
    left = found(store, registry)
    assert not [finding for finding in left if finding.mend and "shards" not in finding.place]
    assert not (store / "work/d").exists()
    assert not (store / "shards/d/.set.0123abcd").exists()


def test_shards_that_no_night_writes_again_are_made_of_their_twins(store: Path, registry: str) -> None:
    """Sets share files by links. A set of an earlier night that is torn was said to be mended by the next night."""
    (newest,) = store.glob("shards/d/*")
    old = newest.with_name("0123456789abcdef")
    shutil.copytree(newest, old, copy_function=os.link)
    manifest = old / "_manifest.json"
    content = json.loads(manifest.read_text())
    manifest.unlink()
    manifest.write_text(json.dumps(content | {"catalog_version": 0}))
    os.utime(manifest, (1, 1))
    torn = min(old.glob("*.parquet"))
    cut(torn)
    (finding,) = found(store, registry)
    assert (finding.place, finding.remedy) == (str(torn), "grayline doctor --deep --repair")
    assert finding.mend
    finding.mend()
    assert torn.samefile(newest / torn.name)
    os.truncate(torn, 100)  # as a bad sector does: under both names
    said = {each.place: (each.remedy, each.mend is None) for each in found(store, registry)}
    night, repair = "grayline retrain --dataset FILE.yaml", "grayline doctor --deep --repair"
    assert said[str(torn)] == (f"{night}, then {repair}", True)
    assert said[str(newest / torn.name)] == (night, False)
    only = old / "0123456789abcdef.parquet"  # of a part that has changed since: no other set has it
    content["shards"][only.name] = 10
    manifest.write_text(json.dumps(content | {"catalog_version": 0}))
    os.utime(manifest, (1, 1))
    said = {each.place: (each.remedy, each.mend is None) for each in found(store, registry)}
    assert said[str(only)] == ("restore it from a backup of the store", True)
    cut(manifest)
    os.utime(manifest, (1, 1))
    said = {each.place: (each.remedy, each.mend is None) for each in found(store, registry)}
    assert said[str(manifest)] == ("restore it from a backup of the store", True)
    manifest.unlink()  # then the set is one that is not finished
    assert not [each for each in found(store, registry) if str(old) in each.place]


def test_files_whose_key_is_not_here_are_not_mended(digit_folder: Path, tmp_path: Path, registry: str) -> None:
    """`--repair` removed whole shards and pixels of a data set whose key was in another shell."""
    root, keys = UPath(tmp_path / "store"), Keys("old", (("old", bytes(range(32))),))
    sharded(dataset_of(digit_folder, encrypt=True), root, keys)
    for key in (None, Keys("new", (("new", bytes(32)),)), Keys("old", (("old", bytes(32)),))):
        findings = list(audit(a_workspace(root, registry, keys=key)))
        assert {Path(each.place).relative_to(root.path).parts[0] for each in findings} == {"shards", "pixels"}
        assert not [each for each in findings if each.mend]
        assert all("the file may be whole" in each.remedy for each in findings), findings
    assert not [*audit(a_workspace(root, registry, keys=keys))]


def test_files_that_the_disk_refuses_are_not_mended(
    store: Path, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("resnet_core.shards.format.open_file", refuse)
    findings = found(store, registry)
    assert len(findings) >= 2
    assert not [each for each in findings if each.mend]
    assert all(each.remedy.startswith("mend the disk or the rights, then ") for each in findings)


def test_no_file_names_the_place_of_the_store(store: Path) -> None:
    """A store that is moved, copied or mounted elsewhere goes on."""
    for path in (path for path in store.rglob("*") if path.is_file() and "scores" not in path.parts):
        text = path.read_text("latin-1")
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            text = f"{table.schema.metadata} " + " ".join(str(table[name].to_pylist()) for name in table.column_names)
        assert str(store) not in text, path


def test_a_night_at_work_is_left_alone(store: Path, registry: str) -> None:
    (store / "shards/d/.set.0123abcd").mkdir()
    with turn(Store(UPath(store)).turn("d")):
        (finding,) = found(store, registry)
    assert "is at work" in finding.wrong
    assert finding.mend is None


def test_rows_labels_and_versions_that_disagree_are_found(store: Path, registry: str) -> None:
    manifest = store / "scores/new/_manifest.json"
    content = json.loads(manifest.read_text())
    content["parts"]["0.parquet"] = 11
    content["model_files"] = "digest of a model that is gone"
    manifest.write_text(json.dumps(content))
    shard_set = json.loads(min(store.glob("shards/d/*/_manifest.json")).read_text())
    shard_set["shards"] = {name: rows + 1 for name, rows in shard_set["shards"].items()}
    min(store.glob("shards/d/*/_manifest.json")).write_text(json.dumps(shard_set))
    version, mlflow = register_version(registry, "d")
    mlflow.set_model_version_tag("d", version.version, FILES, "f" * 64)
    mlflow.set_model_version_tag("d", version.version, SHARDS, "5" * 16)
    second, _ = register_version(registry, "d")
    mlflow.set_registered_model_alias("d", CHAMPION, second.version)
    text = "\n".join(f"{finding.place} {finding.wrong} | {finding.remedy}" for finding in found(store, registry))
    for wrong in (
        "10 rows, not 11", "31 rows for 30 files", "the registry has no digits version 1 of these files",
        "its files are gone from", "its shards 5555555555555555 are gone", "rows, not ",
    ):  # fmt: skip
        assert wrong in text, text
    record(registry, "d", "promoted", None, second.version, "by hand")
    mlflow.delete_registered_model_alias("d", CHAMPION)
    gone = [finding for finding in found(store, registry) if finding.place == f"d@{CHAMPION}"]
    wrong = f"the alias is gone; version {second.version} had it last"
    assert [(each.wrong, each.remedy) for each in gone] == [(wrong, f"grayline promote d {second.version}")]
    mlflow.delete_run(version.run_id)
    assert "its run is deleted | mlflow runs restore --run-id" in "\n".join(
        f"{finding.wrong} | {finding.remedy}" for finding in found(store, registry)
    )


def test_a_damaged_database_is_named(store: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"SQLite format 3\x00" + bytes(500))
    findings = audit(a_workspace(UPath(store), f"sqlite:///{tmp_path}/mlflow.db"))
    assert "MLflow's database is damaged" in next(findings).wrong


@pytest.mark.parametrize("where", ["tune/d/study.db", "prefect/prefect.db"])
def test_databases_of_searches_and_of_prefect_are_set_aside_when_damaged(
    store: Path, registry: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = store / where
    file.parent.mkdir(parents=True)
    monkeypatch.setenv("PREFECT_HOME", str(store / "prefect"))
    monkeypatch.delenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", raising=False)
    monkeypatch.setattr("flows.machine.audit._PATIENCE", 0.1)
    with closing(sqlite3.connect(file)) as db:
        db.execute("create table trials (value, name)")
        db.executemany("insert into trials values (?, ?)", [(k, f"{k}" * 50) for k in range(500)])
        db.commit()
    assert of_databases(store, registry) == []
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("begin exclusive")
        (finding,) = of_databases(store, registry)
        assert "not looked at" in finding.wrong
        assert finding.mend is None
    with file.open("rb+") as content:  # the third page of its rows
        content.seek(3 * 4096)
        content.write(bytes(2000))
        content.flush()
        (finding,) = of_databases(store, registry)  # this process has it open
        assert "end what uses it" in finding.remedy
        assert finding.mend is None
    (finding,) = of_databases(store, registry)
    assert finding.place == str(file)
    assert "database is damaged" in finding.wrong
    assert finding.mend
    finding.mend()
    assert of_databases(store, registry) == []
    assert [path.name for path in file.parent.iterdir()] == [finding.mended.removeprefix("set aside as ")]


def test_an_index_that_lacks_rows_is_made_again_and_no_row_is_touched(
    store: Path, registry: str, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    shutil.copyfile(registry.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        db.execute("create table notes (a, b)")
        db.executemany("insert into notes values (?, ?)", [(k, -k) for k in range(9)])
        db.execute("create index by_a on notes (a)")
        db.execute("pragma writable_schema = on")
        db.execute("update sqlite_master set sql = 'create index by_a on notes (b)' where name = 'by_a'")
        db.commit()
    (finding,) = of_databases(store, uri)
    assert finding.mend
    finding.mend()
    assert of_databases(store, uri) == []
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        assert db.execute("select count(*), sum(b) from notes").fetchone() == (9, -36)
