"""The manifest of a finished batch: `_manifest.json`, written last, so that a folder with one is complete.

key                             value
source                          the folder, archive, table or URL that was scored
model_name, model_version       the version that scored it
model_files                     the digest of its files: numbers may begin again
engine                          the engine that computed the predictions
engines_not_used                by engine: why this machine did not use it
files, scored, failed           number of rows, of good rows, of bad files
needs_review                    number of images for a person to see; null for versions without prediction sets
unknown                         number of images unlike all that was learned; null for versions that cannot tell
labels                          by label: count, mean_confidence
reasons                         number of bad files by reason
parts                           number of rows by Parquet file
seconds, images_per_second      of this run
finished_at                     ISO 8601, UTC
confidential                    whether the version is of encrypted data: pages with pictures ask for --in-clear
ignored                         names of the source's ignored files, in full; own outputs as folders
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow.parquet as pq
from upath import UPath

from resnet_core.storage.files import read_json, write_whole
from tasks.batch.values import Scores
from tasks.store import MANIFEST, own_files
from tasks.values import ModelVersion


def write_manifest(folder: UPath, scores: Scores, rows: Mapping[str, int], ignored: UPath) -> None:
    """Write the manifest into `folder`; `rows` are counted by part, `ignored` is a Parquet file of names.

    Names are written one after the other, so that memory does not grow with their number.
    """
    content = {
        **scores.identity(),
        **scores.counts(),
        "labels": {name: {"count": n, "mean_confidence": mean} for name, (n, mean) in scores.labels.items()},
        "reasons": scores.reasons,
        "engines_not_used": scores.refused,
        "parts": rows,
        "seconds": round(scores.seconds, 3),
        "images_per_second": round(scores.images_per_second, 1),
        "confidential": scores.confidential,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    head = json.dumps(content, indent=2, ensure_ascii=False).removesuffix("\n}")
    with (
        write_whole(folder / MANIFEST) as draft,
        draft.open("w", encoding="utf-8") as file,
        ignored.open("rb") as names,
    ):
        file.write(f'{head},\n  "ignored": [')
        separator = ""
        for batch in pq.ParquetFile(names).iter_batches():
            for name in batch["path"].to_pylist():
                file.write(f"{separator}\n    {json.dumps(name, ensure_ascii=False)}")
                separator = ","
        file.write("\n  ]\n}\n" if separator else "]\n}\n")


def read_manifest(folder: UPath) -> Scores:
    """Return a finished batch by its manifest, which does not tell `reused` and `again`.

    Raises FileNotFoundError for a batch that is not finished.
    """
    content = read_json(folder / MANIFEST, "Run the same `grayline classify-batch` again, which writes it anew.")
    labels = {name: (label["count"], label["mean_confidence"]) for name, label in content.get("labels", {}).items()}
    return Scores(
        source=content["source"],
        output=folder,
        parts=tuple(own_files(folder, "*.parquet")),
        model=ModelVersion(content["model_name"], content["model_version"], "", content.get("model_files", "")),
        engine=content.get("engine", ""),
        files=content["files"],
        scored=content["scored"],
        reused=0,
        labels=labels,
        seconds=content.get("seconds", 0.0),
        review=content.get("needs_review"),
        unknown=content.get("unknown"),
        reasons=content.get("reasons", {}),
        ignored=len(content.get("ignored", ())),
        refused=content.get("engines_not_used", {}),
        confidential=content.get("confidential", False),
        finished=content.get("finished_at", ""),
    )
