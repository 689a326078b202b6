"""The store: every path and file name under `GRAYLINE_STORE`.

`LAYOUT` lists the places; docs/store.md is made of it. `Store` builds the paths; no other module writes one as text.
A folder named by a digest is its own cache: it is complete once the file that its stage writes last is there.
"""

import json
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from upath import UPath

from resnet_core.errors import UserError, nearest
from resnet_core.storage.files import DamagedFileError, read_json, remove_drafts, write_text
from resnet_core.storage.ignored import is_from_system

# In the catalog file's schema metadata.
CATALOG_VERSION = "grayline.version"
CATALOG_LEVELS = "grayline.levels"
SPLIT_GENERATION = "grayline.split"
LOOK_ALIKES_SOUGHT = "grayline.look_alikes"
CATALOG_SIZE = "grayline.size"
SPLITS_READ = "grayline.splits"  # those that the source's names have given

# Files of the folders below. A manifest, and `epochs.json` of a training, are written last.
MANIFEST = "_manifest.json"  # of a shard set, a batch, a set of features
EPOCHS, STATE, MODEL = "epochs.json", "state.safetensors", "model"  # of a training; `model` is a folder
EVALUATION, METRICS_FILE = "evaluation", "metrics.json"
AGAINST, AGAINST_FILE = "against", "against.json"  # of a training: how it compares with the champion
PREDICTIONS, SLICES = "predictions.parquet", "slices.parquet"
EXPLANATION, GALLERY, GALLERY_SHEET = "explanation", "gallery.json", "gallery.png"
FOLDS, OUT_OF_FOLD, FOLDS_SUMMARY = "folds.parquet", "out_of_fold.parquet", "cross_validation.json"
KEPT_ASIDE = "kept_aside.parquet"
ISSUES, ISSUES_SHEET = "issues.csv", "issues.png"
SPLITS, NOTES, CHOSEN = "splits.json", "notes.json", "settings.json"
SUMMARY, COMPARISON, SAMPLES, CONFLICTS = "summary.json", "comparison.png", "samples.png", "conflicts.png"
LOOK_ALIKES = "look_alikes.png"
TRIALS, ENGINE_FILE = "trials.json", "model.onnx"
BATCH_BEGUN, WORK, NEXT = "_batch.json", "_work", "_next"  # of a batch; the last two are folders
DRIFT, DRIFT_PLOT = "_drift.json", "_drift.png"
FEATURES_BEGUN = "_features.json"
STORE_MARK = "_store.json"  # a source above the store leaves out what has it
# Files below a `work` folder, which stages hand to each other.
ENTRIES, UNREAD, CORRECTIONS = "entries.parquet", "unread.parquet", "corrections.parquet"
SCORED, FEATURE_LISTING = "known.parquet", "listing.parquet"
ARTIFACTS = "mlartifacts"  # MLflow's, beside its database
REGISTERED = "registered.json"  # of a training: the MLflow runs by which versions were made of it
LINEAGE, LEARNED = "lineage.json", "learned.parquet"  # of a training, and of every version made of it

FORMAT = 1  # of the store; a release that earlier ones cannot go on from raises it
_WHEN = "%Y-%m-%dT%H%M%S"


@dataclass(frozen=True)
class Place:
    """A line of the layout: a path, its content, and the stage that writes it."""

    path: str
    content: str
    written_by: str


