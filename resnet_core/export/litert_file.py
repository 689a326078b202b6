"""LiteRT (TensorFlow Lite) files: a traced network written by TensorFlow's converter, run by its interpreter.

Converters from PyTorch cannot be installed beside this project's PyTorch. `compute` therefore runs the graph with
TensorFlow's operations, and TensorFlow's converter writes the file.
"""

import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx
from torch.export import ExportedProgram

from resnet_core.export.graph import INPUT, METADATA, OUTPUT, Run
from resnet_core.export.quiet import quiet
from resnet_core.model.inputs import resize_matrix


def write(program: ExportedProgram, metadata: str, path: Path) -> None:
    """Write the file, for batches of any size; the metadata is the file's metadata entry `grayline`."""
    with quiet():
        import tensorflow as tf

        size = _side(program)
        spec = tf.TensorSpec([None, size, size], tf.uint8, name=INPUT)
        # AutoGraph would rewrite everything that `compute` calls, torch too, which takes minutes.
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
    """Load the file into TensorFlow's interpreter on the CPU."""
    with quiet():
        import tensorflow as tf

        content = path.read_bytes()
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=torch.get_num_threads())
        interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            with quiet():  # it prints its choice of kernels
                interpreter.resize_tensor_input(source["index"], images.shape)
                interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], images)
        interpreter.invoke()
        probabilities: NDArray[np.float32] = interpreter.get_tensor(target["index"])
        return probabilities

    return run


def accuracy(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """Return the accuracy by tf.keras.metrics."""
    with quiet():
        import tensorflow as tf

        metric: Any = tf.keras.metrics.SparseCategoricalAccuracy()
        metric.update_state(labels, probabilities)
        return float(metric.result())


_LAST = (0, 3, 1, 2)  # where torch's dimensions of [N, C, H, W] lie in [N, H, W, C]
FIRST = (0, 2, 3, 1)  # and the other way round
NOTHING = ("_assert_tensor_metadata", "sym_constrain_range_for_size", "_assert_scalar")


def compute(program: ExportedProgram, images: Any) -> Any:
    """Compute the program's graph on a TensorFlow tensor, uint8 [N, S, S].

    Raises NotImplementedError for an operation without a rule.
    """
    program = program.run_decompositions()
    weights = {**program.state_dict, **program.constants}
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    values: dict[str, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            is_weight = node.name in names
            values[node.name] = weights[names[node.name]].detach().cpu().numpy() if is_weight else images
        elif node.op == "call_function":
            arguments = fx.map_arg((node.args, node.kwargs), lambda other: values[other.name])
            values[node.name] = rule(node)(*arguments[0], **arguments[1])
    output = next(node for node in program.graph.nodes if node.op == "output")
    return values[output.args[0][0].name]


def rule(node: fx.Node) -> Callable[..., Any]:
    """Return the function that computes the node's operation."""
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    if node.target in (operator.getitem, operator.mul):
        return node.target
    if name in NOTHING:
        return lambda *args, **kwargs: None
    if name not in _RULES:
        raise NotImplementedError(f"no rule for {node.target}")
    return _RULES[name]


def axis(x: Any, dim: int) -> int:
    """Return TensorFlow's dimension for torch's dimension of a value."""
    dim %= x.shape.rank
    return _LAST[dim] if x.shape.rank == 4 else dim


def axes(x: Any, dims: Sequence[int]) -> list[int]:
    return [axis(x, dim) for dim in dims]


def _convolution(x: Any, weight: NDArray[np.float32], bias: Any, *options: Any) -> Any:
    import tensorflow as tf

    stride, padding, dilation, transposed, _, groups = options
    if transposed or groups != 1 or set(dilation) != {1}:
        raise NotImplementedError("no rule for transposed, grouped or dilated convolutions")
    kernel = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))  # [kh, kw, inputs, outputs]
    same = stride == [1, 1] and [2 * p + 1 for p in padding] == list(kernel.shape[:2])
    if not same:
        x = pad(x, padding, 0.0)
    y = tf.nn.conv2d(x, kernel, stride, "SAME" if same else "VALID")
    return y if bias is None else tf.nn.bias_add(y, bias)


def pad(x: Any, padding: list[int], value: float) -> Any:
    """Pad [N, H, W, C] with rows above and below, and columns left and right."""
    import tensorflow as tf

    rows, columns = padding
    if not rows and not columns:
        return x
    return tf.pad(x, [[0, 0], [rows, rows], [columns, columns], [0, 0]], constant_values=value)


def batch_norm(x: Any, *parameters: Any) -> tuple[Any]:
    """Normalise by weight, bias, mean, variance and epsilon, in torch's order; channels are last in all ranks."""
    weight, bias, mean, variance, _, epsilon = parameters
    scale = weight / np.sqrt(variance.astype(np.float64) + epsilon)
    shift = bias - mean * scale
    return (x * scale.astype(np.float32) + shift.astype(np.float32),)


