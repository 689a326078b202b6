"""Drift of a batch and its MLflow run: a real version of the digits, real rows, real Prefect and MLflow."""

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import mlflow.artifacts
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray
from PIL import Image
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.events.schemas.automations import AutomationCore
from prefect.events.schemas.events import ReceivedEvent
from upath import UPath

from flows.nightly_retrain import nightly_retrain
from resnet_core.drift.drift import Thresholds
from resnet_core.drift.reference import MOST, load_reference
from resnet_core.drift.unknown import Ranks
from resnet_core.evaluation.assess import HeldOut, assess
from resnet_core.evaluation.calibrate import Requirements
from resnet_core.images.preprocessing import Preprocessing, resize
from resnet_core.inference.scores import predictions, score_table, with_embeddings, with_metadata
from resnet_core.model.classifier import Classifier
from resnet_core.model.features import embed
from resnet_core.reading.image import as_table as as_read
from resnet_core.reading.image import read_image
from resnet_core.shards.encryption import load_keys
from tasks.batch.drift import _ENDS, _Ends, check_drift, read_batch
from tasks.batch.record import metric_name, record_batch
from tasks.batch.values import DriftReport, Scores
from tasks.evaluation.reference import make_reference
from tasks.registry.integrity import verified_folder
from tasks.registry.versions import REFERENCE, load_classifier, reference_of
from tasks.release.register import register
from tasks.settings import Settings
from tasks.values import ModelVersion, Night
from tests.conftest import write_folder
from tests.places import a_workspace

pytestmark = pytest.mark.usefixtures("prefect")

Digits = tuple[np.ndarray, list[str]]
Change = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
DOCS = Path(__file__).parents[3] / "docs" / "drift.md"


def write_dataset(folder: Path, **more: Any) -> str:
    content = {
        "name": "few", "source": str(folder / "raw"), "image": {"size": 8}, "model": {"arch": "resnet10", "width": 16},
        "train": {"epochs": 8, "batch_size": 32, "optimizer": "sgd", "lr": 0.1, "augment": {"flips": "none"}},
        "split": {"test": 0.4}, **more,
    }  # fmt: skip
    (folder / "few.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "few.yaml")


class Home:
    """A model that was trained on 900 digits, drawn from all writers; the others are tomorrow's."""

    def __init__(self, folder: Path, digits: Digits) -> None:
        order = np.random.default_rng(0).permutation(len(digits[1]))  # as they come, 900 to 1,300 are of other writers
        digits = digits[0][order], [digits[1][k] for k in order]
        self.folder, self.digits = folder, digits
        write_folder(folder / "raw", digits, range(10), 900)
        self.night: Night = nightly_retrain(write_dataset(folder), until="register")
        assert self.night.version
        self.version: ModelVersion = self.night.version

    @property
    def uri(self) -> str:
        return Settings().tracking_uri

    @property
    def mlflow(self) -> MlflowClient:
        return MlflowClient(self.uri, registry_uri=self.uri)

    @property
    def classifier(self) -> Classifier:
        return load_classifier(self.uri, self.version, "cpu")

    def batch(
        self, name: str, change: Change = lambda pixels: pixels, count: int = 400, keep: str = "0123456789",
        version: ModelVersion | None = None,
    ) -> Scores:  # fmt: skip
        """Rows of digits that were not in the training, in parts of 150 and a bad file each."""
        images, labels = self.digits
        chosen = [k for k in range(900, len(labels)) if labels[k] in keep][:count]
        folder = UPath(self.folder / "scores" / name)
        folder.mkdir(parents=True, exist_ok=True)
        parts = []
        for start in range(0, len(chosen), 150):
            pixels = change(images[chosen[start : start + 150]])
            parts.append(folder / f"k-{start:04}.parquet")
            pq.write_table(rows_of(self.classifier, pixels, name, start, version or self.version), parts[-1].path)
        (folder / "_manifest.json").write_text('{"files": 1}')
        found = pa.concat_tables([pq.read_table(part.path) for part in parts])
        good = (
            found.filter(pa.compute.field("status") == "ok")
            .group_by("label")
            .aggregate([("confidence", "mean"), ([], "count_all")])
        )
        counts = {row["label"]: (row["count_all"], row["confidence_mean"]) for row in good.to_pylist()}
        scored = sum(n for n, _ in counts.values())
        return Scores(
            source="/data/new", output=folder, parts=tuple(parts), model=version or self.version,
            engine="torch", files=len(found), scored=scored, reused=0, labels=counts,
            seconds=2.0, review=pa.compute.sum(found["needs_review"]).as_py(),
        )  # fmt: skip


def rows_of(
    classifier: Classifier, pixels: NDArray[np.uint8], name: str, start: int, version: ModelVersion
) -> pa.Table:
    """As scoring writes them, the file after the last image being no image."""

    def encoded(image: NDArray[np.uint8]) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        return buffer.getvalue()

    settings = classifier.preprocessing
    read = as_read(
        [*(read_image(encoded(image), settings) for image in pixels), read_image(b"no image", settings)], settings.size
    )
    predicted = predictions(classifier, *classifier.answer(pixels))
    every = np.arange(len(pixels))
    predicted = with_embeddings(predicted, every, embed(classifier, pixels))
    predicted = pa.concat_tables([predicted, pa.Table.from_pylist([{}], predicted.schema)])
    files = pa.table(
        {
            "uri": [f"/data/{name}/{start + k:05}.png" for k in range(len(read))],
            "size": [1] * len(read),
            "modified": ["1"] * len(read),
        }
    )
    table = score_table(files, read, predicted, (version.name, version.version), datetime.now(UTC))
    return with_metadata(table, classifier.classes)


@pytest.fixture(scope="module")
def home(prefect: None, tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("drift")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("GRAYLINE_STORE", str(folder / "store"))
        yield Home(folder, digits)


def checked(scores: Scores) -> DriftReport:
    """As the flow calls it."""

    @flow(name="drift-alone")
    def alone() -> DriftReport:
        return check_drift(scores, Settings().tracking_uri)

    return alone()


def newest_page() -> str:
    with get_client(sync_client=True) as client:
        (artifact,) = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["drift"])),
            sort=ArtifactSort.CREATED_DESC,
            limit=1,
        )
    return str(artifact.data)


