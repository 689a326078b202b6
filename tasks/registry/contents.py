"""Contents of a version: refuse files that Grayline has not written, before anything reads, imports or installs them.

A registry is shared: other programs and people register versions, too. Their MLmodel may name another loader, other
code, another environment or a pickle. Digests and signatures tell who wrote a version; this room says what it may be.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from resnet_core.errors import UserError
from resnet_core.policy import parse_json
from resnet_core.storage.digest import GONE, DamagedVersionError
from tasks.validation import read_yaml

_LONGEST = 2**20  # bytes of MLmodel and of the files of its environment
_DESCRIPTION = "model.json"
_LARGEST_SIDE = 4096  # pixels
_LOADER = "mlflow.pyfunc.loaders.code_model"
_OWN_CODE = "served_model.py"
_FILES = re.compile(
    r"MLmodel|digests\.json|model\.sig|registered_model_meta|served_model\.py"
    r"|requirements\.txt|conda\.yaml|python_env\.yaml|(serving_)?input_example\.json"
    r"|code/resnet_core/(\w+/)*(\w+\.py|py\.typed)"
    r"|artifacts/(lineage\.json|learned\.parquet)|artifacts/model/\w+\.(json|safetensors|parquet)"
)
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[\w,-]+\])?([<>=!~]{1,2}[\w.*+!]+)?")
# Bytes of a value, by safetensors' names of types.
_WIDTHS = {"BOOL": 1, "I8": 1, "U8": 1, "I16": 2, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "I64": 8, "F64": 8}
_TOOLS = {"pip", "setuptools", "wheel", "python"}


def check_contents(folder: Path) -> None:
    """Raise DamagedVersionError for a version of other files, code, loader or environment than ours."""
    for path in _entries(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise DamagedVersionError(f"{name} is a link")
        if not path.is_dir() and not _FILES.fullmatch(name):
            raise DamagedVersionError(f"{name} is not a file of a version of Grayline's")
    try:
        _check_loader(read_yaml(_text(folder / "MLmodel")))
        for line in _text(folder / "requirements.txt").splitlines() if (folder / "requirements.txt").exists() else ():
            _check_pins("requirements.txt", [line])
        for name in ("conda.yaml", "python_env.yaml"):
            if (folder / name).exists():
                _check_environment(name, read_yaml(_text(folder / name)))
    except UserError as error:
        raise DamagedVersionError(f"its MLmodel or environment: {error}") from None
    except (*GONE, ValueError) as error:
        raise DamagedVersionError(f"it has no MLmodel of ours ({error})") from None
    for weights in sorted((folder / "artifacts" / "model").glob("*.safetensors")):
        try:
            _check_header(weights)
        except (*GONE, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DamagedVersionError(f"{weights.name} has no header of safetensors ({error})") from None


def _entries(folder: Path) -> Iterator[Path]:
    """Yield all that lies below. Raises OSError for a folder that may not be listed, which `rglob` would leave out."""

    def fail(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=fail):
        yield from (Path(place, name) for name in (*folders, *files))


def _check_header(weights: Path) -> None:
    """Raise ValueError and its like unless each tensor of the header has its bytes in the file, and no others."""
    size = weights.stat().st_size
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, 16 * _LONGEST):
            raise ValueError(f"{length:,} bytes in a file of {size:,}")
        header = parse_json(file.read(length))
    at = 0
    for tensor in sorted(
        (part for name, part in header.items() if name != "__metadata__"), key=lambda part: part["data_offsets"]
    ):
        begin, end = tensor["data_offsets"]
        if begin != at or end - begin != math.prod(tensor["shape"]) * _WIDTHS[tensor["dtype"]]:
            raise ValueError(f"a tensor at byte {begin:,} that is not there")
        at = end
    if at != size - 8 - length:
        raise ValueError(f"tensors of {at:,} bytes in a file of {size:,}")


def check_network(folder: Path) -> None:
    """Raise ValueError for a description of a network that is larger than its weights; nothing of it is allocated."""
    import torch  # not needed to move an alias

    from resnet_core.model.classifier import WEIGHTS, model_config
    from resnet_core.model.resnet import build

    about = parse_json((folder / _DESCRIPTION).read_bytes())
    config = replace(model_config(about["model"]), drop_path=0.0)
    if max(config.score_scales or (0,)) > _LARGEST_SIDE:
        raise ValueError("score_scales are too large")
    with torch.device("meta"):
        network = build(config, size=int(about["preprocessing"]["size"]), classes=len(about["classes"]))
    described = sum(value.nbytes for value in network.state_dict().values())
    there = (folder / WEIGHTS).stat().st_size
    if described > 2 * there + _LONGEST:  # older releases may have kept half the precision
        raise ValueError(f"{_DESCRIPTION} describes {described:,} bytes of weights; the file has {there:,}")


def _text(path: Path) -> str:
    if path.stat().st_size > _LONGEST:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes")
    return path.read_text(encoding="utf-8")


def _check_loader(content: Any) -> None:
    flavors = content.get("flavors") if isinstance(content, dict) else None
    if not isinstance(flavors, dict) or [*flavors] != ["python_function"]:
        raise DamagedVersionError("its MLmodel names other flavors than python_function")
    flavor = flavors["python_function"]
    for key, ours in {"loader_module": _LOADER, "code": "code", "data": None, "python_model": None}.items():
        if flavor.get(key) != ours:
            raise DamagedVersionError(f"its MLmodel has another {key} than ours")
    if Path(str(flavor.get("model_code_path"))).name != _OWN_CODE:
        raise DamagedVersionError("its MLmodel names other code (model_code_path)")
    if flavor.get("env") not in ({"conda": "conda.yaml", "virtualenv": "python_env.yaml"}, None):
        raise DamagedVersionError("its MLmodel names another environment (env)")
    for name, artifact in dict(flavor.get("artifacts") or {}).items():
        if not re.fullmatch(r"artifacts/(model|lineage\.json|learned\.parquet)", str(dict(artifact).get("path"))):
            raise DamagedVersionError(f"its MLmodel has the artifact {name!r} elsewhere")


def _check_environment(name: str, content: Any) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{name} is not a mapping")
    if not {*content.get("channels", [])} <= {"conda-forge", "defaults"}:
        raise DamagedVersionError(f"{name} names another channel")
    for part in [*content.get("build_dependencies", []), *content.get("dependencies", [])]:
        pins = part.get("pip", [part]) if isinstance(part, dict) else [part]
        _check_pins(name, [pin for pin in pins if pin != "-r requirements.txt"])


def _check_pins(name: str, lines: Iterable[Any]) -> None:
    """Allow names that Grayline needs itself, with a version: no option, address or other package."""
    for line in lines:
        pin = _PIN.fullmatch(str(line).strip())
        if str(line).strip() and (pin is None or _normal(pin[1]) not in _known()):
            raise DamagedVersionError(f"{name} would install {str(line)[:80]!r}")


@cache
def _known() -> set[str]:
    try:
        needed = requires("grayline") or []
    except PackageNotFoundError:
        needed = []
    names = (re.match(r"[A-Za-z0-9._-]+", line) for line in needed)
    return {_normal(name[0]) for name in names if name} | _TOOLS


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
