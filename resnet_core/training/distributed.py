"""Processes that train a network together, with a share of every batch each.

All processes draw the same whole batches, and the network's copies stay equal. Gradients are averaged (torch's
DistributedDataParallel), and batch norm sees the whole batch: N processes end with the weights of one, up to rounding.
"""

import copy
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# A process may wait long for another that validates or saves. The starting process sees one that dies.
PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class World:
    """The device of this process, its rank, and the number of processes, which torch's process group joins."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the module to call instead of `model` in training, which shares its parameters and buffers."""
        if self.size == 1:
            return model
        on_gpu = self.device.type == "cuda"
        tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
        twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors}).train()
        if on_gpu:
            twin = nn.SyncBatchNorm.convert_sync_batchnorm(twin)
        else:
            _synchronise(twin)
        devices = [self.device] if on_gpu else None
        with warnings.catch_warnings(category=FutureWarning, action="ignore"):  # newer versions have another name
            return DistributedDataParallel(twin, devices, broadcast_buffers=False, gradient_as_bucket_view=True)

    def share(self, batch: Tensor) -> Tensor:
        """Return this process's rows of a whole batch."""
        return batch if self.size == 1 else batch[self.rank :: self.size].clone()  # dense, for convolutions

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of the processes' values."""
        if self.size == 1:
            return values
        summed = values.detach().clone()
        dist.all_reduce(summed)
        return summed

    def agreed(self, value: float) -> float:
        """Return the first process's value, by which all processes decide."""
        if self.size == 1:
            return value
        own = torch.tensor(value if self.rank == 0 else 0.0, dtype=torch.float64, device=self.device)
        return float(self.total(own))


@contextmanager
def joined(world: World, meeting: Path) -> Iterator[None]:
    """Join processes of this machine, over its loopback interface alone.

    meeting: a file that does not exist yet. torch's TCPStore would listen on all interfaces (pytorch#173909).
    An exception does not leave the group, which would wait for the other processes.
    """
    loopback = next(name for name, own in psutil.net_if_addrs().items() if "127.0.0.1" in [a.address for a in own])
    for backend in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{backend}_SOCKET_IFNAME", loopback)
    on_gpu = world.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(world.device)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=meeting.absolute().as_uri(),
        rank=world.rank,
        world_size=world.size,
        timeout=PATIENCE,
    )
    yield
    dist.destroy_process_group()


def _synchronise(model: nn.Module) -> None:
    """Make batch norm see all processes' images; torch.nn.SyncBatchNorm works on GPUs alone."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.forward = partial(_batch_norm, module)  # type: ignore[method-assign]


def _batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Normalise float32 [B, C] or [B, C, H, W] by all processes' images, and update the running statistics.

    Ioffe & Szegedy 2015, arXiv:1502.03167. The processes may have different numbers of images.
    """
    assert norm.momentum is not None
    assert norm.num_batches_tracked is not None
    moments = _moments(x.detach().to(norm.weight.dtype))  # autocast may have another type
    with torch.no_grad():
        norm.running_mean.lerp_(moments.mean, norm.momentum)  # type: ignore[union-attr]
        unbiased = moments.var * (moments.number / (moments.number - 1))
        norm.running_var.lerp_(unbiased, norm.momentum)  # type: ignore[union-attr]
        norm.num_batches_tracked += 1
    return _Normalise.apply(x, norm.weight, norm.bias, moments, norm.eps)


class _Moments(NamedTuple):
    mean: Tensor  # [C]
    var: Tensor  # [C]
    number: float  # of a channel's values


def _moments(x: Tensor) -> _Moments:
    """Return the moments of all processes' values (Chan et al. 1983, "Computing the sample variance")."""
    mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
    own = torch.stack([mean, var, torch.full_like(mean, x.numel() // x.shape[1])]).double()
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    means, variances, counts = torch.stack(every, dim=1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    var = (counts * (variances + (means - mean) ** 2)).sum(0) / total
    return _Moments(mean.to(x.dtype), var.to(x.dtype), float(total[0]))


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias, where mean and var depend on every process's x.

    The gradients of weight and bias are this process's part: DistributedDataParallel averages them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, moments: _Moments, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, moments.mean, moments.var)
        ctx.count, ctx.eps = moments.number, eps
        return F.batch_norm(x, moments.mean, moments.var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        # First as if mean and var were constants, then their own part.
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([of_weight, of_bias])
        dist.all_reduce(sums)
        scale = torch.rsqrt(var + ctx.eps)
        by_x = -weight * scale**2 * sums[0] / ctx.count
        constant = -weight * scale * sums[1] / ctx.count - by_x * mean
        by_channel = (-1, *(1,) * (x.ndim - 2))
        of_x += x * by_x.view(by_channel) + constant.view(by_channel)
        return of_x, of_weight, of_bias, None, None
