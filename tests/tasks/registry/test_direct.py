"""A version found without MLflow: the same as MLflow's answer, or left to MLflow."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.store.db.utils import _get_latest_schema_revision

from resnet_core.errors import UserError
from resnet_core.storage.digest import DamagedVersionError
from tasks.registry import direct, runs, versions
from tests import old_version

HOME = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose database has today's schema and whose places are its own."""
    home = tmp_path_factory.mktemp("opened")
    old_version.unpack(home)
    runs.client(uri_of(home / "store")).search_registered_models()
    return home / "store"


@pytest.fixture
def store(opened: Path, tmp_path: Path) -> Path:
    """A copy that has moved; MLflow has seen it."""
    shutil.copytree(opened, tmp_path / "a store")
    runs.client(uri_of(tmp_path / "a store")).search_registered_models()
    return tmp_path / "a store"


def uri_of(store: Path) -> str:
    return f"sqlite:///{store}/mlflow.db"


def statement(text: str) -> Callable[[Path], None]:
    def change(store: Path) -> None:
        with closing(sqlite3.connect(store / "mlflow.db")) as db, db:
            db.execute(text)

    return change


@pytest.mark.parametrize("reference", [None, "digits", "digits@champion", "digits/1", "digits/2", "models:/digits/2"])
def test_it_is_what_mlflow_answers(store: Path, reference: str | None) -> None:
    found = direct._find(uri_of(store), reference)
    assert found is not None
    assert found[0] == versions.resolve(uri_of(store), reference)
    version, classifier = direct.load(uri_of(store), reference, "cpu")
    assert version == found[0]
    assert classifier.classes == versions.load_classifier(uri_of(store), version, "cpu").classes


def test_mlflow_is_not_imported(store: Path) -> None:
    code = "import sys; from tasks.registry.direct import load; load(sys.argv[1], None, 'cpu'); print(*sys.modules)"
    env = {**os.environ, "GRAYLINE_STORE": str(store), "PYTHONPATH": str(HOME)}
    command = [sys.executable, "-c", code, uri_of(store)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert not {"mlflow", "prefect", "sqlalchemy"} & set(done.stdout.split())


OTHERWISE: dict[str, Callable[[Path], None]] = {
    "another schema": statement("update alembic_version set version_num = 'ffff'"),
    "two schemas": statement("insert into alembic_version values ('ffff')"),
    "no table": statement("drop table registered_model_aliases"),
    "no alias": statement("delete from registered_model_aliases"),
    "deleted": statement("update model_versions set current_stage = 'Deleted_Internal'"),
    "elsewhere": statement("update model_versions set storage_location = 's3://bucket/model'"),
    "outside of the store": statement("update model_versions set storage_location = 'file:///tmp'"),
    "above the store": statement("update model_versions set storage_location = storage_location || '/../../../../..'"),
    "without digests": statement("delete from model_version_tags where key = 'grayline.files'"),
    "another workspace": statement("update model_versions set workspace = 'theirs'"),
    "no file": lambda store: (store / "mlflow.db").unlink(),
    "no database": lambda store: (store / "mlflow.db").write_bytes(b"nothing"),
    "moved": lambda store: store.rename(store.parent / "gone"),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_everything_else_is_left_to_mlflow(store: Path, what: str) -> None:
    OTHERWISE[what](store)
    place = store if store.exists() else store.parent / "gone"
    assert direct._find(uri_of(place), "digits") is None


@pytest.mark.parametrize(
    ("reference", "said"),
    [("digitz", "no model 'digitz'. Did you mean 'digits'"), ("digits@champ", "has no alias 'champ'"),
     ("digits/99", "has no version '99'"), ("digits/x", "has no version 'x'"), ("", "no model ''"),
     ("digits/01", "has no version '01'"), ("digits/\uff11", "has no version"), (f"digits/{10**30}", "has no version"),
     ("\udcff", "no model '\\udcff'"), ("a:b", "no model 'a:b'"), ("digits@\udcff", "has no alias '\\udcff'")],
)  # fmt: skip
def test_what_is_not_there_is_said_as_ever(store: Path, reference: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        direct.load(uri_of(store), reference, "cpu")
    assert said in str(raised.value)


def test_a_link_to_the_store_is_the_store_and_nothing_is_written(store: Path) -> None:
    (store.parent / "link").symlink_to(store)
    before = (store / "mlflow.db").read_bytes()
    found = direct._find(uri_of(store.parent / "link"), "digits")
    assert found is not None
    versions.load_classifier(uri_of(store.parent / "link"), found[0], "cpu")
    assert (store / "mlflow.db").read_bytes() == before


def test_two_models_and_a_server_are_left_to_mlflow(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statement("insert into registered_models (name, workspace) values ('other', 'default')")(store)
    assert direct._find(uri_of(store), None) is None
    assert direct._find(uri_of(store), "digits") is not None
    assert direct._find("http://127.0.0.1:1", "digits") is None
    monkeypatch.setenv("MLFLOW_WORKSPACE", "default")
    assert direct._find(uri_of(store), "digits") is None


def test_changed_files_are_refused(store: Path) -> None:
    found = direct._find(uri_of(store), "digits")
    assert found is not None
    weights = found[1] / "artifacts" / "model" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedVersionError, match=r"is refused: .*model\.safetensors") as raised:
        direct.load(uri_of(store), "digits", "cpu")
    with pytest.raises(DamagedVersionError) as usual:
        versions.load_classifier(uri_of(store), found[0], "cpu")
    assert str(raised.value) == str(usual.value)


def test_the_locked_mlflow_has_the_schema_that_the_statements_were_written_for() -> None:
    """Another one would be asked by MLflow's client: right, and two seconds slower."""
    assert _get_latest_schema_revision() in direct._SCHEMAS
