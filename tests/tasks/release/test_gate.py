"""The gate's checks on real versions of real digits: what each lets in, and what it says."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient

from flows.classify_batch import classify_batch
from flows.nightly_retrain import nightly_retrain
from resnet_core.drift.checks import Finding
from resnet_core.errors import plural
from resnet_core.evaluation.evidence import Evidence, gather
from resnet_core.evaluation.metrics import measure
from resnet_core.storage.digest import DamagedVersionError, write_digests
from tasks.dataset import Dataset, EvaluateConfig, Gate
from tasks.ingest.again import begin_again
from tasks.registry.champion import make_champion
from tasks.registry.images import Learned
from tasks.registry.integrity import verified_folder
from tasks.registry.versions import GATE_CHECKS, GATE_SETTINGS, ROLLED_BACK, SHARDS
from tasks.release.against import flips, kept
from tasks.release.evidence import check_floor, check_recall, weak_evidence
from tasks.release.gate import judge
from tasks.release.register import register
from tasks.report.flips_page import publish_flips
from tasks.settings import Settings
from tasks.store import Store
from tasks.values import Check, DataReport, Decision, Evaluation, ModelVersion, Night
from tests.conftest import write_folder, write_labels
from tests.places import a_workspace

pytestmark = pytest.mark.usefixtures("prefect")

Digits = tuple[np.ndarray, list[str]]
LEARNS = {"epochs": 8, "batch_size": 32, "optimizer": "sgd", "lr": 0.1, "augment": {"flips": "none"}}
BARELY = {"epochs": 1, "batch_size": 128, "lr": 1e-5, "augment": {"flips": "none"}}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Path:
    return write_folder(tmp_path_factory.mktemp("gate") / "raw", digits, range(3), 400)


@pytest.fixture(scope="module")
def nights(raw: Path) -> Iterator[dict[str, Night]]:
    """A good champion, version 1, and two challengers: one that has barely learned, one as good."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("GRAYLINE_STORE", str(raw.parent / "store"))
        found = {}
        settings = {"good": LEARNS, "bad": BARELY, "as good": LEARNS | {"seed": 1}}
        for name, train in settings.items():
            found[name] = nightly_retrain(str(write(raw, train=train)), until="register")
            if name == "good":
                make_champion(Settings().tracking_uri, "few", "1", "the first")
        yield found


def write(raw: Path, **changes: Any) -> Path:
    content = {
        "name": "few",
        "source": str(raw),
        "image": {"size": 8},
        "model": {"arch": "resnet10", "width": 16},
        **changes,
    }
    path = raw.parent / "few.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def registry() -> MlflowClient:
    return MlflowClient(Settings().tracking_uri, registry_uri=Settings().tracking_uri)


def decide(night: Night, gate: Gate, **more: Any) -> Decision:
    evaluate = EvaluateConfig(slices=list(more.pop("slices", ())))
    data = Dataset(name="few", source="few", gate=gate, evaluate=evaluate)
    return judge.fn(night.with_(**more), data, a_workspace(Settings().root, Settings().tracking_uri))


def named(decision: Decision) -> dict[str, Check]:
    return {check.name: check for check in decision.checks}


def report(action: str) -> DataReport:
    found = Finding("brightness", "0.3", "at most 0.1", action)  # type: ignore[arg-type]
    return DataReport(None, (found, Finding("images", "400", "360", "ok")))  # type: ignore[arg-type]


def test_only_checks_that_are_on_are_listed_and_all_are_recorded(nights: dict[str, Night]) -> None:
    decision = decide(nights["as good"], Gate(margin=0.05, slice_margin=None))
    always = ["floor", "held out", "baseline", "history"]
    assert list(named(decision)) == [*always, "same images", "champion (version 1)", "flips"]
    assert named(decision)["flips"] == Check("flips", "shown, not judged", "no batch yet", passed=True)
    assert decision.promoted

    every = Gate(margin=0.05, recall={"0": 0.1}, calibration=0.5, speed=0.01, data_checks=True, slice_margin=0.3)
    decision = decide(nights["as good"], every, data=report("ok"), slices=["brightness", "label"])
    assert list(named(decision)) == [
        *always, "recall of 0", "data checks", "calibration", "same images", "champion (version 1)", "slices", "speed",
        "flips",
    ]  # fmt: skip
    assert decision.promoted, decision
    tags = registry().get_model_version("few", "3").tags
    assert [Check(**row) for row in json.loads(tags[GATE_CHECKS])] == list(decision.checks)
    assert Gate.model_validate_json(tags[GATE_SETTINGS]) == every
    assert tags["grayline.gate"].startswith("passed: floor: ")
    assert re.search(r"; champion \(version 1\): [+-]0\.0", tags["grayline.gate"])


