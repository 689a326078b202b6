"""Weights to begin with: ImageNet's, a file's, or another network's.

`imagenet` are torchvision's IMAGENET1K_V1 weights as safetensors, from the Hugging Face hub. huggingface_hub's cache,
HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN apply. A file is ours or torchvision's. Pickles are refused.

The first convolution is summed over the three colours: a gray image gets the logits of its RGB copy. ImageNet's
networks expect colours normalised by means of 0.485, 0.456, 0.406 and deviations of 0.229, 0.224, 0.225. Ours expect
gray levels at mean 0 and deviation 1. The difference, the tints of the means, is at most 0.2 deviations. The training
makes up for it: a bias of the first convolution would be wrong at the padding.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from resnet_core.errors import UserError, nearest
from resnet_core.model.resnet import SMALL_IMAGE, ModelConfig, ResNet, Stem
from resnet_core.storage.files import as_local, to_path

# Repository and commit: the cache is used without asking the hub again.
IMAGENET = {
    "resnet18": ("timm/resnet18.tv_in1k", "bbd144b3e5565108aad885f145491d11bc6ce807"),
    "resnet34": ("timm/resnet34.tv_in1k", "1b7b21cca82ff974d341713f777bf740c2db38c4"),
    "resnet50": ("timm/resnet50.tv_in1k", "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa"),
}
_IMAGENET_WIDTH = 64
_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")

_COUNTER = "num_batches_tracked"  # batch norm's, which old files lack
_FRESH = ("fc.", "head.")  # may differ from the file


def check(config: ModelConfig, stem: Stem) -> None:
    """Raise UserError if a network with this stem (`find_stem`) cannot have the weights, without looking for them."""
    source = config.pretrained
    if source == "imagenet":
        if config.arch not in IMAGENET:
            raise UserError(
                f"model.pretrained: there are no ImageNet weights of {config.arch}. Write model.arch: "
                f"{', '.join(IMAGENET)}, or the path of a .safetensors file."
            )
        if config.width != _IMAGENET_WIDTH:
            raise UserError(f"model.width: ImageNet weights are of width {_IMAGENET_WIDTH}, not {config.width}.")
        if stem != "imagenet":
            raise UserError(
                f"model.stem: ImageNet weights need `imagenet`; up to {SMALL_IMAGE} px it is `small` unless set."
            )
    elif source.lower().endswith(_PICKLES):
        new = str(Path(source).with_suffix(".safetensors"))
        raise UserError(
            f"model.pretrained: {source} is a pickle, which can run code when it is read. Write {new}, made by: python "
            '-c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{source}', weights_only=True), '{new}')\""
        )
    elif source != "none" and not source.endswith(".safetensors"):
        raise UserError(
            f"model.pretrained: {source!r} is neither none, imagenet nor the path of a .safetensors file."
            + nearest(source, ["none", "imagenet"])
        )


def identity(config: ModelConfig) -> str | None:
    """Return the commit or the content digest of the weights; None for `none`."""
    if config.pretrained == "none":
        return None
    if config.pretrained == "imagenet":
        return IMAGENET[config.arch][1]
    with _located(config) as file, file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def load_pretrained(model: ResNet, config: ModelConfig) -> list[str]:
    """Load the weights that `config.pretrained` names, and return the names of the tensors left fresh.

    Those are all with `none`, `fc` for other classes or another head, and another head itself.
    Raises UserError if the weights do not exist, cannot be read, or are of another network.
    """
    check(config, "imagenet" if model.conv1.kernel_size == (7, 7) else "small")
    if config.pretrained == "none":
        return load_matching(model, {})
    with _located(config) as file:
        try:
            state = load_file(file)
        except (OSError, SafetensorError) as error:
            raise UserError(f"model.pretrained: {config.pretrained} cannot be read ({_first_line(error)}).") from None
    state = _one_channel(state)
    _same_trunk(model, state, config)
    if state.get("fc.weight", Tensor()).shape != model.fc.weight.shape:
        state.pop("fc.bias", None)  # of another classifier, even where its classes are as many
    return load_matching(model, state)


def load_matching(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Load the tensors with a name and a shape of the model's. Return the names of those left as they were."""
    own = model.state_dict()
    matching = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    model.load_state_dict(matching, strict=False)
    return [name for name in own if name not in matching and not name.endswith(_COUNTER)]


def _one_channel(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sum the first convolution over its three channels."""
    first = state.get("conv1.weight")
    if first is None or first.shape[1] != 3:
        return dict(state)
    return {**state, "conv1.weight": first.sum(dim=1, keepdim=True)}


def _same_trunk(model: ResNet, state: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Raise UserError unless stem and stages have the same tensors: half the weights are worse than none."""
    ours, theirs = _trunk(model.state_dict()), _trunk(state)
    differing = [name for name in [*ours, *theirs] if ours.get(name) != theirs.get(name)]
    if not differing:
        return
    name = differing[0]
    raise UserError(
        f"model.pretrained: {config.pretrained} is of another network: {name} is {_shape(theirs.get(name))} there, "
        f"{_shape(ours.get(name))} in a {config.arch} of width {config.width}. Write its model.arch, width and stem."
    )


def _trunk(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of stem and stages."""
    return {
        name: tuple(value.shape)
        for name, value in state.items()
        if not name.startswith(_FRESH) and not name.endswith(_COUNTER)
    }


def _shape(sides: tuple[int, ...] | None) -> str:
    return "missing" if sides is None else "x".join(map(str, sides))


@contextmanager
def _located(config: ModelConfig) -> Iterator[Path]:
    """Yield the file of the weights, downloaded if needed."""
    if config.pretrained == "imagenet":
        yield _download(*IMAGENET[config.arch])
        return
    path = to_path(config.pretrained)
    if not path.is_file():
        raise UserError(f"model.pretrained: {config.pretrained} does not exist. Write the path of a .safetensors file.")
    with as_local(path) as file:
        yield file


def _download(repository: str, commit: str) -> Path:
    """Return the hub's `model.safetensors`, from huggingface_hub's cache or the network."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise UserError(
            "model.pretrained: imagenet needs huggingface_hub. Run: pip install 'grayline[pretrained]'"
        ) from None
    try:
        return Path(hf_hub_download(repository, "model.safetensors", revision=commit))
    except Exception as error:  # noqa: BLE001 the network's errors are OSError, httpx's, httpx2's or hf_xet's, by version
        raise UserError(
            f"model.pretrained: {repository} cannot be downloaded ({_first_line(error)}). Check the network and "
            f"HF_HUB_OFFLINE, or write the path of its model.safetensors, fetched elsewhere."
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
