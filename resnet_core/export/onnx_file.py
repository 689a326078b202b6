"""ONNX files: a traced network in float32 or int8, run by ONNX Runtime or OpenVINO."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from resnet_core.errors import UserError, some_of
from resnet_core.export.graph import FEATURES, INPUT, METADATA, OUTPUT, Outputs, Run
from resnet_core.export.quiet import quiet
from resnet_core.model.inputs import resize_matrix

_OPSET = 18  # the oldest that torch writes
# Operations computed in int8; input and output keep their types.
_QUANTIZED = ["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "GlobalAveragePool"]
BATCH = 32  # images that int8 is calibrated on at a time
_HELD_OUT = "grayline.held_out"  # property of an int8 file: JSON of the distances it measures of held-out images


def write(program: ExportedProgram, metadata: str, path: Path) -> None:
    """Write the file. Raises onnx.checker.ValidationError for an invalid graph."""
    import onnx

    with quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=_OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT, FEATURES][: len(program.graph_signature.user_outputs)],
            custom_translation_table={torch.ops.aten._upsample_bilinear2d_aa.default: _resized},
            verbose=False,
        )
    assert made is not None
    save(made.model_proto, metadata, path)
    onnx.checker.check_model(str(path), full_check=True)


def _resized(x: Any, size: Sequence[int], *_: Any) -> Any:
    """Resize an ONNX value [N, 1, S, S] to [N, 1, side, side], by two matrix products.

    OpenVINO ignores `antialias` of ONNX's own resizing; all runtimes compute products alike.
    """
    import onnx
    from onnxscript import opset18 as ops

    matrix = resize_matrix(x.shape[-1], int(size[-1])).numpy()
    columns = ops.Constant(value=onnx.numpy_helper.from_array(matrix))
    rows = ops.Constant(value=onnx.numpy_helper.from_array(np.ascontiguousarray(matrix.T)))
    return ops.MatMul(ops.MatMul(rows, x), columns)


def save(model: Any, metadata: str, path: Path) -> None:
    """Name the batch's dimension, and write the onnx.ModelProto with the metadata."""
    import onnx

    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]  # with the old name; the checker infers shapes itself
    onnx.helper.set_model_props(model, {METADATA: metadata})
    path.write_bytes(model.SerializeToString())


def write_int8(program: ExportedProgram, metadata: str, path: Path, pixels: NDArray[np.uint8], **changes: Any) -> None:
    """Write weights of 7 bits as int8, a scale per output channel, with explicit quantisation in the graph (QDQ).

    Processors without VNNI add two products of an activation and a weight in 16 bits (`vpmaddubsw`). With 7 bits the
    sum fits: 2 * 255 * 64 = 32,640. With 8 bits it saturates, and decisions change (benchmarks/int8.py). So it does
    with signed activations.

    pixels: uint8 [N, S, S], on which the scales of the activations are measured. changes: of the quantiser's settings.
    """
    import onnx
    from onnxruntime import quantization

    with tempfile.TemporaryDirectory() as folder:
        full, folded, made = (Path(folder) / f"{name}.onnx" for name in ("full", "folded", "int8"))
        write(program, metadata, full)
        with quiet():
            quantization.quant_pre_process(str(full), str(folded), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(folded),
                str(made),
                _reader(pixels),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=_QUANTIZED,
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                **{"activation_type": quantization.QuantType.QUInt8, "reduce_range": True, **changes},
            )
        save(onnx.load(str(made)), metadata, path)
    onnx.checker.check_model(str(path), full_check=True)


def keep_held_out(path: Path, distances: NDArray[np.float32]) -> None:
    """Keep in a file the distances that it measures of the held-out images, ascending [N]."""
    import onnx

    model = onnx.load(str(path))
    model.metadata_props.add(key=_HELD_OUT, value=json.dumps(distances.tolist()))
    path.write_bytes(model.SerializeToString())