def written(scores: Scores) -> dict[str, Any]:
    return json.loads((scores.output / "_drift.json").read_text())


def darker(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return (pixels * 0.5).astype(np.uint8)


def test_a_version_keeps_what_its_training_data_were_like(home: Home) -> None:
    kept = reference_of(home.uri, home.version)
    assert kept
    assert home.night.shard_set
    predictions = pq.read_table(
        home.folder / "store" / "runs" / "few" / home.night.checkpoint.digest / "evaluation" / "predictions.parquet"
    )
    held_out = len(predictions)
    assert kept.summary.labelled == held_out == home.night.shard_set.test
    assert sum(kept.summary.reviews) == held_out
    assert kept.summary.classes == {name: predictions["decided"].to_pylist().count(name) for name in "0123456789"}
    assert kept.summary.reviews[0] == predictions["needs_review"].to_pylist().count(True)
    assert kept.summary.histograms["brightness"].count == home.night.shard_set.train
    assert kept.summary.histograms["confidence"].mean == pytest.approx(
        np.mean(predictions["confidence"].to_pylist()), abs=0.02
    )
    assert kept.embeddings is not None
    assert kept.embeddings.shape == (min(MOST, held_out), home.classifier.network.fc.in_features)
    with verified_folder(home.uri, home.version) as folder:
        pass  # it lies in the store, not in a copy
    digests = json.loads((folder / "digests.json").read_text())
    assert {"artifacts/model/reference.json", "artifacts/model/reference.safetensors"} <= set(digests)
    tag = home.mlflow.get_model_version("few", home.version.version).tags[REFERENCE]
    assert tag == digests["artifacts/model/reference.json"]


def test_tomorrows_images_of_the_same_kind_have_not_drifted(home: Home) -> None:
    scores = home.batch("same")
    report = checked(scores)
    assert report.drifted == ()
    assert report.images == scores.scored == 400
    assert {each.measure for each in report.findings} == {
        "label",
        "review",
        "confidence",
        "brightness",
        "contrast",
        "sharpness",
        "embedding",
        "unknown",
    }
    assert report.in_words() == "none in 8 measures of 400 images"
    assert (report.farthest, report.outermost) == ((), {})
    found = written(scores)
    assert found["drifted"] == []
    assert found["measures"]["embedding"]["images"] == 400
    assert report.plot is not None
    assert report.plot.read_bytes().startswith(b"\x89PNG")
    page = newest_page()
    assert page.startswith("# same: none in 8 measures")
    assert "data:image/webp;base64," in page
    pq.read_table(scores.output.path)  # what lies beside the rows is in no reader's way


def wait_for(ready: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, "nothing has happened"
        time.sleep(0.5)
    return found


def events_of(client: SyncPrefectClient, name: str) -> list[ReceivedEvent]:
    answer = client._client.post(
        "/events/filter", json={"filter": EventFilter(event=EventNameFilter(name=[name])).model_dump(mode="json")}
    )
    answer.raise_for_status()
    return [ReceivedEvent.model_validate(each) for each in answer.json()["events"]]


def automation(deployment_id: str) -> AutomationCore:
    """The one of the page of docs, for this model and this deployment."""
    text = DOCS.read_text(encoding="utf-8").split("```yaml\n# drift.yaml\n")[1].split("```")[0]
    content = yaml.safe_load(text)
    content["trigger"]["match"] = {"prefect.resource.id": "grayline.model.few"}
    content["actions"][0]["deployment_id"] = deployment_id
    return AutomationCore.model_validate(content)


def test_drift_is_an_event_and_the_automation_of_the_docs_acts_on_it(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("nightly-retrain")
        deployment = client.create_deployment(flow_id, "after-drift", parameters={"until": "gate"})
        made = client._client.post("/automations/", json=automation(str(deployment)).model_dump(mode="json"))
        made.raise_for_status()

        def runs() -> list[FlowRun]:
            return client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])))

        checked(home.batch("quiet"))
        scores = home.batch("dark", darker)
        report = checked(scores)
        assert {"brightness", "contrast", "embedding"} <= {each.measure for each in report.drifted}
        rows = pa.concat_tables([pq.read_table(part.path) for part in scores.parts]).sort_by(
            [("brightness", "ascending"), ("uri", "ascending")]
        )
        assert [uri for uri, _ in report.outermost["brightness"]] == rows["uri"].to_pylist()[:10]  # it moved down
        assert f"outermost in brightness: {rows['uri'][0]}" in caplog.text
        assert any(
            record.levelname == "WARNING" and "brightness: KS" in record.getMessage() for record in caplog.records
        )
        found = wait_for(
            lambda: [each for each in events_of(client, "grayline.drift") if each.payload["batch"] == "dark"]
        )
        assert len(found) == 1
        assert found[0].resource.id == "grayline.model.few"
        assert found[0].resource["grayline.model.version"] == home.version.version
        assert "brightness" in found[0].resource["grayline.drifted"].split()
        assert "grayline.batch.dark" in [each.id for each in found[0].related]
        assert found[0].payload | {"summary": ""} == written(scores) | {"summary": ""}
        (run,) = wait_for(runs)
        assert run.parameters["dataset"] == "data/parts.yaml"
        assert not [each for each in events_of(client, "grayline.drift") if each.payload["batch"] == "quiet"]
        time.sleep(2)
        assert len(runs()) == 1  # one for the batch that has drifted, none for the other
    assert "**drift**" in newest_page()


