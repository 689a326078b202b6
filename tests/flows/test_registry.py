"""A version that can be trusted and taken back: one night of real digits, real MLflow, real Prefect."""

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from upath import UPath

from flows.classify_batch import classify_batch
from flows.nightly_retrain import nightly_retrain
from flows.promote import promote, rollback
from flows.reproduce import reproduce
from resnet_core.errors import UserError
from resnet_core.model.classifier import Classifier
from resnet_core.model.pretrained import check as check_pretrained
from resnet_core.model.resnet import ModelConfig
from resnet_core.storage.digest import DIGESTS, DamagedVersionError, file_digest, write_digests
from tasks.dataset import load_dataset
from tasks.registry import versions as registry_module
from tasks.registry.champion import events
from tasks.registry.integrity import check_version, sign, verified_folder
from tasks.registry.versions import load_classifier
from tasks.release.promote import carry_out
from tasks.release.reproduce import recall, train_again
from tasks.settings import Settings
from tasks.training.lineage import lock_digest, read_lineage
from tasks.values import Check, Decision, ModelVersion, Night, ShardSet
from tests.conftest import write_folder
from tests.places import a_workspace

pytestmark = pytest.mark.usefixtures("prefect")

Digits = tuple[np.ndarray, list[str]]
DATASET = {
    "name": "few",
    "image": {"size": 8},
    "model": {"arch": "resnet10", "width": 16},
    "train": {"epochs": 4, "batch_size": 32, "optimizer": "sgd", "lr": 0.1, "augment": {"flips": "none"}},
    "gate": {"minimum": 0.1},
    "card": {"intended_use": "Reading digits.", "licence": "CC BY 4.0"},
}


@dataclass(frozen=True)
class Nights:
    """Two nights: version 1 became the champion, version 2 is the same with another seed, and signed."""

    folder: Path
    first: Night
    uri: str

    @property
    def registry(self) -> MlflowClient:
        return MlflowClient(self.uri, registry_uri=self.uri)

    @property
    def champion(self) -> str:
        return str(self.registry.get_model_version_by_alias("few", "champion").version)

    def files(self, version: str) -> Path:
        return Path(self.registry.get_model_version_download_uri("few", version).removeprefix("file://"))


