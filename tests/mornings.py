"""What a night of the simulated year does, what a person does by day, and what holds each morning.

Everything here runs in a fork (`tests.fault_points.forked`), because MLflow keeps its database open.
"""

import io
import json
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

CHORES = ("delete_old_version", "delete_run", "delete_challenger", "delete_experiment", "rename_run", "write_notes")
_IGNORED = (".part", ".tmp")


@dataclass(frozen=True)
class Morning:
    """What to look at. whole: the night went well. deep: also `doctor --deep`. faults: of the last 60 nights.

    alias_gone: a person has deleted the champion's alias. rot: a file was cut, under all of its names perhaps.
    """

    name: str
    floor: float
    whole: bool
    deep: bool
    faults: int
    alias_gone: bool
    rot: bool = False


def night(home: Path, *, draws: bool = True) -> None:
    """Run a night. draws: otherwise its charts and pictures are one point each, which takes half the time."""
    from flows.nightly_retrain import nightly_retrain
    from tasks.watch import alerts

    def hear(name: str, alert: alerts.Alert, event: str, run_id: str | None) -> bool:
        with (home / "alerts").open("a") as file:
            file.write(f"{alert.kind} {event}\n")
        return True

    alerts._send = hear
    if not draws:
        _draw_nothing()
    began = _spent()
    made = nightly_retrain.fn(str(home / "digits.yaml"))
    refused = bool(made.decision and made.decision.checks and not made.decision.promoted)
    told = {"seconds": _spent() - began, "modules": sorted(sys.modules), "refused": refused}
    (home / "night.json").write_text(json.dumps(told))


def _spent() -> float:
    """Return the processor's seconds of this process and its readers: neighbours count less than by the clock."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _draw_nothing() -> None:
    from PIL import Image

    from tasks.evaluation import explain, files
    from tasks.ingest import checks

    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    point = buffer.getvalue()
    for module, drawn in ((files, "png"), (explain, "gallery_sheet"), (checks, "plot")):
        assert hasattr(module, drawn), f"{module.__name__} draws by another function"
        setattr(module, drawn, lambda *_, **__: point)


def warm_up() -> None:
    """Learn once what every fork would: the code's digests, the installed packages, Matplotlib's fonts."""
    from mlflow.utils import requirements_utils

    from resnet_core.plotting.plots import png
    from resnet_core.storage import digest
    from tasks.training import lineage

    for floor in ("flows", "tasks", "resnet_core"):
        for file in (Path(__file__).parents[1] / floor).rglob("*.py"):
            digest._code(file)
    requirements_utils._init_packages_to_modules_map()
    installed = lineage.distributions_here()
    lineage.distributions_here = lambda: installed
    png(lambda panel: panel.subplots().set_title("fonts"))


def batch(home: Path, source: Path, name: str, drifts: bool) -> None:
    """Score a folder; a row for each file, and drift where there is some."""
    from flows.classify_batch import classify_batch
    from tasks.batch import drift
    from tasks.settings import Settings

    drift._emit = lambda *_: None  # type: ignore[assignment]  # its event goes to Prefect's server
    output = Path(Settings().root.path) / "scores" / source.name
    classify_batch.fn(str(source), str(output), f"{name}@champion", engine="torch")
    rows = sum(pq.read_metadata(path).num_rows for path in output.glob("*.parquet"))
    if rows != (files := len(list(source.iterdir()))):
        raise AssertionError(f"{rows} rows of {files} files")
    found = json.loads((output / "_drift.json").read_text())["drifted"]
    if bool(found) is not drifts:
        raise AssertionError(f"drift in {source.name}: {found}")


def chore(name: str, what: str, chance: float) -> None:
    """Do what people do to MLflow. chance: draws one of the versions."""
    from tasks.registry import champion as champions
    from tasks.registry.runs import client
    from tasks.registry.versions import CHAMPION, by_alias, versions_of
    from tasks.settings import Settings

    uri = Settings().tracking_uri
    registry, versions, now = client(uri), versions_of(uri, name), by_alias(uri, name, CHAMPION)
    numbers = sorted(versions, key=int)
    drawn = versions[numbers[int(chance * len(numbers))]]
    match what:
        case "delete_old_version":
            if now and str(drawn.version) not in (now.version, *numbers[-3:]):
                registry.delete_model_version(name, str(drawn.version))
        case "delete_run":
            registry.delete_run(str(drawn.run_id))
        case "delete_challenger":
            registry.delete_registered_model_alias(name, "challenger")
        case "delete_experiment":
            registry.delete_experiment(registry.get_experiment_by_name(name).experiment_id)
        case "rename_run":
            registry.update_run(str(drawn.run_id), name="good one")
        case "write_notes":
            registry.set_registered_model_tag(name, "grayline.history.note", "no JSON")
            registry.set_model_version_tag(name, str(drawn.version), "reviewed", "yes")
        case "delete_alias":
            registry.delete_registered_model_alias(name, CHAMPION)
        case "roll_back" if now and (before := champions.last_accepted(uri, now)) and int(before) > 2:
            champions.take_back(uri, name, None, "by hand")


def uris(store: Path, name: str, split: str) -> list[str]:
    """Return the files of a split's images."""
    rows = pq.read_table(store / "catalog" / name / "catalog.parquet", columns=["uri", "split", "status", "present"])
    wanted = (row for row in rows.to_pylist() if row["present"] and row["status"] == "ok" and row["split"] == split)
    return sorted(row["uri"] for row in wanted)


