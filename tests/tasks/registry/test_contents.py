"""Versions made by others: each tries to run something, and is refused before anything of it is read or run."""

import json
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from safetensors.numpy import load_file, save_file
from upath import UPath

from flows.machine.doctor import _check_signing
from resnet_core.errors import UserError
from resnet_core.storage.digest import DamagedVersionError
from tasks.registry import runs as tracking
from tasks.registry.champion import make_champion
from tasks.registry.contents import check_contents, check_network
from tasks.registry.integrity import FILES, MAKE_A_KEY, seal
from tasks.registry.versions import load_classifier
from tasks.values import ModelVersion
from tests.fault_points import Layer, forked

OLD = Path(__file__).parents[2] / "old_version" / "store.tar.xz"


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a real version, of an earlier release."""
    to = tmp_path_factory.mktemp("old")
    with tarfile.open(OLD) as tar:
        # Python before 3.11.4, as in Debian 12, knows no filter and unpacks without one.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(to, [member for member in tar if "/mlartifacts/digits/models/" in f"/{member.name}"])
    return min(to.rglob("MLmodel")).parent


@pytest.fixture
def version(registered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(registered, tmp_path / "version"))


def change(path: Path, *keys: str, to: object) -> None:
    """Change a value of a YAML or JSON file."""
    content = yaml.safe_load(path.read_text())
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))


def add(name: str, content: bytes = b"import os; os.system('touch ran')\n") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return write


def mlmodel(*keys: str, to: object) -> Callable[[Path], None]:
    return lambda folder: change(folder / "MLmodel", *keys, to=to)


def append(name: str, line: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(f"\n{line}\n")

    return write


def link(folder: Path) -> None:
    (folder / "artifacts" / "lineage.json").unlink()
    (folder / "artifacts" / "lineage.json").symlink_to("/etc/passwd")


def header(length: int, text: bytes = b"") -> Callable[[Path], None]:
    return add("artifacts/model/model.safetensors", struct.pack("<Q", length) + text)


REFUSED = r"e version \d+ is refused: .* `grayline history e`"
PYFUNC = ("flavors", "python_function")
ABSENT = {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}
HUGE = json.dumps(ABSENT).encode()
TRIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "another loader": (mlmodel(*PYFUNC, "loader_module", to="evil"), "another loader_module"),
    "MLflow's loader of pickles": (mlmodel(*PYFUNC, "loader_module", to="mlflow.pyfunc.model"), "loader_module"),
    "a pickled model": (mlmodel(*PYFUNC, "python_model", to="python_model.pkl"), "another python_model"),
    "other code paths": (mlmodel(*PYFUNC, "code", to="../code"), "another code"),
    "other model code": (mlmodel(*PYFUNC, "model_code_path", to="/tmp/evil.py"), "model_code_path"),
    "another environment": (mlmodel(*PYFUNC, "env", to={"conda": "evil.yaml"}), "another environment"),
    "another flavor": (mlmodel("flavors", "sklearn", to={"pickled_model": "model.pkl"}), "other flavors"),
    "an artifact elsewhere": (mlmodel(*PYFUNC, "artifacts", "x", to={"path": "../../x"}), "artifact 'x' elsewhere"),
    "an object in YAML": (append("MLmodel", "x: !!python/object/apply:os.system ['touch ran']"), "MLmodel or environ"),
    "a pickle": (add("artifacts/model/weights.pkl"), "weights.pkl is not a file"),
    "a pickle by another name": (add("python_model.pkl"), "python_model.pkl is not a file"),
    "code beside ours": (add("code/evil/__init__.py"), "code/evil/__init__.py is not a file"),
    "code that starts by itself": (add("code/sitecustomize.py"), "sitecustomize.py is not a file"),
    "compiled code": (add("code/resnet_core/errors.so"), "errors.so is not a file"),
    "a package by its address": (append("requirements.txt", "evil @ https://evil.example/x.whl"), "would install"),
    "another index": (append("requirements.txt", "--index-url https://evil.example"), "would install '--index-url"),
    "another package": (append("requirements.txt", "numpyy==1.0"), "would install 'numpyy==1.0'"),
    "a package of conda": (
        lambda folder: change(folder / "conda.yaml", "dependencies", to=["python=3.11", {"pip": ["evil"]}]),
        "would install 'evil'",
    ),
    "a channel of conda": (lambda f: change(f / "conda.yaml", "channels", to=["https://evil"]), "another channel"),
    "what builds it": (lambda f: change(f / "python_env.yaml", "build_dependencies", to=["evil"]), "would install"),
    "a link out of it": (link, "lineage.json is a link"),
    "ONNX": (add("artifacts/model/model.onnx"), "model.onnx is not a file"),
    "a header of exabytes": (header(2**62), "no header of safetensors"),
    "a header without its text": (header(10**6), "no header of safetensors"),
    "a tensor that is not there": (header(len(HUGE), HUGE + b"1234"), "no header of safetensors"),
    "a header of brackets": (header(10**5, b"[" * 10**5), "nested too deeply"),
    "no MLmodel": (lambda folder: (folder / "MLmodel").unlink(), "no MLmodel"),
    "an MLmodel of gigabytes": (append("MLmodel", "# " + "x" * 2**20), "MLmodel has 1,0"),
}  # fmt: skip


def test_versions_of_this_and_of_the_earlier_release_are_taken(version: Path) -> None:
    check_contents(version)
    check_network(version / "artifacts" / "model")


@pytest.mark.parametrize("name", TRIES)
def test_what_others_may_have_put_in_is_refused(version: Path, name: str) -> None:
    attempt, words = TRIES[name]
    attempt(version)
    with pytest.raises(DamagedVersionError, match=words) as refusal:
        check_contents(version)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("keys", "value"),
    [(("model", "width"), 10**6), (("model", "width"), -1), (("model", "arch"), "evil"), (("model", "x"), 1),
     (("model", "score_scales"), [10**7]), (("preprocessing",), None), (("classes",), ["a"] * 10**6)],
)  # fmt: skip
def test_a_description_of_another_network_allocates_nothing(
    version: Path, keys: tuple[str, ...], value: object
) -> None:
    folder = version / "artifacts" / "model"
    change(folder / "model.json", *keys, to=value)
    with pytest.raises((ValueError, TypeError, KeyError, RuntimeError, AttributeError, UserError)):
        check_network(folder)


def register(folder: Path, tracking_uri: str) -> ModelVersion:
    """Register files as anybody can who writes to MLflow: with digests of their own."""
    mlflow = tracking.client(tracking_uri)
    tags, _ = seal(folder, None)
    run_id = mlflow.create_run(tracking.experiment_id(mlflow, UPath(folder), "e")).info.run_id
    if "e" not in [model.name for model in mlflow.search_registered_models()]:
        mlflow.create_registered_model("e")
    made = mlflow.create_model_version("e", folder.as_uri(), run_id, tags={FILES: tags[FILES]})
    return ModelVersion("e", str(made.version), run_id)


def test_nobody_promotes_or_scores_by_such_a_version(version: Path, tmp_path: Path) -> None:
    """With digests that fit: who writes to MLflow can make them."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    good = register(version, uri)
    assert make_champion(uri, "e", good.version, "whole").version == good.version
    assert load_classifier(uri, good, "cpu").classes
    marker = tmp_path / "ran"
    for attempt in ("another loader", "other code paths", "a pickle", "code beside ours", "a header of exabytes"):
        bad = Path(shutil.copytree(version, tmp_path / attempt.replace(" ", "-")))
        TRIES[attempt][0](bad)
        (bad / "code" / "resnet_core" / "errors.py").write_text(f"open({str(marker)!r}, 'w')\n")
        made = register(bad, uri)
        with pytest.raises(DamagedVersionError, match=REFUSED):
            make_champion(uri, "e", made.version, "x")
        with pytest.raises(DamagedVersionError, match=REFUSED):
            load_classifier(uri, made, "cpu")
    assert not marker.exists()
    assert str(tracking.client(uri).get_model_version_by_alias("e", "champion").version) == good.version