@pytest.fixture(scope="module")
def nights(prefect: None, tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Iterator[Nights]:
    folder = tmp_path_factory.mktemp("registry")
    write_folder(folder / "raw", digits, range(3), 200)
    write_key(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("GRAYLINE_STORE", str(folder / "store"))
        patch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")  # seconds; it is 10 by default
        first = nightly_retrain(str(write(folder)))
        patch.setenv("GRAYLINE_SIGNING_KEY", str(folder / "private.pem"))
        nightly_retrain(str(write(folder, seed=1)), until="register")
        patch.delenv("GRAYLINE_SIGNING_KEY")
        yield Nights(folder, first, Settings().tracking_uri)


def write(folder: Path, seed: int = 0) -> Path:
    path = folder / "few.yaml"
    content = DATASET | {"source": str(folder / "raw"), "train": {**DATASET["train"], "seed": seed}}  # type: ignore[dict-item]
    path.write_text(yaml.safe_dump(content))
    return path


def write_key(folder: Path, name: str = "") -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{name}private.pem").write_bytes(private)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}public.pem").write_bytes(public)


@pytest.fixture
def damaged(nights: Nights) -> Iterator[Path]:
    """Version 2's files, to be damaged; they and the tags are put back, and nothing is remembered of them."""
    files, copy = nights.files("2"), nights.folder / "copy"
    tags = nights.registry.get_model_version("few", "2").tags
    shutil.copytree(files, copy)
    registry_module._load_classifier.cache_clear()
    yield files
    shutil.rmtree(files)
    copy.rename(files)
    nights.registry.set_model_version_tag("few", "2", "grayline.files", tags["grayline.files"])
    registry_module._load_classifier.cache_clear()


TWO = ModelVersion("few", "2", "")


def test_a_version_says_what_it_is_made_of(nights: Nights) -> None:
    version = nights.registry.get_model_version("few", "1")
    checkpoint, catalog, shard_set = nights.first.checkpoint, nights.first.catalog, nights.first.shard_set
    assert checkpoint is not None
    assert shard_set is not None
    lineage = read_lineage(nights.files("1") / "artifacts")
    assert lock_digest(lineage["distributions"]) == lineage["lock"] == version.tags["grayline.lock"]
    assert len(lineage["threads"]) == checkpoint.epochs
    wanted = {
        "grayline.checkpoint": checkpoint.digest,
        "grayline.catalog": catalog.digest,
        "grayline.shards": shard_set.digest,
        "grayline.seed": "0",
        "grayline.commit": lineage["commit"],
        "grayline.files": file_digest(nights.files("1") / DIGESTS),
        "grayline.arch": "resnet10",
    }
    assert wanted.items() <= version.tags.items()
    assert "grayline.signature" not in version.tags
    listed = json.loads((nights.files("1") / DIGESTS).read_text())
    assert {"MLmodel", "served_model.py", "artifacts/model/model.safetensors", "artifacts/lineage.json"} <= set(listed)
    trained = Path(checkpoint.folder.path) / "model" / "model.safetensors"
    assert listed["artifacts/model/model.safetensors"] == file_digest(trained)
    run = nights.registry.get_run(version.run_id)
    assert re.fullmatch(rf"few-\d{{4}}-\d\d-\d\d-resnet10-fast-8px-{checkpoint.digest[:8]}", run.info.run_name)
    found = nights.registry.search_runs(
        [run.info.experiment_id],
        "tags.`grayline.promoted` = 'true' and tags.`grayline.catalog_version` = '1' "
        "and tags.`grayline.arch` = 'resnet10'",
    )
    assert [one.info.run_id for one in found] == [version.run_id]
    assert run.inputs.dataset_inputs[0].dataset.digest == catalog.digest
    assert any(name.startswith("system/") for name in run.data.metrics)


def test_the_card_tells_it_to_a_person(nights: Nights) -> None:
    text = nights.registry.get_model_version("few", "1").description
    checkpoint, evaluation, catalog = nights.first.checkpoint, nights.first.evaluation, nights.first.catalog
    assert checkpoint is not None
    assert evaluation is not None
    headings = [row[3:] for row in text.splitlines() if row.startswith("## ")]
    assert headings == ["Gate", "Intended use", "Limits", "Data", "Quality", "Training"]
    said = [
        "Reading digits.",
        "Licence of the images: CC BY 4.0",
        "0 (training), 0 (split)",
        "SHA-256",
        "shift 0.125 (of the side, a pixel at least)",
    ]
    run = nights.registry.get_run(checkpoint.mlflow_run_id).data
    assert "warmup 0.2 (a fifth of the steps)" in run.tags["grayline.settings"]
    assert run.params["train.augment.shift"] == "0.125"
    said += [catalog.digest, str(evaluation.metrics["accuracy"]), checkpoint.digest, checkpoint.mlflow_run_id]
    for words in said:
        assert words in text
    rows = pd.read_parquet(catalog.path.path).query("status == 'ok'").groupby(["label", "split"]).size()
    for label in "012":
        assert f"| {label} | {rows[label, 'train']} | {rows[label, 'test']} |" in text


def test_what_the_gate_refused_is_on_the_card_and_in_the_history(nights: Nights) -> None:
    before = nights.registry.get_model_version("few", "2").description
    checks = (Check("floor", "at least 0.9", "0.5 | <b>", False), Check("history", "new", "new", True))
    for _ in range(2):  # a night that was interrupted judges again
        carry_out.fn(Decision(TWO, checks, False, "floor: 0.5"), nights.uri)
    assert nights.champion == "1"
    event = events(nights.uri, "few")[-1]
    assert (event.action, event.before, event.after, event.why) == ("refused", "1", "2", "gate: floor: 0.5")
    text = nights.registry.get_model_version("few", "2").description
    gate = text.partition("## Gate\n")[2].partition("\n## ")[0]
    assert gate.count("**failed**") == gate.count("passed") == 1
    assert "<b>" not in gate.replace(r"\<", "")
    assert text.replace(gate, "") == before.replace("\nNot judged yet.\n", "")
    carry_out.fn(Decision(TWO, (), False, "nothing has changed"), nights.uri)
    assert events(nights.uri, "few")[-1] == event


def test_promote_score_roll_back_score(nights: Nights, tmp_path: Path) -> None:
    promote("few", 2, "I know better")
    assert nights.champion == "2"
    by_two = classify_batch(str(nights.folder / "raw"), str(tmp_path / "two"), "few@champion")
    rollback("few", None, "I did not")
    assert nights.champion == "1"
    by_one = classify_batch(str(nights.folder / "raw"), str(tmp_path / "one"), "few@champion")
    assert (by_two.model.version, by_one.model.version) == ("2", "1")
    rows = {name: pd.read_parquet(tmp_path / name).sort_values("uri") for name in ("one", "two")}
    assert set(rows["one"]["model_version"]) == {"1"}
    assert not np.allclose(*(np.stack(table["probabilities"].to_numpy()) for table in rows.values()))
    last = events(nights.uri, "few")[-2:]
    assert [(e.action, e.before, e.after, e.why) for e in last] == [
        ("promoted", "1", "2", "I know better"),
        ("rolled back", "2", "1", "I did not"),
    ]
    assert "flow run rollback/" in last[1].who
    tags = [nights.registry.get_run(nights.registry.get_model_version("few", v).run_id).data.tags for v in "12"]
    assert [tag["grayline.promoted"] for tag in tags] == ["true", "rolled back"]
    with pytest.raises(UserError, match="version 1 has no earlier champion that is still registered"):
        rollback("few")
    rollback("few", 2, "after all")  # chosen by a person: it is taken back no more
    assert "grayline.rolled_back" not in nights.registry.get_model_version("few", "2").tags
    rollback("few", 1)


def change_weights(files: Path) -> str:
    path = files / "artifacts" / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return "artifacts/model/model.safetensors is changed"


def lose_preprocessing(files: Path) -> str:
    (files / "artifacts" / "model" / "model.json").unlink()
    return "artifacts/model/model.json is missing"


def add_code(files: Path) -> str:
    (files / "code" / "sitecustomize.py").write_text("import os")
    return "code/sitecustomize.py is not a file of a version of Grayline's"


def change_the_list_too(files: Path) -> str:
    change_weights(files)
    write_digests(files)
    return f"{DIGESTS} is changed"


@pytest.mark.parametrize("damage", [change_weights, lose_preprocessing, add_code, change_the_list_too])
def test_a_version_with_other_files_is_refused_and_the_alias_stays(nights: Nights, damaged: Path, damage) -> None:  # type: ignore[no-untyped-def]
    words = damage(damaged)
    history = events(nights.uri, "few")
    for use in (
        lambda: load_classifier(nights.uri, TWO, "cpu"),
        lambda: promote("few", 2),
        lambda: rollback("few", 2),
    ):
        with pytest.raises(DamagedVersionError) as caught:
            use()
        assert f"few version 2 is refused: {words}" in str(caught.value)
    assert nights.champion == "1"
    assert events(nights.uri, "few") == history
    assert "grayline.rolled_back" not in nights.registry.get_model_version("few", "1").tags


def test_a_signature_finds_whoever_can_write_files_and_database(
    nights: Nights, damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = str(nights.folder / "public.pem")
    version = nights.registry.get_model_version("few", "2")
    assert version.tags["grayline.signature"] == file_digest(nights.folder / "public.pem")
    check_version(nights.uri, TWO, public)
    with pytest.raises(DamagedVersionError, match="few version 1 is refused: it is not signed"):
        check_version(nights.uri, replace(TWO, version="1"), public)
    write_key(nights.folder, "other-")
    with pytest.raises(DamagedVersionError, match="its signature is not one by"):
        check_version(nights.uri, TWO, str(nights.folder / "other-public.pem"))

    change_weights(damaged)
    nights.registry.set_model_version_tag("few", "2", "grayline.files", write_digests(damaged))
    check_version(nights.uri, TWO)  # without the key it is a version like any other
    with pytest.raises(DamagedVersionError, match=r"not one by .* of these files"):
        check_version(nights.uri, TWO, public)
    sign(damaged, nights.folder / "other-private.pem")
    monkeypatch.setenv("GRAYLINE_VERIFY_KEY", public)
    with pytest.raises(DamagedVersionError, match="its signature is not one by"):
        load_classifier(nights.uri, TWO, "cpu")
    monkeypatch.setenv("GRAYLINE_VERIFY_KEY", str(nights.folder / "few.yaml"))
    with pytest.raises(UserError, match=r"GRAYLINE_VERIFY_KEY: .* cannot be used"):
        load_classifier(nights.uri, TWO, "cpu")


class Hostile:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.mkdir, (str(self.mark),)


def hostile_files(folder: Path) -> dict[str, bytes]:
    """A pickle, and a .pt2 of which every part that PyTorch would unpickle is that pickle."""
    import torch

    payload = pickle.dumps(Hostile(folder / "mark"))
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, folder / "good.pt2")
    weights = io.BytesIO()
    with zipfile.ZipFile(weights, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
    pt2 = io.BytesIO()
    with zipfile.ZipFile(folder / "good.pt2") as good, zipfile.ZipFile(pt2, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, weights.getvalue() if name.endswith(".pt") else good.read(name))
    return {"pickle": payload, "pt2": pt2.getvalue()}


def unpickle(content: bytes) -> None:
    """As `torch.export.load` does with the sample inputs of a .pt2."""
    import torch

    if not zipfile.is_zipfile(io.BytesIO(content)):
        pickle.loads(content)
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (inputs,) = (name for name in archive.namelist() if name.endswith("sample_inputs/model.pt"))
        torch.load(io.BytesIO(archive.read(inputs)), weights_only=False)


@pytest.mark.parametrize("kind", ["pickle", "pt2"])
@pytest.mark.parametrize("listed", [True, False], ids=["with digests", "without"])
def test_a_hostile_file_in_a_version_never_runs(
    nights: Nights, damaged: Path, tmp_path: Path, kind: str, listed: bool
) -> None:
    content, mark = hostile_files(tmp_path)[kind], tmp_path / "mark"
    unpickle(content)  # it is hostile: whoever does this has run it
    mark.rmdir()
    for name in ("artifacts/model/model.safetensors", "artifacts/model/model.pt2", "python_model.pkl", "data/model.pt"):
        (damaged / name).parent.mkdir(exist_ok=True)
        (damaged / name).write_bytes(content)
    if not listed:
        nights.registry.delete_model_version_tag("few", "2", "grayline.files")
    with pytest.raises(DamagedVersionError if listed else Exception):
        load_classifier(nights.uri, TWO, "cpu")
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever it says
        Classifier.load(damaged / "artifacts" / "model", "cpu")
    description = yaml.safe_load((damaged / "MLmodel").read_text())
    flavor = description["flavors"]["python_function"]
    flavor.pop("model_code_path", None)
    flavor |= {"python_model": "python_model.pkl", "cloudpickle_version": "3.1.1"}
    (damaged / "MLmodel").write_text(yaml.safe_dump(description))
    mlflow.set_tracking_uri(nights.uri)
    with pytest.raises(Exception, match="pickle"):
        mlflow.pyfunc.load_model("models:/few/2")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["weights.pkl", "weights.pt2", "weights.pt"])
def test_a_hostile_file_is_no_start_for_a_training(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(hostile_files(tmp_path)["pt2" if name.endswith("pt2") else "pickle"])
    with pytest.raises(UserError, match=r"model\.pretrained"):
        check_pretrained(ModelConfig(pretrained=str(tmp_path / name)), "small")
    assert not (tmp_path / "mark").exists()


def test_a_training_is_repeated_byte_by_byte_and_its_shards_are_made_again(nights: Nights) -> None:
    shards = nights.folder / "store" / "shards"
    shutil.rmtree(shards)
    found = reproduce("few/1")
    assert found.identical
    assert (found.largest, found.metrics) == (0.0, {})
    assert found.surroundings["code"].startswith("the same")
    assert (
        "every byte of the weights is the same"
        in nights.registry.get_model_version("few", "1").tags["grayline.reproduced"]
    )
    assert not list((nights.folder / "store" / "reproduce").rglob("*.safetensors"))
    assert nights.champion == "1"


def test_another_seed_is_another_training_and_the_metrics_say_how_far(nights: Nights) -> None:
    store = UPath(nights.folder / "store")
    here = a_workspace(store, nights.uri)
    origin = recall.fn(replace(TWO, version="1"), here)
    asked = load_dataset(write(nights.folder))
    assert asked.given().items() <= origin.dataset.given().items()
    chosen = {"image", "model", "train"}
    assert origin.dataset.model_dump(exclude=chosen) == asked.model_dump(exclude=chosen)
    shard_set = ShardSet.open(here.store.shards("few") / origin.shards)
    assert shard_set is not None
    other = origin.dataset.model_copy(update={"train": replace(origin.dataset.train, seed=7)})
    lineage = origin.lineage | {"distributions": ["torch==1.0", *origin.lineage["distributions"]]}
    found = train_again.fn(replace(origin, dataset=other, lineage=lineage), shard_set, here)
    assert not found.identical
    assert 0 < found.largest < float("inf")
    assert nights.first.evaluation is not None
    then, now = found.metrics["accuracy"]
    assert then == pytest.approx(nights.first.evaluation.metrics["accuracy"].value)
    assert now != then or found.metrics["nll"][0] != found.metrics["nll"][1]
    assert "weights differ by up to" in found.verdict


def test_what_cannot_be_repeated_is_said(nights: Nights) -> None:
    store, catalog = nights.folder / "store", Path(nights.first.catalog.path.path)
    shutil.move(store / "shards", store / "gone")
    shutil.copy(catalog, store / "copy.parquet")
    table = pd.read_parquet(catalog)
    try:
        import pyarrow.parquet as pq

        kept = pq.read_table(catalog)
        pq.write_table(kept.slice(0, len(table) - 5), catalog)
        with pytest.raises(UserError, match=r"its shards \w+ are gone, and the catalog, now at version 1"):
            reproduce("few/1")
        pixels = store / "pixels"
        pixels.rename(store / "no-pixels")
        with pytest.raises(UserError, match=r"the pixels in .* are gone too"):
            reproduce("few/1")
        (store / "no-pixels").rename(pixels)
        catalog.unlink()
        with pytest.raises(UserError, match=r"catalog.parquet is gone too"):
            reproduce("few/1")
    finally:
        shutil.copy(store / "copy.parquet", catalog)
        shutil.move(store / "gone", store / "shards")


COMMAND = """
import sys
from flows.cli.app import main
sys.argv = ["grayline", *sys.argv[1:]]
try:
    main()
except SystemExit as error:
    assert not error.code, error.code
slow = {"prefect", "torch", "sklearn", "scipy.optimize"} & sys.modules.keys()
assert not slow, slow
"""


def test_moving_the_alias_waits_for_neither_prefect_nor_torch(nights: Nights) -> None:
    promote("few", 2)
    environment = {**os.environ, "GRAYLINE_STORE": str(nights.folder / "store")}
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    for words in (["rollback", "few", "--reason", "too slow"], ["history", "few"]):
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *words], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert nights.champion == "1"
    last = done.stdout.strip().splitlines()[-1].split()
    assert last[2:6] == ["rolled", "back", "2", "1"]
    assert "too slow" in done.stdout


def test_a_local_version_is_checked_where_it_lies(nights: Nights) -> None:
    with verified_folder(nights.uri, TWO) as folder:
        assert folder == nights.files("2")