def look(home: Path, ask: Morning) -> None:
    """Write down what is wrong this morning."""
    from tasks.workspace import workspace

    here = workspace()
    found = [*_champion(home, ask, here)]
    if ask.whole:
        found += [*_catalog(home, ask, here), *_growth(ask, here), *_alerts(home, ask, here)]
    if ask.deep:
        from flows.machine.audit import audit

        for each in audit(here) if ask.rot else ():
            # As a person does who reads it. The night itself has mended the rest.
            if "/shards/" in each.place and each.mend and each.remedy == "grayline doctor --deep --repair":
                each.mend()
        told = [f"doctor: {each.place}: {each.wrong} ({each.remedy})" for each in audit(here)]
        found += [line for line in told if ": its run " not in line]  # that a person has deleted
    (home / "morning.json").write_text(json.dumps(found))


def _champion(home: Path, ask: Morning, here: Any) -> Iterator[str]:
    """One champion, with the files that were registered, as the history has it, and no worse than the floor."""
    import numpy as np

    from tasks.registry.champion import events
    from tasks.registry.integrity import check_version
    from tasks.registry.versions import CHAMPION, by_alias, find_version, load_classifier

    uri = here.tracking_uri
    champion = by_alias(uri, ask.name, CHAMPION)
    if champion is None:
        if not ask.alias_gone:
            yield "there is no champion"
        else:  # a person sees the warning, and does what it says
            from tasks.registry.champion import make_champion

            last = [event.after for event in events(uri, ask.name) if event.action != "refused"][-1]
            make_champion(uri, ask.name, last, "by hand")
        return
    check_version(uri, find_version(uri, ask.name, champion.version), None)
    moves = [event.after for event in events(uri, ask.name) if event.action != "refused"]
    if moves[-1] != champion.version and ask.whole:
        yield f"the champion is {champion.version}, and the history ends with {moves[-1]}"
    known = home / f"accuracy-{champion.version}"
    if champion.version != "2" and not known.exists():  # 2 is the earlier release's, by hand
        labels = np.array(json.loads((home / "clean.json").read_text()))
        classifier = load_classifier(uri, champion, "cpu")
        answers = np.array(classifier.classes)[classifier.probabilities(np.load(home / "clean.npy")).argmax(1)]
        known.write_text(str(accuracy := float((answers == labels).mean())))
        if accuracy < ask.floor:
            yield f"version {champion.version} is right on {accuracy:.3f} of clean images"


