"""The network: torchvision's weights by name, every size, both heads, stochastic depth, features."""

from dataclasses import replace

import pytest
import torch
import torchvision

from resnet_core.model.features import features
from resnet_core.model.resnet import Arch, Head, ModelConfig, ResNet, Stem, build

TINY = ModelConfig("resnet10", width=16)


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Weights and statistics such that every layer matters (fresh ones end blocks with zeros)."""
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            spread = torch.rand_like(value) if "var" in name else torch.randn_like(value) * 0.05
            value.copy_(value * 0.5 + spread + (0.5 if value.ndim == 1 else 0))
    return model.eval()


def tiny(config: ModelConfig = TINY, size: int = 8, classes: int = 5) -> ResNet:
    model = build(config, size=size, classes=classes)
    randomised(model)
    return model


@pytest.mark.parametrize("head", ["plain", "multiscale"])
def test_our_weights_load_into_torchvision_by_name(head: Head) -> None:
    theirs = torchvision.models.resnet18(num_classes=3)
    theirs.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    ours = build(ModelConfig(stem="imagenet", head=head), size=96, classes=3)
    randomised(ours)
    trunk = {k: v for k, v in ours.state_dict().items() if head == "plain" or not k.startswith(("fc.", "head."))}
    missing, unknown = theirs.load_state_dict(trunk, strict=False)
    assert (missing, unknown) == ([] if head == "plain" else ["fc.weight", "fc.bias"], [])
    theirs.eval().fc = torch.nn.Identity()
    x = torch.rand(2, 1, 80, 112)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(x), features(ours, x)["stage4"].mean((2, 3)))


@pytest.mark.parametrize(("arch", "blocks"), [("resnet10", [1, 1, 1, 1]), ("resnet14", [2, 2, 1, 1])])
def test_the_small_ones_have_pytorchcvs_blocks_and_weights(arch: Arch, blocks: list[int]) -> None:
    model = build(ModelConfig(arch), size=96, classes=1000)
    assert [len(getattr(model, f"layer{k}")) for k in range(1, 5)] == blocks
    two_colours = 2 * model.conv1.weight.numel()  # that the first convolution lacks
    published = {"resnet10": 5_418_792, "resnet14": 5_788_200}[arch]
    assert sum(weight.numel() for weight in model.parameters()) + two_colours == published


@pytest.mark.parametrize(("size", "kernel"), [(8, 3), (32, 3), (40, 3), (41, 7), (224, 7)])
def test_the_stem_follows_the_image_size_unless_set(size: int, kernel: int) -> None:
    assert build(TINY, size=size, classes=2).conv1.kernel_size == (kernel, kernel)
    assert build(replace(TINY, stem="small"), size=size, classes=2).conv1.kernel_size == (3, 3)


@pytest.mark.parametrize("head", ["plain", "multiscale"])
@pytest.mark.parametrize("size", [8, 13, 32, 96, 200, 512])
def test_any_size_from_8_to_512_pixels_is_learned_from_and_classified(size: int, head: Head) -> None:
    model = build(replace(TINY, head=head), size=size, classes=5)
    x = torch.rand(2, 1, size, size)
    logits = model(x)
    logits.logsumexp(1).sum().backward()
    assert logits.shape == (2, 5)
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("head", ["plain", "multiscale"])
def test_one_network_takes_images_of_every_size(head: Head) -> None:
    model = tiny(replace(TINY, head=head), size=96)
    with torch.inference_mode():
        assert all(model(torch.rand(1, 1, side, side + 3)).shape == (1, 5) for side in (8, 31, 96, 130))


@pytest.mark.parametrize("head", ["plain", "multiscale"])
@pytest.mark.parametrize(("arch", "e"), [("resnet10", 1), ("resnet50", 4)])
@pytest.mark.parametrize(("stem", "sides"), [("small", (50, 50, 25, 13, 7)), ("imagenet", (13, 13, 7, 4, 2))])
def test_features_have_the_documented_shapes_and_the_logits_of_forward(
    arch: Arch, e: int, stem: Stem, sides: tuple[int, ...], head: Head
) -> None:
    model = tiny(ModelConfig(arch, stem=stem, width=16, head=head), size=50)
    x = torch.rand(2, 1, 50, 50)
    with torch.inference_mode():
        found = features(model, x)
        assert torch.equal(found["logits"], model(x))
    channels = (16, 16 * e, 32 * e, 64 * e, 128 * e)
    shapes = [(2, count, side, side) for count, side in zip(channels, sides, strict=True)]
    shapes += [(2, 128 * e if head == "plain" else 32), (2, 5)]
    names = ["stem", "stage1", "stage2", "stage3", "stage4", "pool", "logits"]
    assert {name: tuple(value.shape) for name, value in found.items()} == dict(zip(names, shapes, strict=True))


def test_the_multiscale_head_sees_what_an_early_stage_sees() -> None:
    """What the last stage does not pass on at all still reaches the logits."""
    blind = tiny(replace(TINY, head="multiscale", stem="imagenet"), size=64)
    torch.nn.init.zeros_(blind.layer4[0].bn2.weight)
    assert blind.layer4[0].downsample is not None
    torch.nn.init.zeros_(blind.layer4[0].downsample[1].weight)
    image = torch.zeros(1, 1, 64, 64)
    spot = image.clone()
    spot[..., 30:34, 30:34] = 1
    with torch.inference_mode():
        found, other = features(blind, image), features(blind, spot)
    assert torch.equal(found["stage4"], other["stage4"])
    assert not torch.equal(found["logits"], other["logits"])


def test_stochastic_depth_is_random_in_training_and_absent_afterwards() -> None:
    plain, model = tiny(), tiny(replace(TINY, drop_path=0.9))
    x = torch.rand(16, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(model(x), plain(x))
    assert model.state_dict().keys() == plain.state_dict().keys()
    model.train()

    def trained(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(x)

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_stochastic_depth_grows_linearly_up_to_the_last_block(arch: Arch) -> None:
    model = build(ModelConfig(arch, width=16, drop_path=0.4), size=8, classes=2)
    rates = [block.drop_path.p for k in range(1, 5) for block in getattr(model, f"layer{k}")]
    torch.testing.assert_close(rates, [0.4 * (k + 1) / len(rates) for k in range(len(rates))])


def test_without_stochastic_depth_there_is_nothing_of_it() -> None:
    model = build(TINY, size=8, classes=2)
    assert not [name for name, _ in model.named_modules() if "drop" in name]


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (build(TINY, size=8, classes=2, seed=s).conv1.weight for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())