def test_a_batch_of_one_class_is_drift_of_the_labels(home: Home) -> None:
    report = checked(home.batch("ones", keep="15"))
    assert "label" in [each.measure for each in report.drifted]
    assert "'1' " in report.findings[0].detail


def test_too_few_images_are_not_measured_and_leave_no_old_plot(home: Home) -> None:
    scores = home.batch("small", count=60)
    (scores.output / "_drift.png").write_bytes(b"of an earlier run")
    report = checked(scores)
    assert report.in_words() == "not measured: 60 images cannot tell, it takes 100"
    assert not (scores.output / "_drift.png").exists()
    assert written(scores)["not_measured"].startswith("60 images")
    run = record_batch.fn(scores, report, a_workspace(Settings().root, home.uri))
    assert home.mlflow.get_run(run).data.tags["grayline.drifted"] == report.why


def test_a_version_of_an_earlier_release_keeps_nothing_and_that_is_said(home: Home) -> None:
    assert home.night.checkpoint
    assert home.night.evaluation
    bare = home.folder / "bare"
    bare.mkdir()
    (bare / "calibration.json").write_text((home.night.evaluation.folder / "calibration.json").read_text())
    old = register.fn(
        home.night.with_(evaluation=replace(home.night.evaluation, folder=UPath(bare))),
        a_workspace(Settings().root, home.uri),
    )
    assert old.version != home.version.version
    scores = home.batch("old", darker, version=old)
    report = checked(scores)
    assert report.findings == ()
    assert report.in_words().startswith(f"not measured: few version {old.version} keeps nothing of its training data")
    assert home.mlflow.get_model_version("few", old.version).tags[REFERENCE] == "none"