def test_an_error_of_the_disk_is_no_verdict_on_a_version(version: Path, tmp_path: Path) -> None:
    """Whatever gives EIO, nothing is called damaged or gone, and the text names what cannot be read."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    made = register(version, uri)

    def load() -> None:
        load_classifier(uri, made, "cpu")

    status, counts, said = forked(load, Layer(f"{version}/"))
    assert (status, said) == (0, "")
    assert counts["EIO"] > 10
    for at in range(1, counts["EIO"] + 1):
        status, _, said = forked(load, Layer(f"{version}/", "EIO", at))
        assert (status, said.partition(":")[0]) == (1, "JobError"), (at, said)
        assert "/version" in said


@pytest.mark.onnx
@pytest.mark.parametrize("where", ["initializer", "constant", "branch", "function", "sparse"])
def test_onnx_with_data_in_other_files_is_named_and_never_loaded(where: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from resnet_core.export import onnx_file

    helper, secret = onnx.helper, tmp_path / "secret"
    secret.write_bytes(np.full((4, 4), 7, np.float32).tobytes())
    weight = onnx.numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    info = [helper.make_tensor_value_info(name, 1, [4, 4]) for name in "xy"]
    plain = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", info[:1], info[1:], [weight])
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(plain).SerializeToString())
    assert onnx_file.external_data(path) == []
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=str(secret))
    constant = helper.make_node("Constant", [], ["w"], value=weight)
    nodes, more, functions = [constant], {}, []
    if where == "initializer":
        nodes, more = [], {"initializer": [weight]}
    elif where == "sparse":
        at = onnx.numpy_helper.from_array(np.arange(4), "at")
        nodes, more = [], {"sparse_initializer": [helper.make_sparse_tensor(weight, at, [4, 4])]}
    elif where == "branch":
        branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("w", 1, [4, 4])])
        nodes = [helper.make_node("If", ["c"], ["w"], then_branch=branch, else_branch=branch)]
    elif where == "function":
        functions = [helper.make_function("own", "F", [], ["w"], [constant], [helper.make_opsetid("", 18)])]
        nodes = [helper.make_node("F", [], ["w"], domain="own")]
    graph = helper.make_graph([*nodes, helper.make_node("Add", ["x", "w"], ["y"])], "g", info[:1], info[1:], **more)
    path.write_bytes(helper.make_model(graph, functions=functions).SerializeToString())
    assert set(onnx_file.external_data(path)) == {str(secret)}
    for load in (onnx_file.load, onnx_file.load_openvino):
        with pytest.raises(UserError, match=r"m\.onnx: not loaded, it names other files: .*secret"):
            load(path)


def test_promote_does_not_import_pytorch_to_look_at_a_version() -> None:
    code = "import sys, tasks.registry.champion; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_doctor_offers_signing_and_names_a_key_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAKE_A_KEY in _check_signing()
    key = tmp_path / "public.pem"
    key.write_text("no key")
    monkeypatch.setenv("GRAYLINE_VERIFY_KEY", str(key))
    with pytest.raises(UserError, match=r"public\.pem cannot be used"):
        _check_signing()
    private = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert "does not verify are refused" in _check_signing()
    monkeypatch.setenv("GRAYLINE_SIGNING_KEY", str(key))  # the public one
    with pytest.raises(UserError, match=r"GRAYLINE_SIGNING_KEY: .*public\.pem cannot be used"):
        _check_signing()
    monkeypatch.setenv("GRAYLINE_SIGNING_KEY", "-----BEGIN EC PRIVATE KEY-----\nSECRET")
    with pytest.raises(UserError, match="holds a key itself") as error:
        _check_signing()
    assert "SECRET" not in str(error.value)
    own = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "private.pem").write_bytes(own)
    monkeypatch.setenv("GRAYLINE_SIGNING_KEY", str(tmp_path / "private.pem"))
    monkeypatch.delenv("GRAYLINE_VERIFY_KEY")
    assert "and not verified here" in _check_signing()


def test_the_weights_of_a_real_version_have_a_header_of_their_own(version: Path) -> None:
    """The check agrees with the library on a file that it writes itself."""
    path = version / "artifacts" / "model" / "model.safetensors"
    save_file({name: np.asarray(value) for name, value in load_file(path).items()}, path, {"made": "again"})
    check_contents(version)
