"""Feature files: the outputs of a layer for images, for PyTorch, NumPy, pandas or TensorFlow.

    safetensors   `features`, `label` (int64, the class's place); the header's metadata has the ids, uris,
                  labels and splits as JSON, and the facts
    npz           `features`, `image_id`, `uri`, `label`, `split`, a row per image; `facts` as JSON
    parquet       the same columns, `features` Arrow's fixed_shape_tensor; the schema's metadata has the facts
    tfrecord      an Example per image: `features` (a flat FloatList), `shape`, `image_id`, `uri`, `label`, `split`

Features are float32 [N, ...] with channels first, as in PyTorch. The facts are a JSON text under `grayline`: layer,
shape of an image's features, classes, the model's name and version.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save_file

from resnet_core.export.quiet import quiet
from resnet_core.shards.format import METADATA_KEY

Kind = Literal["safetensors", "npz", "parquet", "tfrecord"]
KINDS: tuple[str, ...] = get_args(Kind)


class Rows(NamedTuple):
    """Identity, label and split of N images."""

    image_id: list[str]
    uri: list[str]
    label: list[str]
    split: list[str]


def write(kind: Kind, path: Path, features: NDArray[np.float32], rows: Rows, facts: dict[str, Any]) -> None:
    """Write features, float32 [N, ...]. facts: with `classes`, in whose order the labels are numbered."""
    text = json.dumps(facts, ensure_ascii=False, sort_keys=True)
    match kind:
        case "safetensors":
            _write_safetensors(path, features, rows, facts["classes"], text)
        case "npz":
            columns = {name: np.array(values, dtype=np.str_) for name, values in rows._asdict().items()}
            with path.open("wb") as file:
                np.savez(file, features=features, facts=np.array(text), **columns)  # type: ignore[arg-type]
        case "parquet":
            tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(features))
            columns = {name: pa.array(values, pa.string()) for name, values in rows._asdict().items()}
            table = pa.table({**columns, "features": tensors})
            pq.write_table(table.replace_schema_metadata({METADATA_KEY: text}), path, compression="zstd")
        case "tfrecord":
            _write_tfrecord(path, features, rows)


def _write_safetensors(path: Path, features: NDArray[np.float32], rows: Rows, classes: list[str], facts: str) -> None:
    place = {name: k for k, name in enumerate(classes)}
    labels = np.array([place[label] for label in rows.label], dtype=np.int64)
    listed = {name: json.dumps(values, ensure_ascii=False) for name, values in rows._asdict().items()}
    save_file({"features": np.ascontiguousarray(features), "label": labels}, path, {**listed, "grayline": facts})


def _write_tfrecord(path: Path, features: NDArray[np.float32], rows: Rows) -> None:
    with quiet():
        import tensorflow as tf

    train = tf.train

    def texts(value: str) -> Any:
        return train.Feature(bytes_list=train.BytesList(value=[value.encode("utf-8")]))

    shape = train.Feature(int64_list=train.Int64List(value=features.shape[1:]))
    with tf.io.TFRecordWriter(str(path)) as writer:
        for k, values in enumerate(features):
            flat = train.Feature(float_list=train.FloatList(value=values.ravel()))
            columns = {name: texts(column[k]) for name, column in rows._asdict().items()}
            example = train.Example(features=train.Features(feature={"features": flat, "shape": shape, **columns}))
            writer.write(example.SerializeToString())
