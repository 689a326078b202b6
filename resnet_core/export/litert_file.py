"""A traced network as a LiteRT (TensorFlow Lite) file, and such a file run by TensorFlow's interpreter.

No converter from PyTorch can be installed beside the PyTorch that trains here, so the graph is computed
by TensorFlow's operations (`tensorflow_graph`) and TensorFlow's own converter writes the file.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from resnet_core.export.graph import INPUT, METADATA, OUTPUT, Run
from resnet_core.export.quiet import quiet
from resnet_core.export.tensorflow_graph import compute


def write(program: ExportedProgram, metadata: str, path: Path) -> None:
    """The metadata is the file's metadata entry `grayline`. The batch may be of any size: resize the input."""
    with quiet():
        import tensorflow as tf

        size = _side(program)
        spec = tf.TensorSpec([None, size, size], tf.uint8, name=INPUT)
        # AutoGraph would rewrite all that `compute` calls, torch too, and take minutes.
        graph = tf.function(lambda images: {OUTPUT: compute(program, images)}, [spec], autograph=False)
        module = tf.Module()
        module.graph = graph
        converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()], module)
        content = converter.convert()
        path.write_bytes(with_metadata(content, metadata))


def _side(program: ExportedProgram) -> int:
    (name,) = program.graph_signature.user_inputs
    node = next(node for node in program.graph.nodes if node.name == name)
    return int(node.meta["val"].shape[-1])


def with_metadata(content: bytes, text: str) -> bytes:
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    entry.name, entry.buffer = METADATA, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def read_metadata(path: Path) -> str:
    with quiet():
        from tensorflow.lite.tools import flatbuffer_utils

        model = flatbuffer_utils.convert_bytearray_to_object(bytearray(path.read_bytes()))
    entry = next(entry for entry in model.metadata if entry.name.decode() == METADATA)
    return bytes(model.buffers[entry.buffer].data).decode("utf-8")


def load(path: Path) -> Run:
    """TensorFlow's interpreter on the CPU."""
    with quiet():
        import tensorflow as tf

        content = path.read_bytes()
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=torch.get_num_threads())
        interpreter.allocate_tensors()
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            with quiet():  # it says so when it takes a faster way
                interpreter.resize_tensor_input(given["index"], images.shape)
                interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        found: NDArray[np.float32] = interpreter.get_tensor(wanted["index"])
        return found

    return run


def accuracy(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """By tf.keras.metrics."""
    with quiet():
        import tensorflow as tf

        metric: Any = tf.keras.metrics.SparseCategoricalAccuracy()
        metric.update_state(labels, probabilities)
        return float(metric.result())
