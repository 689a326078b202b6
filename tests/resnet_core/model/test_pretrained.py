"""Weights to begin with: those of torchvision give its logits, what cannot be loaded is said, no pickle is."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms.v2.functional import pil_to_tensor

from resnet_core.errors import UserError
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.model.classifier import Classifier
from resnet_core.model.inputs import Normalisation
from resnet_core.model.pretrained import IMAGENET, load_matching, load_pretrained
from resnet_core.model.resnet import Arch, ModelConfig, ResNet, build
from tests.resnet_core.model.test_resnet import TINY, randomised, tiny

IMAGENET_SIZED = ModelConfig(stem="imagenet")


def saved(model: torch.nn.Module, folder: Path) -> str:
    save_file(model.state_dict(), folder / "weights.safetensors")
    return str(folder / "weights.safetensors")


def started(config: ModelConfig, classes: int = 7, size: int = 96) -> tuple[ResNet, list[str]]:
    model = build(config, size=size, classes=classes, seed=1)
    return model.eval(), load_pretrained(model, config)


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50"])
def test_a_gray_image_gets_the_logits_that_torchvision_gives_its_rgb_copy(
    arch: Arch, tmp_path: Path, photograph: Image.Image
) -> None:
    theirs = randomised(getattr(torchvision.models, arch)(num_classes=7))
    ours, fresh = started(ModelConfig(arch, stem="imagenet", pretrained=saved(theirs, tmp_path)))
    assert fresh == []
    gray = pil_to_tensor(photograph.convert("L").resize((96, 96))).float()[None] / 255
    gray = torch.cat([gray, gray.flip(-1)])
    with torch.inference_mode():
        expected = theirs(gray.expand(-1, 3, -1, -1))
        torch.testing.assert_close(ours(gray), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_other_classes_or_another_head_leave_these_fresh_and_named(tmp_path: Path) -> None:
    theirs = randomised(torchvision.models.resnet18(num_classes=7))
    config = replace(IMAGENET_SIZED, pretrained=saved(theirs, tmp_path))
    ours, fresh = started(config, classes=3)
    assert fresh == ["fc.weight", "fc.bias"]
    assert torch.equal(ours.fc.weight, build(config, size=96, classes=3, seed=1).fc.weight)
    assert torch.equal(ours.layer4[1].conv2.weight, theirs.state_dict()["layer4.1.conv2.weight"])

    ours, fresh = started(replace(config, head="multiscale"))
    assert {name.partition(".")[0] for name in fresh} == {"head", "fc"}
    assert "fc.bias" in fresh  # of a classifier of something else, as many classes as it has
    assert torch.equal(ours.bn1.running_var, theirs.state_dict()["bn1.running_var"])


def test_a_classifier_of_ours_is_a_file_to_begin_with(tmp_path: Path) -> None:
    config = replace(TINY, head="multiscale", drop_path=0.1)
    first = tiny(config)
    classes = tuple("abcde")
    Classifier(first, config, classes, Preprocessing(8), Normalisation(0.5, 0.2)).save(tmp_path)
    again, fresh = started(replace(config, pretrained=str(tmp_path / "model.safetensors")), classes=5, size=8)
    assert fresh == []
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


def test_files_without_batch_norms_counters_are_whole(tmp_path: Path) -> None:
    """As torchvision's were before there were counters."""
    state = {name: value for name, value in tiny().state_dict().items() if "num_batches" not in name}
    save_file(state, tmp_path / "old.safetensors")
    assert started(replace(TINY, pretrained=str(tmp_path / "old.safetensors")), classes=5, size=8)[1] == []


