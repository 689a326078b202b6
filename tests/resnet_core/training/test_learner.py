"""The loss: torch's cross-entropy, weighted by image and by class."""

import pytest
import torch
import torch.nn.functional as F

from resnet_core.training._learner import adjustment, as_targets, class_weights, cross_entropy, image_weights


def test_of_hard_labels_it_is_torchs_weighted_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    by_class = torch.tensor([1.0, 2.0, 0.5])
    targets = as_targets(labels, None, 3)
    weights = image_weights(targets, torch.ones(6), by_class)
    torch.testing.assert_close(
        cross_entropy(logits, targets, weights / weights.sum(), 0.0), F.cross_entropy(logits, labels, weight=by_class)
    )
    only_two = torch.tensor([0.5, 0.5, 0, 0, 0, 0])
    torch.testing.assert_close(
        cross_entropy(logits, targets, only_two, 0.1), F.cross_entropy(logits[:2], labels[:2], label_smoothing=0.1)
    )


def test_of_soft_labels_it_is_least_at_their_shares() -> None:
    shares = torch.tensor([[0.7, 0.2, 0.1]])
    logits = torch.zeros(1, 3, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=0.5)
    for _ in range(300):
        optimizer.zero_grad()
        cross_entropy(logits, as_targets(torch.tensor([0]), shares, 3), torch.ones(1), 0.0).backward()
        optimizer.step()
    torch.testing.assert_close(logits.detach().softmax(1), shares, atol=1e-3, rtol=0)


def test_balanced_class_weights_give_every_class_the_same_say() -> None:
    counts = torch.tensor([10, 30, 60])
    assert (counts * class_weights(counts, balanced=True)).tolist() == pytest.approx([100 / 3] * 3)
    assert class_weights(counts, balanced=False).tolist() == [1, 1, 1]


def test_what_is_learned_with_adjusted_logits_is_what_equal_classes_would_be() -> None:
    """A class of a tenth that cannot be told apart from the others: its share of what is learned."""
    counts = torch.tensor([90, 10])
    targets = torch.eye(2)[torch.repeat_interleave(torch.arange(2), counts)]
    for strength, share in {0.0: 0.1, 0.5: 0.25, 1.0: 0.5}.items():
        logits = torch.zeros(1, 2, requires_grad=True)
        optimizer = torch.optim.SGD([logits], lr=2)
        for _ in range(200):
            optimizer.zero_grad()
            seen = (logits + adjustment(counts, strength)).expand(100, 2)
            cross_entropy(seen, targets, torch.full((100,), 0.01), 0.0).backward()
            optimizer.step()
        assert float(logits.detach().softmax(1)[0, 1]) == pytest.approx(share, abs=1e-3)
    assert adjustment(torch.tensor([5, 0]), 1.0).isfinite().all()