def with_cells(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put six solar cells in the place of the first digits."""
    paths = sorted((Path(str(files("elpv_dataset"))) / "data" / "images").glob("*.png"))[::400][:6]
    settings = Preprocessing(pixels.shape[1])
    cells = np.stack([resize(np.asarray(Image.open(path).convert("L")), settings) for path in paths])
    return np.concatenate([cells, pixels[6:]])


def test_foreign_images_among_many_are_found_and_the_farthest_are_named(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """18 solar cells among 400 images: the share of no label, confidence or gray level tells them."""
    scores = home.batch("foreign", with_cells)
    report = checked(scores)
    drift = next(each for each in report.findings if each.measure == "unknown")
    assert drift.drifted
    assert drift.distance > 0.02
    assert "unknown excess 0." in report.in_words()
    cells = {f"/data/foreign/{start + k:05}.png" for start in (0, 150, 300) for k in range(6)}
    assert len(report.farthest) == 10
    assert {uri for uri, _ in report.farthest} <= cells
    assert [distance for _, distance in report.farthest] == sorted((d for _, d in report.farthest), reverse=True)
    assert any("farthest: /data/foreign/" in record.getMessage() for record in caplog.records)
    with get_client(sync_client=True) as client:
        (event,) = wait_for(
            lambda: [each for each in events_of(client, "grayline.drift") if each.payload["batch"] == "foreign"]
        )
    assert "unknown" in event.resource["grayline.drifted"].split()
    assert [each["uri"] for each in event.payload["farthest"]] == [uri for uri, _ in report.farthest]
    assert report.farthest[0][0] in newest_page().replace("\\", "")
    rows = pa.concat_tables([pq.read_table(part.path) for part in scores.parts]).to_pylist()
    assert sum(bool(row["unknown"]) for row in rows if row["uri"] in cells) >= 0.8 * len(cells)


def test_other_thresholds_are_another_version_of_the_same_weights(home: Home) -> None:
    again = nightly_retrain(write_dataset(home.folder), until="register")
    assert again.version == home.version
    other = nightly_retrain(write_dataset(home.folder, drift={"brightness": None, "label": 0.5}), until="register")
    assert other.version
    assert other.checkpoint
    assert other.checkpoint.digest == home.night.checkpoint.digest
    assert other.version.version != home.version.version
    kept = reference_of(home.uri, other.version)
    assert kept
    assert (kept.thresholds.brightness, kept.thresholds.label, kept.thresholds.embedding) == (None, 0.5, 0.2)
    report = checked(home.batch("dark, other", darker, version=other.version))
    assert "brightness" not in [each.measure for each in report.drifted]
    assert "contrast" in [each.measure for each in report.drifted]


def test_of_confidential_images_no_embedding_is_kept(home: Home, tmp_path: Path) -> None:
    keys = load_keys("a = " + "A" * 43 + "=", None)
    assert home.night.shard_set
    raw = np.full((home.night.shard_set.test, 10), 0.1, np.float32)
    labels = np.zeros(len(raw), np.int64)
    found = assess(HeldOut(labels, raw, None, {}), None, Requirements(), tuple("0123456789"))
    given = (home.classifier, found, home.night, Thresholds())
    assert make_reference(*given, None).embeddings is not None
    kept = make_reference(*given, keys)
    assert kept.embeddings is None
    kept.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["reference.json"]
    assert load_reference(tmp_path) == kept


def test_the_numbers_do_not_depend_on_the_order_of_the_rows_or_their_parts(home: Home, tmp_path: Path) -> None:
    scores = home.batch("order", count=800)
    every = pa.concat_tables([pq.read_table(part.path) for part in scores.parts])
    shuffled = every.take(pa.array(np.random.default_rng(0).permutation(len(every))))
    pq.write_table(shuffled, tmp_path / "one.parquet", row_group_size=77)
    assert home.classifier.novelty is not None
    ranks = Ranks(len(home.classifier.novelty.held_out), home.classifier.novelty.depth)
    summary, embeddings, unknown, ends = read_batch(scores.parts, ranks)
    again, same, unknown_again, ends_again = read_batch([UPath(tmp_path / "one.parquet")], ranks)
    assert unknown_again == unknown
    assert unknown.images == 800
    for name, order in (("distance", "descending"), ("brightness", "ascending")):
        assert ends_again.at(name, order) == ends.at(name, order)
        assert len(ends.at(name, order)) == 10
    assert again.classes == summary.classes
    assert {name: h.counts for name, h in again.histograms.items()} == {
        name: h.counts for name, h in summary.histograms.items()
    }
    assert len(embeddings) == MOST < scores.scored
    np.testing.assert_array_equal(same, embeddings)
    none = every.set_column(
        every.schema.get_field_index("embedding"),
        every.schema.field("embedding"),
        pa.nulls(len(every), pa.list_(pa.float32())),
    )
    pq.write_table(none, tmp_path / "none.parquet")
    assert len(read_batch([UPath(tmp_path / "none.parquet")])[1]) == 0
    report = checked(replace(scores, parts=(UPath(tmp_path / "none.parquet"),)))
    assert "embedding" not in [each.measure for each in report.findings]


def test_a_batch_is_a_run_that_is_found_again_and_the_version_lists_it(home: Home) -> None:
    scores = home.batch("nightly", darker)
    report = checked(scores)
    run_id = record_batch.fn(scores, report, a_workspace(Settings().root, home.uri))
    run = home.mlflow.get_run(run_id)
    assert home.mlflow.get_experiment(run.info.experiment_id).name == "few-scores"
    assert run.info.status == "FINISHED"
    assert re.fullmatch(r"nightly \d{4}-\d\d-\d\d", run.info.run_name)
    assert run.data.params == {
        "source": "/data/new", "output": str(scores.output), "model_name": "few",
        "model_version": home.version.version, "model_files": home.version.files, "engine": "torch",
    }  # fmt: skip
    assert (run.data.metrics["files"], run.data.metrics["failed"]) == (scores.files, scores.failed)
    assert run.data.metrics["images_per_second"] == scores.files / 2
    assert sum(value for name, value in run.data.metrics.items() if name.startswith("share.")) == pytest.approx(1)
    assert run.data.metrics["drift.brightness"] == pytest.approx(report.findings[3].distance)
    assert "brightness" in run.data.tags["grayline.drifted"].split()
    assert "brightness KS" in run.data.tags["mlflow.note.content"]
    assert {file.path for file in home.mlflow.list_artifacts(run_id)} == {"_manifest.json", "_drift.png"}
    manifest = mlflow.artifacts.load_text(f"runs:/{run_id}/_manifest.json")
    assert json.loads(manifest) == {"files": 1}
    (listed,) = run.inputs.model_inputs
    model = home.mlflow.get_logged_model(listed.model_id)
    assert model.source_run_id == home.version.run_id

    again = replace(scores, engine="openvino", reused=scores.files, seconds=1.0)
    assert record_batch.fn(again, report, a_workspace(Settings().root, home.uri)) == run_id
    history = home.mlflow.get_metric_history(run_id, "reused")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0), (2, scores.files)]
    assert home.mlflow.get_run(run_id).data.tags["grayline.engine"] == "openvino"
    other = record_batch.fn(
        replace(scores, output=scores.output / "moved"), report, a_workspace(Settings().root, home.uri)
    )
    assert other != run_id


def test_a_batch_in_a_store_that_is_no_disk_is_measured_and_recorded_the_same(home: Home, tmp_path: Path) -> None:
    scores = home.batch("far", darker)
    folder = UPath(f"memory://{tmp_path.name}/far")
    folder.mkdir(parents=True)
    for path in (*scores.parts, scores.output / "_manifest.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    far = replace(scores, output=folder, parts=tuple(folder / part.name for part in scores.parts))
    report, near = checked(far), checked(scores)
    assert report.findings == near.findings
    assert json.loads((folder / "_drift.json").read_text())["drifted"] == written(scores)["drifted"]
    run_id = record_batch.fn(far, report, a_workspace(Settings().root, home.uri))
    assert {file.path for file in home.mlflow.list_artifacts(run_id)} == {"_manifest.json", "_drift.png"}


def test_any_label_has_a_metric_of_its_own(home: Home) -> None:
    names = ["plain", "a b.c-d", "a/b", "a:b", "缺陷", "x" * 300, "..", "a_b", ""]
    found = [metric_name(name) for name in names]
    assert len(set(found)) == len(names)
    assert found[:2] == names[:2]
    scores = home.batch("odd", count=60)
    report = DriftReport(scores.model, 0, (), "not asked for")
    labels = dict.fromkeys(names, (10, 0.5))
    run_id = record_batch.fn(replace(scores, labels=labels, scored=90), report, a_workspace(Settings().root, home.uri))
    metrics = home.mlflow.get_run(run_id).data.metrics
    assert {f"share.{name}" for name in found} <= set(metrics)


def test_rows_without_a_measure_have_no_outermost_images() -> None:
    """Batches of earlier releases have no distance."""
    ends, names = _Ends(), sorted({name for name, _ in _ENDS})
    for values in ([None, None], [0.1, 0.2], [None, None]):
        ends.add(pa.table({"uri": ["a", "b"], **{name: pa.array(values, pa.float64()) for name in names}}))
    assert ends.at("distance", "descending") == (("b", 0.2), ("a", 0.1))
    assert _Ends().at("distance", "descending") == ()