LAYOUT = (
    Place(STORE_MARK, "the store's format, and the versions that opened its databases last", "every command"),
    Place("catalog/<dataset>/catalog.parquet", "one row per source image ever seen", "ingest"),
    Place("history/<dataset>/<version>.parquet", "one row per file that a version of the catalog changed", "ingest"),
    Place("history/<dataset>/splits.json", "who began the split anew, when and why", "split"),
    Place("history/<dataset>/notes.json", "what nights have decided: gray levels, split folders, image size", "ingest"),
    Place("history/<dataset>/settings.json", "the values chosen for keys that are `auto`, and why", "train"),
    Place("checks/<dataset>/<version>/", "the data checks: `summary.json`, plots, samples", "ingest"),
    Place("pixels/<dataset>/<digest>/", "a cache of decoded images; deleting it costs reading them again", "ingest"),
    Place(
        "work/<dataset>/<start>/", "files that the stages of a running night hand on; removed by the night", "ingest"
    ),
    Place("turns/<dataset>.json", "the process that is at work on the data set, or on a machine", "every night"),
    Place("watch/<dataset>/", "open alerts, a file each; when a night last confirmed the champion", "every night"),
    Place("shards/<dataset>/<digest>/*.parquet", "one row per training image, and `_manifest.json`", "preprocess"),
    Place(
        "runs/<dataset>/<digest>/",
        "a training: `model/`, `epochs.json`, `evaluation/`, `explanation/`, `against/`",
        "train",
    ),
    Place("tune/<dataset>/<digest>/", "checkpoints of a search; `study.db` beside them is Optuna's", "tune"),
    Place("label_issues/<dataset>/<digest>/", "`issues.csv` and `issues.png`", "label-issues"),
    Place("reproduce/<model>/<digest>/", "the checkpoint of a version that is trained again", "reproduce"),
    Place("scores/<batch>/*.parquet", "one row per file of a batch, `_manifest.json`, `_drift.json`", "classify-batch"),
    Place("engines/<model>-<digest>/", "the trials of engines on this machine, and the ONNX file", "classify-batch"),
    Place("cache/", "compiled code of the engine `compile`; deleting it costs compiling again", "classify-batch"),
    Place("stack/", "process ids, logs and the password of the local servers", "grayline up"),
    Place(
        "backups/", "databases, as they were before another version of MLflow or Prefect opened them", "every command"
    ),
    Place("mlflow.db", "MLflow's database, unless `MLFLOW_TRACKING_URI` is set", "MLflow"),
    Place("mlartifacts/", "MLflow's artifacts: model versions and files of runs", "MLflow"),
    Place("prefect/", "Prefect's own files, unless `PREFECT_HOME` is set", "Prefect"),
)


@dataclass(frozen=True)
class Store:
    """The paths under the store's root, a local folder or any fsspec URL."""

    root: UPath

    def own_places(self) -> list[str]:
        """Return the places that a source leaves out: the store, and its folders if the store is the source."""
        return [str(self.root), *(str(self.root / place.path.split("/")[0]) for place in LAYOUT)]

    def catalog(self, dataset: str) -> UPath:
        """Return the catalog's file."""
        return self.root / "catalog" / dataset / "catalog.parquet"

    def history(self, dataset: str) -> UPath:
        """Return the folder of the catalog's versions. The catalog's own folder holds images alone."""
        return self.root / "history" / dataset

    def checks(self, dataset: str) -> UPath:
        """Return the folder with a folder of data checks for each version of the catalog."""
        return self.root / "checks" / dataset

    def pixels(self, dataset: str) -> UPath:
        """Return the folder of the caches of decoded images."""
        return self.root / "pixels" / dataset

    def work(self, dataset: str) -> UPath:
        """Return the folder of running nights."""
        return self.root / "work" / dataset

    def turn(self, name: str) -> UPath:
        """Return the file that says who is at work on a data set."""
        return self.root / "turns" / f"{name}.json"

    def watch(self, name: str) -> UPath:
        """Return the folder of the open alerts of a data set, or of what else they are about."""
        return self.root / "watch" / name

    def machine_turn(self) -> UPath:
        """Return the file that says whose training this machine runs; no data set can have its name."""
        return self.turn(f"@{socket.gethostname()}")

    def shards(self, dataset: str) -> UPath:
        """Return the folder of shard sets."""
        return self.root / "shards" / dataset

    def runs(self, dataset: str) -> UPath:
        """Return the folder of trainings and cross-validations."""
        return self.root / "runs" / dataset

    def tune(self, dataset: str) -> UPath:
        """Return the folder of searches."""
        return self.root / "tune" / dataset

    def label_issues(self, dataset: str) -> UPath:
        """Return the folder of label issues."""
        return self.root / "label_issues" / dataset

    def reproduce(self, model: str, files: str) -> UPath:
        """Return the folder of a version that is trained again. files: what identifies the version."""
        return self.root / "reproduce" / model / files

    def scores(self) -> UPath:
        """Return the folder of batches that were given no output."""
        return self.root / "scores"

    def engines(self) -> UPath:
        """Return the folder of engine trials."""
        return self.root / "engines"

    def compiled(self) -> UPath:
        """Return the folder of compiled code."""
        return self.root / "cache" / "inductor"

    def stack(self) -> UPath:
        """Return the folder of the local servers."""
        return self.root / "stack"

    def backups(self) -> UPath:
        """Return the folder of copies of databases."""
        return self.root / "backups"

    def prefect(self) -> UPath:
        """Return Prefect's home."""
        return self.root / "prefect"

    def artifacts(self) -> UPath:
        """Return the folder of MLflow's artifacts."""
        return self.root / ARTIFACTS

    def tracking_uri(self) -> str:
        """Return the address of MLflow's database. SQLite needs a local store."""
        return sqlite_address(f"{self.root.path}/mlflow.db")

    def tuning_uri(self, dataset: str) -> str:
        """Return the address of Optuna's database. SQLite needs a local store."""
        return sqlite_address(f"{self.tune(dataset).path}/study.db")

    def find_catalog(self, name: str | None) -> str:
        """Return the name of the data set if it has a catalog; by default the only one.

        Raises UserError if there is none, or several and no name.
        """
        check_format(self.root)
        folder = self.root / "catalog"
        names = [path.name for path in own_files(folder)]
        if not names:
            raise UserError(
                f"catalog: there is none yet in {self.root}. Run `grayline ingest --dataset FILE.yaml` first, or set "
                "GRAYLINE_STORE to the store that has it."
            )
        if name is None and len(names) > 1:
            raise UserError(f"--dataset: name one of {', '.join(names)}, the catalogs in {self.root}.")
        if name and name not in names:
            raise UserError(
                f"--dataset: there is no catalog of {name!r} in {self.root}.{nearest(name, names)} Give the name of a "
                f"data set: {', '.join(names)}."
            )
        return name or names[0]

    def begin_work(self, dataset: str) -> UPath:
        """Return a new folder for this night, which its last stage removes.

        Folders and drafts that killed nights have left are removed: whoever begins holds the data set's turn.
        """
        for place in LAYOUT:
            if "<dataset>" in place.path:
                remove_drafts(self.root / place.path.split("/")[0] / dataset)
        folder = self.work(dataset)
        for path in own_files(folder):
            path.fs.rm(path.path, recursive=True)
        return folder / f"{datetime.now(UTC):{_WHEN}}-{uuid4().hex[:8]}"