def held_out(path: Path) -> NDArray[np.float32] | None:
    """Return the distances of `keep_held_out`; None without."""
    text = _properties(path).get(_HELD_OUT)
    return None if text is None else np.array(json.loads(text), np.float32)


def _reader(pixels: NDArray[np.uint8]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Batches for the quantiser, which calls only `get_next`."""

        def __init__(self) -> None:
            self.batches: Iterator[NDArray[np.uint8]] = iter(pieces(pixels))

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    return Reader()


def pieces(pixels: NDArray[np.uint8]) -> Iterable[NDArray[np.uint8]]:
    """Yield batches of pixels, uint8 [N, S, S]."""
    return (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))


def read_metadata(path: Path) -> str:
    return _properties(path)[METADATA]


def _properties(path: Path) -> dict[str, str]:
    import onnx

    return {each.key: each.value for each in onnx.load(str(path), load_external_data=False).metadata_props}


def external_data(path: Path) -> list[str]:
    """Return the files that hold tensors of a file of ONNX; ours hold their own. Nothing of those files is read."""
    import onnx

    return [*_places(onnx.load(str(path), load_external_data=False))]


def _places(message: Any) -> Iterator[str]:
    """Yield the files that a message of ONNX names: tensors are also in branches, functions and sparse tensors."""
    for field, value in message.ListFields():
        if field.name == "external_data":
            yield next((entry.value for entry in value if entry.key == "location"), "") or "a file without a name"
        elif field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _places(part)


def _checked(path: Path) -> bytes:
    """Return the file's bytes. Raises UserError if its tensors are in other files, which a runtime would open."""
    if names := external_data(path):
        raise UserError(f"{path}: not loaded, it names other files: {some_of(names, 3)}. Export the model again.")
    return path.read_bytes()


def load(path: Path) -> Run:
    """Load into ONNX Runtime on the CPU, with as many threads per call as torch uses. Raises as `load_outputs`."""
    outputs = load_outputs(path, torch.get_num_threads())
    return lambda images: outputs(images)[0]


def load_outputs(path: Path, threads: int) -> Outputs:
    """Load into ONNX Runtime on the CPU, with so many threads per call.

    Raises UserError for a file whose tensors are in other files.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = threads
    with quiet():
        session = onnxruntime.InferenceSession(_checked(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: session.run(names, {INPUT: images})


def load_openvino(path: Path) -> Run:
    """Load into OpenVINO on the CPU, with as many threads per call as torch uses."""
    compiled = _compile_openvino(path, {"INFERENCE_NUM_THREADS": torch.get_num_threads()})
    return lambda images: compiled([images])[OUTPUT]


def openvino_requests(path: Path, workers: int) -> Callable[[], Outputs]:
    """Return a function that makes `Outputs` for a thread; `workers` threads compute side by side, on a core each."""
    # With pinning, the first threads of all processes would share the first core.
    hints = {"INFERENCE_NUM_THREADS": workers, "NUM_STREAMS": workers, "ENABLE_CPU_PINNING": False}
    compiled = _compile_openvino(path, hints)

    names = [name for name in (OUTPUT, FEATURES) if any(name in output.names for output in compiled.outputs)]

    def request() -> Outputs:
        infer_request = compiled.create_infer_request()

        def outputs(images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
            found = infer_request.infer([images], share_inputs=True)
            return [found[name].copy() for name in names]

        return outputs

    return request


def _compile_openvino(path: Path, hints: dict[str, Any]) -> Any:
    """Compile for float32: OpenVINO's default precision depends on the machine."""
    with quiet():
        import openvino

        # Two threads that need the first of these at one moment wait for ever: one has Python's lock, one C++'s.
        openvino.Tensor(np.zeros(1, openvino.Type.f32.to_dtype()), shared_memory=True)
        core = openvino.Core()
        return core.compile_model(core.read_model(_checked(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32", **hints})
