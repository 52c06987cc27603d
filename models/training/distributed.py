"""Ranks: one target trained by several processes, each with a GPU of its own and its share of every batch.

In: a config whose `ranks` is above 1. Out: the training of one process, up to rounding: gradients are added over the
ranks, batch normalisation sees the whole batch, and rank 0, the process that was asked for the training, alone writes.
The others run the same `train_target` on a copy of its checkpoint, in models.process.rank_worker. Called by
models.process.job and models.training.optimisation.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, distributed, nn

from models.config import TrainConfig
from models.files.layout import AttemptPaths, DatasetPaths, TargetPaths
from pathologies.errors import InputError

MEETING_MINUTES = 10  # for all ranks to start, and for the slowest at a step


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that train the target together."""

    index: int = 0
    count: int = 1

    def mine(self, batch: Tensor) -> Tensor:
        """This rank's films of a batch, or their targets. All ranks draw the whole batch, so its draws are the same."""
        return batch if self.count == 1 else batch.chunk(self.count)[self.index]

    def share(self, loss: Tensor) -> Tensor:
        """What this rank's mean loss adds to that of the batch."""
        return loss if self.count == 1 else loss / self.count

    def whole(self, loss: Tensor, logit: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and logits of the batch, from every rank's share of it."""
        if self.count == 1:
            return loss, logit
        distributed.all_reduce(loss)
        parts = [torch.empty_like(logit) for _ in range(self.count)]
        distributed.all_gather(parts, logit.contiguous())
        return loss, torch.cat(parts)

    def add_gradients(self, network: nn.Module) -> None:
        """Every rank's gradients become their sum, in one message."""
        if self.count == 1:
            return
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        for gradient, value in zip(gradients, flat.split([one.numel() for one in gradients]), strict=True):
            gradient.copy_(value.view_as(gradient))

    def agree(self, value: float) -> float:
        """Rank 0's: what decides on the next epoch must not differ by rounding."""
        if self.count == 1:
            return value
        answer = [value]
        distributed.broadcast_object_list(answer)
        return answer[0]


def here() -> Ranks:
    """This process's place in the group that `together` has made; alone without one."""
    if not distributed.is_available() or not distributed.is_initialized():
        return Ranks()
    return Ranks(index=distributed.get_rank(), count=distributed.get_world_size())


class Sum(torch.autograd.Function):
    """Over the ranks, forwards and backwards: every rank's loss depends on every rank's films."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


class SharedBatchNorm(nn.BatchNorm2d):
    """Statistics of the batch over all ranks. torch's own SyncBatchNorm does this on GPUs only."""

    def forward(self, pixels: Tensor) -> Tensor:
        if not self.training:
            return super().forward(pixels)
        values, count = pixels.float(), distributed.get_world_size()
        mean = _mean(values, count)
        variance = _mean((values - mean[:, None, None]).square(), count)
        films = values.numel() // values.shape[1] * count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * films / max(films - 1, 1), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(pixels.dtype)


class SharedBatchNormAct(BatchNormAct2d):
    """timm's, which has the activation in it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(SharedBatchNorm.forward(self, x))) if self.training else super().forward(x)


def _mean(values: Tensor, count: int) -> Tensor:
    """Of each channel over films, pixels and ranks, which have as many films each; gradients flow to all of them."""
    return Sum.apply(values.mean(dim=(0, 2, 3))) / count


SHARED: dict[type, type] = {nn.BatchNorm2d: SharedBatchNorm, BatchNormAct2d: SharedBatchNormAct}


def share_statistics(network: nn.Module) -> None:
    """In place; names of weights stay. Errors: InputError for a kind of batch normalisation that is not known."""
    for name, module in network.named_modules():
        if type(module) in SHARED:
            module.__class__ = SHARED[type(module)]
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise InputError(
                f"{name} is a {type(module).__name__}, which several ranks cannot share. Known: "
                f"{', '.join(one.__name__ for one in SHARED)}. Train this backbone with one GPU a target."
            )


@contextlib.contextmanager
def together(dataset: DatasetPaths, target: TargetPaths, attempt: AttemptPaths, config: TrainConfig) -> Iterator[None]:
    """Start the other ranks and meet them; with the block they are gone. Nothing for a training of one rank."""
    if config.ranks == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="hilum-ranks-") as folder:
        words = [
            sys.executable,
            "-m",
            "models.process.rank_worker",
            str(dataset.root),
            str(target.root),
            str(attempt.root),
            folder,
        ]
        # a session of their own: what ends this process by a signal leaves it a last checkpoint, and they are needed
        others = [subprocess.Popen([*words, str(rank)], start_new_session=True) for rank in range(1, config.ranks)]
        try:
            with process_group(Path(folder), config, 0):
                try:
                    yield
                finally:
                    _end(others)  # before the group: else each would tell at length that this one has left it
        finally:
            _end(others)


def _end(others: list[subprocess.Popen]) -> None:
    for other in others:
        other.kill()
        other.wait()


@contextlib.contextmanager
def process_group(folder: Path, config: TrainConfig, rank: int) -> Iterator[None]:
    """Errors: RuntimeError when a rank is missing, or dies before the end."""
    cuda = config.device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(rank)
    elif sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this machine
    distributed.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=config.ranks,
        timeout=timedelta(minutes=MEETING_MINUTES),
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()
