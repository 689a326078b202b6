"""The network: torchvision's weights by name, its logits, and the stems."""

import pytest
import torch
import torchvision

from resnet_core.resnet import Arch, ModelConfig, build, load_torchvision


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Weights and statistics such that every layer matters (fresh ones end blocks with zeros)."""
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            spread = torch.rand_like(value) if "var" in name else torch.randn_like(value) * 0.05
            value.copy_(value * 0.5 + spread + (0.5 if value.ndim == 1 else 0))
    return model.eval()


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50"])
def test_torchvision_weights_give_torchvisions_logits(arch: Arch) -> None:
    theirs = randomised(getattr(torchvision.models, arch)(num_classes=7))
    ours = build(ModelConfig(arch, stem="imagenet"), size=96, classes=7).eval()
    load_torchvision(ours, theirs.state_dict())
    gray = torch.rand(2, 1, 96, 96)
    with torch.inference_mode():
        expected = theirs(gray.expand(-1, 3, -1, -1))
        torch.testing.assert_close(ours(gray), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_our_weights_load_into_torchvision_by_name() -> None:
    theirs = torchvision.models.resnet18(num_classes=3)
    theirs.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    ours = randomised(build(ModelConfig(stem="imagenet"), size=96, classes=3))
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 1, 80, 112)
    with torch.inference_mode():
        torch.testing.assert_close(theirs.eval()(x), ours(x))


def test_resnet10_is_one_block_a_stage() -> None:
    model = build(ModelConfig("resnet10"), size=32, classes=10)
    assert [len(getattr(model, f"layer{k}")) for k in range(1, 5)] == [1, 1, 1, 1]


@pytest.mark.parametrize(("size", "kernel"), [(8, 3), (32, 3), (40, 3), (41, 7), (224, 7)])
def test_the_stem_follows_the_image_size_unless_set(size: int, kernel: int) -> None:
    assert build(ModelConfig(), size=size, classes=2).conv1.kernel_size == (kernel, kernel)
    assert build(ModelConfig(stem="small"), size=size, classes=2).conv1.kernel_size == (3, 3)


@pytest.mark.parametrize("size", [8, 13, 96])
def test_any_size_from_8_pixels_gives_logits(size: int) -> None:
    assert build(ModelConfig("resnet10", width=16), size=size, classes=5)(torch.rand(3, 1, size, size)).shape == (3, 5)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    config = ModelConfig("resnet10", width=16)
    before = torch.random.get_rng_state()
    first, again, other = (build(config, size=8, classes=2, seed=s).conv1.weight for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())
