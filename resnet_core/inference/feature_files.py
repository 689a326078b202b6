"""The outputs of a layer for some images, as a file that PyTorch, NumPy, pandas or TensorFlow reads.

    safetensors   `features`, `label` (int64, the class's place); the header's metadata has the ids, uris,
                  labels and splits as JSON, and the facts
    npz           `features`, `image_id`, `uri`, `label`, `split`, one row an image; `facts` as JSON
    parquet       the same columns, `features` Arrow's fixed_shape_tensor; the schema's metadata has the facts
    tfrecord      an Example an image: `features` (a flat FloatList), `shape`, `image_id`, `uri`, `label`, `split`

Features are float32 [N, ...] with channels first, as PyTorch has them. The facts are one JSON text under
`grayline`: layer, shape of an image's features, classes, the model's name and version.
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
    """What is known of N images besides their features."""

    image_id: list[str]
    uri: list[str]
    label: list[str]
    split: list[str]


def write(kind: Kind, path: Path, found: NDArray[np.float32], rows: Rows, facts: dict[str, Any]) -> None:
    """found: float32 [N, ...]; facts: with `classes`, in whose order the labels are numbered."""
    text = json.dumps(facts, ensure_ascii=False, sort_keys=True)
    match kind:
        case "safetensors":
            _write_safetensors(path, found, rows, facts["classes"], text)
        case "npz":
            columns = {name: np.array(values, dtype=np.str_) for name, values in rows._asdict().items()}
            with path.open("wb") as file:
                np.savez(file, features=found, facts=np.array(text), **columns)  # type: ignore[arg-type]
        case "parquet":
            tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(found))
            known = {name: pa.array(values, pa.string()) for name, values in rows._asdict().items()}
            table = pa.table({**known, "features": tensors})
            pq.write_table(table.replace_schema_metadata({METADATA_KEY: text}), path, compression="zstd")
        case "tfrecord":
            _write_tfrecord(path, found, rows)


def _write_safetensors(path: Path, found: NDArray[np.float32], rows: Rows, classes: list[str], facts: str) -> None:
    place = {name: k for k, name in enumerate(classes)}
    labels = np.array([place[label] for label in rows.label], dtype=np.int64)
    listed = {name: json.dumps(values, ensure_ascii=False) for name, values in rows._asdict().items()}
    save_file({"features": np.ascontiguousarray(found), "label": labels}, path, {**listed, "grayline": facts})


def _write_tfrecord(path: Path, found: NDArray[np.float32], rows: Rows) -> None:
    with quiet():
        import tensorflow as tf

    train = tf.train

    def texts(value: str) -> Any:
        return train.Feature(bytes_list=train.BytesList(value=[value.encode("utf-8")]))

    shape = train.Feature(int64_list=train.Int64List(value=found.shape[1:]))
    with tf.io.TFRecordWriter(str(path)) as writer:
        for k, values in enumerate(found):
            flat = train.Feature(float_list=train.FloatList(value=values.ravel()))
            known = {name: texts(column[k]) for name, column in rows._asdict().items()}
            example = train.Example(features=train.Features(feature={"features": flat, "shape": shape, **known}))
            writer.write(example.SerializeToString())