def _catalog(home: Path, ask: Morning, here: Any) -> Iterator[str]:
    """Every file is a row; no image changes its split; nothing that a champion is judged by was learned from."""
    from tasks.registry.images import learned_from
    from tasks.registry.versions import CHAMPION, by_alias

    rows = pq.read_table(here.store.catalog(ask.name).path).to_pylist()
    present = {row["uri"] for row in rows if row["present"]}
    files = {str(path) for path in (home / "digits").glob("*/*") if path.suffix not in _IGNORED}
    if present != files:
        yield f"rows without a file: {sorted(present - files)[:3]}; files without a row: {sorted(files - present)[:3]}"
    bad = {row["uri"] for row in rows if row["present"] and row["status"] == "quarantined"}
    wanted = {uri for uri in files if Path(uri).name.startswith(("bad-", "damaged", "empty", "copying"))}
    if bad - wanted or wanted - bad - {row["uri"] for row in rows if row["reason_code"] == "still_written"}:
        yield f"quarantined: {sorted(bad ^ wanted)[:5]}"
    by_id = {row["image_id"]: row for row in rows if row["status"] == "ok" and row["present"]}
    splits = {image: row["split"] for image, row in by_id.items()}
    known = home / "splits.json"
    before = json.loads(known.read_text()) if known.exists() else {}
    if moved := [image for image, split in splits.items() if before.get(image, split) != split]:
        yield f"{len(moved)} images have changed their split, such as {by_id[moved[0]]['uri']}"
    known.write_text(json.dumps(before | splits))
    for row in rows:
        if row["present"] and row["status"] == "duplicate" and row["split"] not in (None, splits.get(row["image_id"])):
            yield f"{row['uri']} is a copy in another split"
        tied = by_id.get(row["near"] or "")
        if row["present"] and row["status"] == "ok" and tied and tied["split"] != row["split"]:
            yield f"{row['uri']} ({row['split']}) is the same picture as {tied['uri']} ({tied['split']})"
    champion = by_alias(here.tracking_uri, ask.name, CHAMPION)
    learned = learned_from(champion, here) if champion else None
    test = {image for image, split in splits.items() if split == "test"}
    if learned and (seen := [image for image in test if image in learned]):
        yield f"the champion has learned from {len(seen)} test images, such as {by_id[seen[0]]['uri']}"


def _growth(ask: Morning, here: Any) -> Iterator[str]:
    """Nothing is left that the rules let go, by `prune` itself and by counting."""
    from flows import prune
    from tasks.registry.versions import versions_of

    plan = prune.plan()
    if plan.versions or plan.runs or plan.leftovers:
        left = [str(one.folder) for one in plan.leftovers]
        yield f"prune has left {len(plan.versions)} versions, {len(plan.runs)} runs, {left[:3]}"
    versions = len(versions_of(here.tracking_uri, ask.name))
    root = Path(here.store.root.path)
    # Ten of any age, 31 nights, three champions before this one, aliases, a batch's, and ten without a version.
    most = 10 + 31 + 3 + 2 + 1 + 10
    places = ("mlartifacts/*/models/m-*", f"runs/{ask.name}/*", f"shards/{ask.name}/*")
    for what, count in (("versions", versions), *((place, len(list(root.glob(place)))) for place in places)):
        if count > most + ask.faults:
            yield f"{count} {what}"


def _alerts(home: Path, ask: Morning, here: Any) -> Iterator[str]:
    """Each alert was told once, and once when it was well again. A night that died may have told it before."""
    from tasks.watch.alerts import open_alerts

    last: dict[str, str] = {}
    for kind, event in map(str.split, (home / "alerts").read_text().splitlines()):
        if kind == "fault":
            last.clear()
        elif last.get(kind) == event:
            yield f"the alert {kind} was told twice: {event}"
        last[kind] = event
    refused = json.loads((home / "night.json").read_text())["refused"]
    if refused != ("refused" in open_alerts(here.store, ask.name)):
        yield f"the gate {'refused' if refused else 'accepted'}, and the alert says otherwise"


def sizes(store: Path, name: str) -> dict[str, Any]:
    """Return MB of the store and of MLflow's database, and the number of files, versions and images."""
    paths = (os.path.join(folder, each) for folder, _, names in os.walk(store) for each in names)
    found = {facts.st_ino: facts.st_size for facts in map(os.stat, paths)}  # a linked file once
    return {
        "store_mb": round(sum(found.values()) / 1e6, 1),
        "mlflow_mb": round((store / "mlflow.db").stat().st_size / 1e6, 2),
        "files": len(found),
        "versions": len(list(store.glob("mlartifacts/*/models/m-*"))),
        "images": pq.read_metadata(store / "catalog" / name / "catalog.parquet").num_rows,
    }