def test_without_pretrained_all_is_fresh() -> None:
    model, fresh = started(TINY, size=8)
    assert set(fresh) == {name for name in model.state_dict() if "num_batches" not in name}
    assert torch.equal(model.conv1.weight, build(TINY, size=8, classes=7, seed=1).conv1.weight)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ModelConfig("resnet10", pretrained="imagenet"), ["model.pretrained", "resnet10", "resnet18"]),
        (ModelConfig("resnet14", pretrained="imagenet"), ["model.pretrained", "resnet14", "resnet18"]),
        (ModelConfig(width=32, pretrained="imagenet"), ["model.width", "64", "32"]),
        (ModelConfig(stem="small", pretrained="imagenet"), ["model.stem", "`imagenet`"]),
        (ModelConfig(pretrained="imagnet"), ["model.pretrained", "'imagnet'", "Did you mean 'imagenet'?"]),
        (ModelConfig(pretrained="a/b.pth"), ["a/b.pth", "pickle", "weights_only=True", "Write a/b.safetensors"]),
        (ModelConfig(pretrained="model.PT"), ["model.PT", "pickle", "weights_only=True"]),
        (ModelConfig(pretrained="nowhere.safetensors"), ["nowhere.safetensors", "does not exist"]),
    ],
)
def test_what_cannot_be_is_one_line_with_the_remedy(config: ModelConfig, words: Sequence[str]) -> None:
    with pytest.raises(UserError) as raised:
        started(config)
    text = str(raised.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_the_remedy_for_a_pickle_makes_the_file_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tiny()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        started(replace(TINY, pretrained="weights.pth"))
    exec(str(raised.value).partition("made by: python -c ")[2].strip('"'), {})
    assert started(replace(TINY, pretrained="weights.safetensors"), classes=5, size=8)[1] == []


def test_a_damaged_file_and_another_networks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"not at all")
    with pytest.raises(UserError, match=r"x\.safetensors cannot be read"):
        started(replace(TINY, pretrained=str(tmp_path / "x.safetensors")))
    file = saved(build(ModelConfig("resnet14", width=16), size=8, classes=5), tmp_path)
    with pytest.raises(UserError, match=r"another network: layer1\.1\.\w+\.\w+ is \S+ there, missing in a resnet10"):
        started(replace(TINY, pretrained=file), size=8)
    with pytest.raises(UserError, match=r"conv1\.weight is 16x1x3x3 there, 16x1x7x7 in a resnet14"):
        started(ModelConfig("resnet14", width=16, pretrained=file), size=96)


def test_load_matching_takes_what_fits_and_names_the_rest() -> None:
    wide, narrow = tiny(classes=3), tiny(classes=2)
    state = {**wide.state_dict(), "unknown": torch.zeros(1)}
    model = build(TINY, size=8, classes=2, seed=9)
    before = model.fc.weight.clone()
    assert load_matching(model, state) == ["fc.weight", "fc.bias"]
    assert torch.equal(model.fc.weight, before)
    assert torch.equal(model.layer3[0].conv1.weight, wide.layer3[0].conv1.weight)
    assert load_matching(model, narrow.state_dict()) == []


def test_without_the_library_that_downloads_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'grayline\[pretrained\]'"):
        started(replace(IMAGENET_SIZED, pretrained="imagenet"))


def test_imagenet_weights_come_from_the_hubs_cache_and_their_lack_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = pytest.importorskip("huggingface_hub.constants")  # it has read the environment once and for all
    monkeypatch.setattr(settings, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(settings, "HF_HUB_OFFLINE", True)
    repository, commit = IMAGENET["resnet18"]
    snapshot = tmp_path / f"models--{repository.replace('/', '--')}" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    theirs = torchvision.models.resnet18()
    save_file(theirs.state_dict(), snapshot / "model.safetensors")
    ours, fresh = started(replace(IMAGENET_SIZED, pretrained="imagenet"))
    assert fresh == ["fc.weight", "fc.bias"]
    assert torch.equal(ours.layer1[0].conv1.weight, theirs.layer1[0].conv1.weight)
    with pytest.raises(UserError, match=r"timm/resnet34\.tv_in1k cannot be downloaded .* HF_HUB_OFFLINE"):
        started(ModelConfig("resnet34", pretrained="imagenet"))
