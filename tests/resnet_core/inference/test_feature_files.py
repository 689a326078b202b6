"""The outputs of a layer come back from each kind of file with its own library, unchanged."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from resnet_core.inference import feature_files
from resnet_core.inference.feature_files import Kind, Rows
from resnet_core.model.classifier import Classifier
from resnet_core.model.features import LAYERS, Layer, compute, features, shape_of
from resnet_core.model.inputs import to_input
from tests.resnet_core.model.test_classifier import EVERYTHING, a_classifier

COUNT = 40
ROWS = Rows(
    [f"id-{k}" for k in range(COUNT)],
    [f"raw/ü {k}.png" for k in range(COUNT)],
    ["b" if k % 3 else "ü/ " for k in range(COUNT)],
    ["test" if k % 5 == 0 else "train" for k in range(COUNT)],
)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return a_classifier(8, EVERYTHING)


def write(kind: Kind, layer: Layer, classifier: Classifier, pixels: np.ndarray, path: Path) -> np.ndarray:
    """Write the file; give what the network itself says."""
    found = compute(classifier, pixels, layer)
    facts = {"layer": layer, "shape": list(found.shape[1:]), "classes": list(classifier.classes)}
    feature_files.write(kind, path, found, ROWS, facts)
    with torch.inference_mode():
        return features(classifier.network, to_input(torch.from_numpy(pixels), classifier.normalisation))[layer].numpy()


@pytest.mark.parametrize("layer", LAYERS)
def test_pytorch_reads_safetensors(
    layer: Layer, classifier: Classifier, digits: tuple[np.ndarray, list[str]], tmp_path: Path
) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file

    path = tmp_path / "some.safetensors"
    own = write("safetensors", layer, classifier, digits[0][:COUNT], path)
    read = load_file(path)
    assert own.ndim == (4 if layer.startswith("st") else 2)
    np.testing.assert_allclose(read["features"].numpy(), own, atol=1e-5)
    assert [classifier.classes[k] for k in read["label"]] == ROWS.label
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["uri"]) == ROWS.uri
        assert json.loads(file.metadata()["grayline"])["layer"] == layer
        assert shape_of(classifier, layer) == own.shape[1:]


def test_numpy_reads_npz(classifier: Classifier, digits: tuple[np.ndarray, list[str]], tmp_path: Path) -> None:
    own = write("npz", "stage2", classifier, digits[0][:COUNT], tmp_path / "some.npz")
    with np.load(tmp_path / "some.npz", allow_pickle=False) as read:
        np.testing.assert_allclose(read["features"], own, atol=1e-5)
        for name, values in ROWS._asdict().items():
            assert read[name].tolist() == values
        assert json.loads(str(read["facts"]))["shape"] == list(own.shape[1:])


def test_pandas_and_arrow_read_parquet(
    classifier: Classifier, digits: tuple[np.ndarray, list[str]], tmp_path: Path
) -> None:
    own = write("parquet", "stage4", classifier, digits[0][:COUNT], tmp_path / "some.parquet")
    table = pd.read_parquet(tmp_path / "some.parquet")
    for name, values in ROWS._asdict().items():
        assert table[name].tolist() == values
    np.testing.assert_allclose(np.stack(table["features"].to_numpy()).reshape(own.shape), own, atol=1e-5)
    column = pq.read_table(tmp_path / "some.parquet")["features"].combine_chunks()
    np.testing.assert_allclose(column.to_numpy_ndarray(), own, atol=1e-5)


@pytest.mark.tensorflow
def test_tensorflow_reads_tfrecord(
    classifier: Classifier, digits: tuple[np.ndarray, list[str]], tmp_path: Path
) -> None:
    import tensorflow as tf

    own = write("tfrecord", "stage1", classifier, digits[0][:COUNT], tmp_path / "some.tfrecord")
    wanted = {name: tf.io.FixedLenFeature([], tf.string) for name in Rows._fields}
    wanted["features"] = tf.io.FixedLenFeature(own.shape[1:], tf.float32)
    wanted["shape"] = tf.io.FixedLenFeature([own.ndim - 1], tf.int64)
    data = tf.data.TFRecordDataset(str(tmp_path / "some.tfrecord")).map(
        lambda row: tf.io.parse_single_example(row, wanted)
    )
    read = list(data.as_numpy_iterator())
    np.testing.assert_allclose(np.stack([row["features"] for row in read]), own, atol=1e-5)
    assert [row["uri"].decode() for row in read] == ROWS.uri
    assert [row["label"].decode() for row in read] == ROWS.label
    assert read[0]["shape"].tolist() == list(own.shape[1:])