def _max_pool(x: Any, size: list[int], stride: list[int], padding: list[int] = [0, 0]) -> tuple[Any]:  # noqa: B006
    import tensorflow as tf

    lowest = float(np.finfo(np.float32).min)
    return (tf.nn.max_pool2d(pad(x, padding, lowest), size, stride, "VALID"),)


def view(x: Any, shape: Sequence[Any]) -> Any:
    """Reshape. Rows and columns cannot be merged with other dimensions, because their order differs from torch's."""
    import tensorflow as tf

    if len(shape) == 4 or (x.shape.rank == 4 and x.shape[1:3] != [1, 1]):
        raise NotImplementedError("no rule for new shapes of images")
    return tf.reshape(x, shape if all(isinstance(side, int) for side in shape) else tf.stack(shape))


def permute(x: Any, dims: Sequence[int]) -> Any:
    import tensorflow as tf

    if isinstance(x, np.ndarray):
        return x.transpose(dims)
    order = [_LAST[dims[dim]] for dim in FIRST] if x.shape.rank == 4 else list(dims)
    return tf.transpose(x, order)


def unsqueeze(x: Any, dim: int) -> Any:
    import tensorflow as tf

    if x.shape.rank == 3 and dim != 1:
        raise NotImplementedError("no rule for a new dimension that is not the channels'")
    return tf.expand_dims(x, 3 if x.shape.rank == 3 else dim)


def flip(x: Any, dims: Sequence[int]) -> Any:
    import tensorflow as tf

    for place in axes(x, dims):  # LiteRT reverses one at a time
        x = tf.reverse(x, [place])
    return x


def _resized(x: Any, size: Sequence[int], *_: Any) -> Any:
    """Resize [N, S, S, 1] bilinearly to [N, side, side, 1], as two products with torch's matrix."""
    import tensorflow as tf

    if x.shape[3] != 1 or size[0] != size[1] or x.shape[1] != x.shape[2]:
        raise NotImplementedError("no rule for resizing other than square images of one channel")
    matrix = resize_matrix(x.shape[1], size[1]).numpy()
    y = tf.tensordot(x[..., 0], matrix, 1)  # [N, S, side]
    return tf.transpose(tf.tensordot(tf.transpose(y, [0, 2, 1]), matrix, 1), [0, 2, 1])[..., None]


def _simple() -> dict[str, Callable[..., Any]]:
    """Return the operations that TensorFlow has under another name."""

    def with_tensorflow(make: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            import tensorflow as tf

            return make(tf, *args, **kwargs)

        return call

    rules: dict[str, Callable[..., Any]] = {
        "relu": lambda tf, x: tf.nn.relu(x),
        "add": lambda tf, x, y: x + y,
        "sub": lambda tf, x, y: x - y,
        "mul": lambda tf, x, y: x * y,
        "div": lambda tf, x, y: x / y,
        "log": lambda tf, x: tf.math.log(x),
        "exp": lambda tf, x: tf.exp(x),
        "clamp": lambda tf, x, low=None, high=None: _clamp(tf, x, low, high),
        "clone": lambda tf, x, **_: tf.identity(x),
        "_to_copy": lambda tf, x, dtype=torch.float32, **_: tf.cast(x, str(dtype).removeprefix("torch.")),
        "mean": lambda tf, x, dims, keep=False: tf.reduce_mean(x, axes(x, dims), keep),
        "amax": lambda tf, x, dims, keep=False: tf.reduce_max(x, axes(x, dims), keep),
        "sum": lambda tf, x, dims, keep=False: tf.reduce_sum(x, axes(x, dims), keep),
        "cat": lambda tf, parts, dim=0: tf.concat(parts, axis(parts[0], dim)),
        "mm": lambda tf, x, y: tf.matmul(x, y),
        "addmm": lambda tf, bias, x, y: tf.matmul(x, y) + bias,
        "_softmax": lambda tf, x, dim, _: tf.nn.softmax(x, axis(x, dim)),
        "sym_size": lambda tf, x, dim: tf.shape(x)[axis(x, dim)],
    }
    return {name: with_tensorflow(make) for name, make in rules.items()}


def _clamp(tf: Any, x: Any, low: float | None, high: float | None) -> Any:
    x = x if low is None else tf.maximum(x, low)
    return x if high is None else tf.minimum(x, high)


_RULES: dict[str, Callable[..., Any]] = {
    **_simple(),
    "clamp_min": lambda x, low: _RULES["clamp"](x, low),
    "convolution": _convolution,
    "_native_batch_norm_legit_no_training": batch_norm,
    "max_pool2d_with_indices": _max_pool,
    "view": view,
    "permute": permute,
    "unsqueeze": unsqueeze,
    "flip": flip,
    "upsample_bilinear2d": _resized,
    "_upsample_bilinear2d_aa": _resized,
}
