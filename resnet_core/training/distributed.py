"""Several processes that train one network together, each on its share of every batch.

Each process goes through the same whole batches, and the network's copies stay equal: gradients are
averaged (torch's DistributedDataParallel), batch norm looks at the whole batch, so that N processes
end with the weights of one, rounding aside.
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
from typing import Any

import psutil
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# Who started the processes sees one that dies. To wait for one that validates or saves is no failure.
PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class World:
    """Which of how many processes this is; torch's default process group joins them when there are several."""

    rank: int = 0
    size: int = 1

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """What to call in place of `model` to train it, always in training mode. It shares the model's
        parameters and buffers, which stay where they are; the model itself is left as it is."""
        if self.size == 1:
            return model
        tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
        twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors}).train()
        if device.type == "cuda":
            twin = nn.SyncBatchNorm.convert_sync_batchnorm(twin)
        else:
            _synchronise(twin)
        devices = [device] if device.type == "cuda" else None
        with warnings.catch_warnings(category=FutureWarning, action="ignore"):  # newer versions' name is another
            return DistributedDataParallel(twin, devices, broadcast_buffers=False, gradient_as_bucket_view=True)

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of a whole batch."""
        return batch if self.size == 1 else batch[self.rank :: self.size].clone()  # dense, for convolutions

    def total(self, values: Tensor) -> Tensor:
        """The sum of the processes' values."""
        if self.size == 1:
            return values
        summed = values.detach().clone()
        dist.all_reduce(summed)
        return summed

    def agreed(self, value: float, device: torch.device) -> float:
        """The first process's value: what all processes decide by."""
        if self.size == 1:
            return value
        return float(self.total(torch.tensor(value if self.rank == 0 else 0.0, dtype=torch.float64, device=device)))


ALONE = World()


@contextmanager
def joined(world: World, device: torch.device, meeting: Path) -> Iterator[None]:
    """Join processes of this machine, over its loopback interface alone. `meeting` is a file that is not
    there yet: torch's TCPStore would listen on every interface, whatever address it is given
    (pytorch/pytorch#173909).

    An exception ends the process: to leave the group in order would be to wait for the others.
    """
    loopback = next(name for name, found in psutil.net_if_addrs().items() if "127.0.0.1" in [a.address for a in found])
    for backend in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{backend}_SOCKET_IFNAME", loopback)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=meeting.absolute().as_uri(),
        rank=world.rank,
        world_size=world.size,
        timeout=PATIENCE,
    )
    yield
    dist.destroy_process_group()


def _synchronise(model: nn.Module) -> None:
    """Make batch norm look at all processes' images; torch.nn.SyncBatchNorm does so on GPUs alone."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.forward = partial(_batch_norm, module)  # type: ignore[method-assign]


def _batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch norm of the processes' images together (Ioffe & Szegedy 2015, arXiv:1502.03167), however many
    each of them has: float32 [B, C] or [B, C, H, W] -> the same shape. Keeps the running statistics."""
    assert norm.momentum is not None
    assert norm.num_batches_tracked is not None
    mean, var, count = _moments(x.detach().to(norm.weight.dtype))  # which autocast may have left
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)  # type: ignore[union-attr]
        norm.running_var.lerp_(var * (count / (count - 1)), norm.momentum)  # type: ignore[union-attr]
        norm.num_batches_tracked += 1
    return _Normalise.apply(x, norm.weight, norm.bias, mean, var, count, norm.eps)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean [C], variance [C] and number of all processes' values of each channel (Chan et al. 1983,
    "Algorithms for computing the sample variance")."""
    mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
    own = torch.stack([mean, var, torch.full_like(mean, x.numel() // x.shape[1])]).double()
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    means, variances, counts = torch.stack(every, dim=1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    var = (counts * (variances + (means - mean) ** 2)).sum(0) / total
    return mean.to(x.dtype), var.to(x.dtype), float(total[0])


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias, where mean and var depend on every process's x. The
    gradients of weight and bias are this process's part: DistributedDataParallel averages them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, count: float, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var)
        ctx.count, ctx.eps = count, eps
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        # As if mean and var were constants; then what they add.
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
        return of_x, of_weight, of_bias, None, None, None, None