def read_mark(root: UPath) -> dict[str, Any]:
    """Return what the store says about itself; nothing for a store of an earlier release."""
    try:
        found = read_json(root / STORE_MARK)
    except (FileNotFoundError, NotADirectoryError, DamagedFileError):
        # an earlier release wrote none; a torn one says nothing
        return {}
    return found if isinstance(found, dict) else {}


def note_in_mark(root: UPath, notes: dict[str, Any]) -> None:
    """Write what the store says about itself, beside what is there."""
    write_text(root / STORE_MARK, json.dumps(read_mark(root) | {"format": FORMAT} | notes) + "\n")


def check_format(root: UPath) -> None:
    """Raise UserError for a store that a newer release has written; nothing in it is read or changed."""
    mark = read_mark(root)
    if isinstance(found := mark.get("format", FORMAT), int) and found <= FORMAT:
        return
    raise UserError(
        f"GRAYLINE_STORE: {root} has format {found}, and this release of Grayline knows format {FORMAT}. Install "
        f"a newer release, or set GRAYLINE_STORE to another store."
    )


def own_files(folder: UPath, pattern: str = "*") -> list[UPath]:
    """Return what lies in a folder of the store, sorted, without what a NAS or a system has put there."""
    if not folder.exists():
        return []
    below = len(folder.parts)
    return sorted((path for path in folder.glob(pattern) if not any(map(is_from_system, path.parts[below:]))), key=str)


def sqlite_address(path: str) -> str:
    """Return the address of a database file; SQLAlchemy decodes `%20`, and takes what follows a `?` for options.

    MLflow makes the folders of the address as it is: for such a name an empty one more, beside the store.
    """
    return "sqlite:///" + path.replace("%", "%25").replace("?", "%3F")


def sqlite_file(address: str) -> Path | None:
    """Return the file of a database's address; None for another kind of database."""
    file = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+).*", address)
    return Path(unquote(file[1])) if file else None