@pytest.mark.parametrize(
    ("limits", "more", "failed", "found"),
    [
        ({"calibration": 1e-6}, {}, "calibration", "0."),
        ({"speed": 1000.0}, {}, "speed", "images/s"),
        ({"data_checks": True}, {"data": report("warn")}, "data checks", "warned of: brightness"),
        ({"promote": "better"}, {}, "champion (version 1)", "p = "),
    ],
)
def test_each_check_refuses_by_itself(
    nights: dict[str, Night], limits: dict[str, Any], more: dict[str, Any], failed: str, found: str
) -> None:
    decision = decide(nights["as good"], Gate(**({"margin": 0.05} | limits)), **more)
    assert not decision.promoted
    assert [check.name for check in decision.checks if not check.passed] == [failed]
    assert found in named(decision)[failed].found
    assert decision.reason.startswith(f"{failed}: ")


def test_a_deleted_alias_lets_in_nothing_that_the_champion_keeps_out(nights: dict[str, Night]) -> None:
    """A person deletes the alias in MLflow: the floor alone would let a worse version in."""
    registry().delete_registered_model_alias("few", "champion")
    try:
        decision = decide(nights["bad"], Gate(minimum=0.0, margin=0.05, baseline=False))
        assert [check.name for check in decision.checks if not check.passed] == ["champion (version 1)"]
        again = decide(nights["good"], Gate(minimum=0.0, margin=0.05, baseline=False))
        assert again.promoted
        assert not [name for name in named(again) if name.startswith("champion")]  # it gets its alias back
    finally:
        registry().set_registered_model_alias("few", "champion", "1")


def test_the_floor_is_of_the_evaluation(nights: dict[str, Night]) -> None:
    decision = decide(nights["as good"], Gate(margin=0.05, minimum=0.9), evaluation=nights["bad"].evaluation)
    assert [check.name for check in decision.checks if not check.passed] == ["floor", "baseline"]
    assert nights["bad"].evaluation
    assert named(decision)["floor"].found == str(nights["bad"].evaluation.metrics["accuracy"])
    assert decide(nights["as good"], Gate(margin=0.05, minimum=0.9)).promoted


def test_the_difference_is_that_of_the_two_evaluations(nights: dict[str, Night]) -> None:
    """Both are scored again, from the registry: the answers are those that were evaluated."""
    tables = {}
    for name in ("good", "bad"):
        evaluation = nights[name].evaluation
        assert evaluation
        tables[name] = pd.read_parquet(Path(evaluation.folder.path) / "predictions.parquet").set_index("image_id")
    right = {name: table["predicted"] == table["label"] for name, table in tables.items()}
    gained = int((right["bad"] & ~right["good"]).sum())
    lost = int((right["good"] & ~right["bad"]).sum())
    assert lost > 10
    gap = f"{(gained - lost) / len(right['bad']):+.3f}"
    found = named(decide(nights["bad"], Gate()))["champion (version 1)"]
    assert not found.passed
    assert found.wanted == "accuracy at most 0.010 lower, 70% sure"
    assert found.found.startswith(f"{gap} (at least -0.")
    assert (
        f"{plural(gained, 'image')} gained, {lost} lost); with {len(right['bad'])} images, differences under "
        in found.found
    )


def test_a_slice_that_got_worse_is_named(nights: dict[str, Night], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="grayline"):
        found = named(decide(nights["bad"], Gate(), slices=["label", "brightness"]))["slices"]
    assert not found.passed
    assert "label " in found.found
    assert "worse on label " in caplog.text
    lenient = named(decide(nights["bad"], Gate(slice_margin=1.0), slices=["label"]))["slices"]
    assert lenient.passed
    assert lenient.found.startswith("none of 3; lowest -")


