"""The recipe of a training: optimiser, schedule, averaged weights, frozen layers, growing images.

In: TrainConfig and the training part's values. Out: a Machine, what a step works with, and what an epoch or a step
number means for it. Called by models.training.loop. All of it follows from the config and the place in the run, so
none of it needs to be stored but the averaged weights.
"""

import copy
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.config import TrainConfig
from models.network.builder import SingleLogit, initial_network, last_layers
from models.network.losses import make_loss
from models.training.device import set_repeatable
from models.training.distributed import Ranks, here, share_statistics
from models.training.snapshots import cycle_ends


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a step works with. `averaged` is the moving average of the network's weights, where the config wants one."""

    network: SingleLogit
    forward: Callable[[Tensor], Tensor]  # the network, compiled or as it is
    optimiser: Optimizer
    loss: Callable[[Tensor, Tensor], Tensor]
    averaged: SingleLogit | None
    scaler: torch.amp.GradScaler  # of the loss, with precision=fp16; else it passes everything on as it is
    ranks: Ranks = Ranks()

    @property
    def judged(self) -> SingleLogit:
        """The network that is scored and kept."""
        return self.network if self.averaged is None else self.averaged


def assemble(config: TrainConfig, value: np.ndarray, size: int | None = None, own: int = -1) -> Machine:
    """Everything at its start. `value`: targets of the training part, for the prevalence and the balanced weight.
    `size`: full side of the films.

    Films x targets, NaN where unknown, make a network that is shared by the targets; `own`: the one that it is for. One
    that branches out of another training is built without the weights of `init` or `pretrained`: it gets all of that's.
    """
    torch.manual_seed(config.seed)
    set_repeatable(config.deterministic)
    begun = replace(config, init="", pretrained="false") if own >= 0 and config.branch_epoch else config
    network = initial_network(begun, _prevalence(value), size).to(config.device, memory_format=torch.channels_last)
    averaged = copy.deepcopy(network).requires_grad_(False) if config.averaging else None
    ranks = here()
    if ranks.count > 1:
        share_statistics(network)
    return Machine(
        network=network,
        forward=torch.compile(network) if config.compile else network,
        optimiser=torch.optim.AdamW(_groups(network, config), lr=config.learning_rate, fused=True),
        loss=make_loss(config, value, own),
        averaged=averaged,
        scaler=torch.amp.GradScaler(torch.device(config.device).type, enabled=config.precision == "fp16"),
        ranks=ranks,
    )


def _prevalence(value: np.ndarray) -> float | np.ndarray:
    """Of each target. One that is learned beside another may be known of none of that one's films."""
    if value.ndim == 1:
        return float(value.mean())
    return np.nanmean(np.where(np.isnan(value).all(axis=0), np.float32(0.5), value), axis=0)


def _groups(network: SingleLogit, config: TrainConfig) -> list[dict]:
    """Weights with decay and without (norms and biases), those of the backbone at their own share of the rate."""
    head = {id(weight) for layer in last_layers(network.backbone) for weight in layer.parameters()}
    groups = []
    for in_head in (False, True):
        share = 1.0 if in_head else config.backbone_rate
        for decays in (True, False):
            weights = [w for w in network.parameters() if (id(w) in head) == in_head and (w.ndim > 1) == decays]
            decay = config.weight_decay if decays else 0.0
            groups.append({"params": weights, "weight_decay": decay, "share": share})
    return groups


def place_in_schedule(config: TrainConfig, epoch: int, step: int, steps: int) -> tuple[int, int]:
    """(which update the batch `step` of `steps` in its epoch belongs to, from 0; how many there are in all)."""
    if config.recipe_version > 1:
        updates = math.ceil(steps / config.accumulate)
        return epoch * updates + step // config.accumulate, config.epochs * updates
    return epoch * steps + step, config.epochs * steps  # batches, also where several make one update


def set_learning_rate(optimiser: Optimizer, config: TrainConfig, step: int, total: int) -> None:
    """The rate of step `step` (from 0) of `total`."""
    for group in optimiser.param_groups:
        group["lr"] = config.learning_rate * group["share"] * rate_factor(config, step, total)


def rate_factor(config: TrainConfig, step: int, total: int) -> float:
    """Share of the peak learning rate.

    one_cycle (Smith & Topin 2018): cosine up from a 25th over the warm-up, cosine down to a 10,000th. cosine: a
    straight line up over the warm-up, cosine down to 0. constant: a straight line up, then level. cyclic: the cosine
    one begun anew for every snapshot (Loshchilov & Hutter 2017), with the warm-up in the first cycle only.
    """
    warmup = config.warmup
    if config.schedule == "cyclic":
        begin, end = _cycle_of(config, step, total)
        step, total, warmup = step - begin, end - begin, 0.0 if begin else warmup
    warm = max(warmup * total, 1.0)
    rest = (step - warm) / max(total - warm, 1.0)
    if config.schedule == "one_cycle":
        low, high, share = (1 / 25, 1.0, step / warm) if step < warm else (1.0, 1e-4, rest)
        return high + (low - high) * (1 + math.cos(math.pi * share)) / 2
    if step < warm:
        return (step + 1) / (warm + 1)
    return 1.0 if config.schedule == "constant" else (1 + math.cos(math.pi * rest)) / 2


def _cycle_of(config: TrainConfig, step: int, total: int) -> tuple[float, float]:
    """First step of the cycle that `step` lies in, and of the next one; cycles begin and end with epochs."""
    begin = 0.0
    for epochs in cycle_ends(config):
        end = epochs * total / config.epochs
        if step < end:
            break
        begin = end
    return begin, end


def freeze(network: SingleLogit, config: TrainConfig, epoch: int) -> None:
    """In the first `frozen_epochs` only the last layers learn: their chance start would spoil trained features.

    What does not learn computes as in use: its batch normalisation keeps its statistics, and nothing in it is dropped.
    For a network in training mode.
    """
    frozen = epoch < config.frozen_epochs
    network.requires_grad_(not frozen)
    last = last_layers(network.backbone)
    for layer in last:
        layer.requires_grad_(True)
    if frozen and config.recipe_version > 1:
        _evaluate_all_but(network, last)


def _evaluate_all_but(module: nn.Module, last: Collection[nn.Module]) -> None:
    """Evaluation mode for what has weights or statistics beside `last`; the dropout before them stays as it is."""
    for child in module.children():
        if any(one in last for one in child.modules()):
            if child not in last:
                _evaluate_all_but(child, last)
        elif child.state_dict():
            child.eval()


def update_average(machine: Machine, config: TrainConfig, updates: int) -> None:
    """Move the average towards the weights; the first updates weigh more, so that the start is soon forgotten."""
    if machine.averaged is None:
        return
    keep = min(config.averaging, (1 + updates) / (10 + updates))
    with torch.no_grad():
        for mean, value in zip(_tensors(machine.averaged), _tensors(machine.network), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