def test_the_better_one_gets_in_under_both_policies(nights: dict[str, Night]) -> None:
    uri = Settings().tracking_uri
    make_champion(uri, "few", "2", "to see it fall")
    try:
        for promote in ("better", "not_worse"):
            decision = decide(nights["as good"], Gate(promote=promote, metric="macro_f1"), slices=["label"])
            assert decision.promoted
            assert "champion (version 2)" in named(decision)
    finally:
        make_champion(uri, "few", "1", "the first again")


def test_images_that_the_champion_has_learned_from_are_left_out(
    nights: dict[str, Night], raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard_set = nights["good"].shard_set
    assert shard_set
    table = pd.concat([pd.read_parquet(path.path, columns=["image_id", "split"]) for path in shard_set.files])
    learned = set(table[table["split"] == "train"]["image_id"])
    catalog = pd.read_parquet(nights["good"].catalog.path.path)
    moved = catalog[catalog["image_id"].isin(sorted(learned)[:10])]["uri"].tolist()
    rows = [
        {"path": str(Path(uri).relative_to(raw)), "label": Path(uri).parent.name, "split": "test" * (uri in moved)}
        for uri in catalog["uri"]
    ]
    labels = write_labels(raw.parent / "labels.csv", rows)
    later = nightly_retrain(str(write(raw, train=LEARNS, labels=str(labels))), until="preprocess")
    assert later.shard_set
    assert later.shard_set.test == shard_set.test + 10
    moment = {"shard_set": later.shard_set, "catalog": later.catalog}
    found = named(decide(nights["as good"], Gate(margin=0.05), **moment))["same images"]
    assert found.found == f"{shard_set.test} images, without 10 that version 1 learned from"
    assert found.passed

    registry().set_model_version_tag("few", "1", SHARDS, "0123456789abcdef")  # gone: the version keeps the ids itself
    try:
        assert named(decide(nights["as good"], Gate(margin=0.05), **moment))["same images"] == found
        monkeypatch.setattr("tasks.registry.images.LEARNED", "of-an-older-release.parquet")
        checks = named(decide(nights["bad"], Gate(margin=0.05), **moment))
        said = f"{shard_set.test + 10} images, some of which version 1 may have learned from: that is not kept any more"
        assert checks["same images"].found == said
        assert checks["same images"].passed
        assert checks["champion (version 1)"].found.endswith(
            "; version 1 may have learned from these images, which favours it: `grayline promote few 2` if you are sure"
        )
        assert "favours it" not in named(decide(nights["as good"], Gate(), **moment))["champion (version 1)"].found
    finally:
        registry().set_model_version_tag("few", "1", SHARDS, shard_set.digest)
    older = named(decide(nights["as good"], Gate(margin=0.05), **moment))["same images"]
    assert older == found  # by the shards


def test_a_champion_that_has_learned_from_every_held_out_image_is_not_measured(
    nights: dict[str, Night], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard_set = nights["good"].shard_set
    assert shard_set
    every = set(pd.concat([pd.read_parquet(path.path, columns=["image_id"]) for path in shard_set.files])["image_id"])
    monkeypatch.setattr(
        "tasks.release.against.kept.learned_from", lambda *_: Learned(frozenset(each[:16] for each in every))
    )
    decision = decide(nights["as good"], Gate())
    assert [check.name for check in decision.checks if not check.passed] == ["same images"]
    assert named(decision)["same images"].found.startswith("0 images, without ")


def test_after_a_split_begun_anew_the_champions_images_are_left_out(nights: dict[str, Night], raw: Path) -> None:
    shard_set = nights["good"].shard_set
    assert shard_set
    table = pd.concat([pd.read_parquet(path.path, columns=["image_id", "split"]) for path in shard_set.files])
    learned = set(table[table["split"] == "train"]["image_id"])
    begin_again(Store(Settings().root), "few", "a test")
    later = nightly_retrain(str(write(raw, train=LEARNS)), until="preprocess")
    assert later.shard_set
    rows = pd.read_parquet(later.catalog.path.path)
    test = set(rows[rows["present"] & (rows["status"] == "ok") & (rows["split"] == "test")]["image_id"])
    seen = len(test & learned)
    assert seen > len(test) / 2
    moment = {"shard_set": later.shard_set, "catalog": later.catalog}
    found = named(decide(nights["as good"], Gate(margin=0.05), **moment))["same images"]
    assert found.found.startswith(f"{len(test) - seen} images, without {seen} that version 1 learned from")


def test_decisions_of_the_last_batch_that_flip_refuse_a_version_and_are_shown(
    nights: dict[str, Night], raw: Path
) -> None:
    classify_batch(str(raw), str(raw.parent / "scored"), "few/1")
    decision = decide(nights["bad"], Gate(flips=0.05, flips_images=100))
    check, found = named(decision)["flips"], decision.flips
    assert found
    assert (found.images, found.of, found.left_out) == (100, "of the last batch", {})
    assert not check.passed
    assert f"flips: {found.share.value:.1%} (" in decision.reason
    assert sum(count for *_, count in found.kinds) == found.count == round(100 * found.share.value) > 20
    before = pd.concat(map(pd.read_parquet, (raw.parent / "scored").glob("*.parquet"))).set_index("uri")
    assert all(flip.old[0] == before["label"][flip.uri] for flip in found.first)  # as the batch said
    publish_flips.fn(decision, a_workspace(Settings().root))
    assert nights["bad"].version
    run_id = nights["bad"].version.run_id
    assert [file.path for file in registry().list_artifacts(run_id, "flips")] == ["flips/flips.html"]
    assert decide(nights["bad"], Gate(flips=1.0)).flips == decide(nights["bad"], Gate()).flips


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The comparisons that scored images."""
    seen: list[str] = []
    for name in ("check_against", "check_flips"):
        real = getattr(kept, name)
        monkeypatch.setattr(kept, name, lambda *given, real=real, name=name: (seen.append(name), real(*given))[1])
    return seen


def decide_and_keep(nights: dict[str, Night], gate: Gate, **more: Any) -> Decision:
    checkpoint = nights["bad"].checkpoint
    assert checkpoint
    decision = decide(nights["bad"], gate, **more)
    kept.keep(decision, checkpoint.folder)
    return decision


def test_what_was_found_against_the_champion_is_read_while_nothing_has_changed(
    nights: dict[str, Night], raw: Path, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    classify_batch(str(raw), str(raw.parent / "scored"), "few/1")
    first = decide_and_keep(nights, Gate())
    assert first.flips
    assert first.flips.count
    both = ["check_against", "check_flips"]
    assert scored == both
    again = decide_and_keep(nights, Gate())
    assert scored == both
    assert (again.checks, again.flips, again.reason) == (first.checks, first.flips, first.reason)

    (raw / "0" / "0000.png").touch()  # a file of the batch, written anew
    decide_and_keep(nights, Gate())
    assert scored == both * 2
    other = decide_and_keep(nights, Gate(margin=0.02))
    assert scored == both * 3
    assert "0.020" in named(other)["champion (version 1)"].wanted
    monkeypatch.setattr(kept, "learned_from", lambda *_: None)
    assert "favours it" in named(decide_and_keep(nights, Gate(margin=0.02)))["champion (version 1)"].found
    assert scored == both * 4


def test_a_torn_file_of_what_was_found_is_compared_again(
    nights: dict[str, Night], scored: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first, checkpoint = decide_and_keep(nights, Gate(margin=0.03)), nights["bad"].checkpoint
    assert checkpoint
    file = Path(checkpoint.folder.path) / "against" / "against.json"
    file.write_text(file.read_text().replace('"passed": false', '"passed": true'))
    assert decide_and_keep(nights, Gate(margin=0.03)).checks == first.checks
    assert "it is compared again" in caplog.text
    file.write_bytes(file.read_bytes()[:40])
    assert decide_and_keep(nights, Gate(margin=0.03)).checks == first.checks
    assert len(scored) == 6
    for harm in (lambda: file.write_text("[1, 2]"), lambda: (file.unlink(), file.mkdir())):
        harm()
        write_digests(file.parent)
        assert decide_and_keep(nights, Gate(margin=0.03)).checks == first.checks
    assert len(scored) == 10
    folder = file.parent
    shutil.rmtree(folder)
    folder.symlink_to("/nowhere/at/all")
    caplog.clear()
    assert decide_and_keep(nights, Gate(margin=0.03)).checks == first.checks
    assert "was not kept" in caplog.text
    folder.unlink()


def test_the_challenger_is_the_version_before_tonights_gate(nights: dict[str, Night]) -> None:
    """An older one kept the alias, and `promote` without a number took it, although tonight's gate saw another."""
    here, client = a_workspace(Settings().root, Settings().tracking_uri), registry()

    def after(name: str) -> str | None:
        register.fn(nights[name], here)
        found = client.get_registered_model("few").aliases.get("challenger")
        return str(found) if found else None

    assert [after("as good"), after("bad"), after("as good")] == ["3", "2", "3"]
    assert after("good") == "3"  # the champion: what was refused before stays
    client.set_model_version_tag("few", "2", ROLLED_BACK, "by hand")
    try:
        assert after("bad") is None
    finally:
        client.delete_model_version_tag("few", "2", ROLLED_BACK)


def test_what_another_night_may_find_otherwise_is_not_kept(
    nights: dict[str, Night], raw: Path, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        decide_and_keep(nights, Gate(speed=0.01))  # a speed is that of its night
    assert len(scored) == 4
    monkeypatch.setattr(flips, "_SECONDS", 0.0)  # files that were not reached
    for _ in range(2):
        assert named(decide_and_keep(nights, Gate(margin=0.04)))["flips"].found.startswith("no image of the last")
    assert len(scored) == 8


@contextmanager
def damaged(name: str) -> Iterator[None]:
    """A byte of the version's weights is another."""
    found = ModelVersion("few", name, "")
    with verified_folder(Settings().tracking_uri, found) as folder:
        weights = next(folder.rglob("*.safetensors"))
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        yield
    finally:
        weights.write_bytes(content)


def test_a_damaged_champion_is_refused_although_it_was_compared_before(nights: dict[str, Night]) -> None:
    decide_and_keep(nights, Gate(margin=0.06))
    with damaged("1"), pytest.raises(DamagedVersionError, match="few version 1 is refused"):
        decide_and_keep(nights, Gate(margin=0.06))


def test_a_damaged_challenger_is_registered_again(nights: dict[str, Night], caplog: pytest.LogCaptureFixture) -> None:
    """All later nights ended before the gate, and the remedy that it named helped a champion alone."""
    here = a_workspace(Settings().root, Settings().tracking_uri)
    with damaged("2"):
        made = register.fn(nights["bad"], here)
        assert made.version not in ("1", "2", "3")
        assert "few version 2 is refused" in caplog.text
        assert register.fn(nights["bad"], here) == made  # the next night
    with damaged("1"):
        assert register.fn(nights["good"], here).version == "1"  # the champion is a person's to restore


def evidence(labels: np.ndarray, decided: np.ndarray, groups: np.ndarray | None = None) -> Evidence:
    """What two classes of held-out images show, `a` and `b`."""
    scores = np.eye(2, dtype=np.float32)[decided]
    return gather(labels, scores, measure(labels, scores, "ab", groups), groups)


def evaluation(every: Evidence, unlike: Evidence | None = None) -> Evaluation:
    alike = every.images - unlike.images if unlike else None
    return Evaluation(None, every.metrics, every.images, every, alike, unlike)  # type: ignore[arg-type]


EVEN = np.arange(60) % 2


@pytest.mark.parametrize(
    ("labels", "decided", "groups", "failed", "found"),
    [
        (EVEN, EVEN, None, [], "60 images of 2 classes; with 60 images, differences under 7 points cannot be told"),
        (EVEN[:19], EVEN[:19], None, ["held out"], "19 held-out images: add images, hold more out"),
        (EVEN[:20], EVEN[:20], None, [], "20 images of 2 classes"),
        (0 * EVEN, 0 * EVEN, None, ["held out", "baseline"], "no held-out image of b: hold more out with `split:"),
        (EVEN, EVEN, 0 * EVEN, ["held out", "baseline"], "1 held-out group: add groups"),
        (EVEN, EVEN, np.arange(60) // 2 % 4, ["held out", "baseline"], "4 held-out groups: add groups"),
        (EVEN, EVEN, np.arange(60) // 2 % 5, [], "60 images of 2 classes in 5 groups"),
        ((np.arange(100) < 5).astype(int), np.zeros(100, int), None, ["baseline"], "100 images of 2 classes"),
        (EVEN, np.random.default_rng(1).integers(0, 2, 60), None, ["baseline"], "60 images of 2 classes"),
    ],
)
def test_a_verdict_needs_evidence(
    labels: np.ndarray, decided: np.ndarray, groups: np.ndarray | None, failed: list[str], found: str
) -> None:
    known = evaluation(evidence(labels, decided, groups))
    checks = {check.name: check for check in weak_evidence(known, Gate(), first=True)}
    assert [name for name, check in checks.items() if not check.passed] == failed
    assert found in checks["held out"].found
    refuses = {"held out": Gate(minimum=0, held_out=20), "baseline": Gate(minimum=0, baseline=True)}
    warned = {check.name: check for check in weak_evidence(known, Gate(minimum=0), first=True)}
    for name in failed:
        assert warned[name].passed
        assert warned[name].found == f"warning: {checks[name].found}"
        still = [check.name for check in weak_evidence(known, refuses[name], first=True) if not check.passed]
        assert still == [name]
    off = Gate(held_out=None, baseline=False)
    assert not weak_evidence(known, off, first=True)


def test_the_stricter_of_both_decides_where_enough_images_look_like_no_training_image() -> None:
    labels = np.arange(200) % 2
    good, poor = evidence(labels, labels), evidence(labels[:60], (1 - labels)[:60])
    floor = check_floor(evaluation(good, poor), Gate())
    assert not floor.passed
    assert floor.found.startswith("0.000 (0.000 to 0.060) on 60 images that look like no training image; 1.000 (0.98")
    _, baseline = weak_evidence(evaluation(good, poor), Gate(), first=True)
    assert not baseline.passed
    assert "on 60 images that look like no training image" in baseline.found
    few = evaluation(good, evidence(labels[:19], (1 - labels)[:19]))
    assert check_floor(few, Gate()).passed
    assert check_floor(evaluation(evidence(labels[:60], labels[:60]), None), Gate()).passed
    recall = check_recall(evaluation(good, poor), Gate(recall={"b": 0.5}), "b")
    assert (recall.passed, recall.name) == (False, "recall of b")
    assert "of 30 images that look like no training image" in recall.found


def test_look_alikes_that_leave_too_few_others_are_named() -> None:
    every, few = evidence(EVEN, EVEN), evidence(EVEN[:19], EVEN[:19])
    (held_out, _) = weak_evidence(evaluation(every, few), Gate(), first=False)
    assert held_out.passed
    assert held_out.found.endswith("41 look like a training image, and the others are too few to judge by")
    (held_out, _) = weak_evidence(evaluation(every, evidence(EVEN[:20], EVEN[:20])), Gate(), first=False)
    assert held_out.found == "60 images of 2 classes"


def test_a_class_without_held_out_images_needs_other_groups_where_there_are_groups() -> None:
    groups = evidence(0 * EVEN, 0 * EVEN, np.arange(60) // 6)
    (held_out, _) = weak_evidence(evaluation(groups), Gate(), first=False)
    assert "no held-out image of b: add images of other groups, or give" in held_out.found


def test_a_recall_that_few_images_cannot_show_says_so() -> None:
    passed = check_recall(evaluation(evidence(EVEN, EVEN)), Gate(recall={"b": 0.95}), "b")
    assert passed.passed
    assert passed.found == "1.000 (0.884 to 1.000) of 30 images; these images do not show it with 95%"
    many = check_recall(evaluation(evidence(np.arange(400) % 2, np.arange(400) % 2)), Gate(recall={"b": 0.95}), "b")
    assert many.found == "1.000 (0.982 to 1.000) of 200 images"


def test_a_champion_does_not_make_evidence_superfluous(
    nights: dict[str, Night], caplog: pytest.LogCaptureFixture
) -> None:
    """Tonight's test images have lost a class: the champion stays, unless anything may be promoted."""
    night = nights["as good"]
    assert night.evaluation
    known = night.evaluation.evidence
    lost = replace(night.evaluation, evidence=replace(known, supports=known.supports | {"2": 0}))
    decision = decide(night, Gate(margin=0.05), evaluation=lost)
    assert not decision.promoted
    assert decision.reason.startswith("held out: no held-out image of 2: hold more out")
    with caplog.at_level("WARNING", logger="grayline"):
        assert decide(night, Gate(margin=0.05, minimum=0), evaluation=lost).promoted
    assert "warning: promoted without evidence: held out: no held-out image of 2" in caplog.text
