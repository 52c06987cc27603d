"""Checkpoints: the whole state of a training at a step, in one safetensors file without pickle.

In: network, optimiser, progress. Out: `last.ckpt`, written under another name first, so that a kill leaves the previous
one. Everything random is drawn from (seed, epoch, step), so there is no generator state to keep.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.files.checksummed import Damaged, checksummed_bytes, read_checksummed
from models.files.layout import publishing, write_bytes

PROGRESS = "progress"  # the metadata key


@dataclass
class Progress:
    """Where a training stands. `epoch` and `step` name the next step to take (both from 0)."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = -1
    best_score: float | None = None
    history_rows: int = 0
    snapshots: list[list[float]] = field(default_factory=list)  # [epoch from 1, select score] of each one kept
    batch_size: int = 0  # that `step` counts in
    skipped: int = 0  # updates left out so far, with precision=fp16
    scaler: dict[str, float] = field(default_factory=dict)  # of the loss; empty with any other precision
    branch: int = 0  # after which epoch the state was kept that others begin with; 0: not yet, or never
    branched_from: dict[str, Any] = field(default_factory=dict)  # job, epoch and sha256 of what it began with itself
    # the running epoch, for its training figures
    scores: list[float] = field(default_factory=list)
    truths: list[float] = field(default_factory=list)
    loss_sum: float = 0.0
    seconds: float = 0.0


def save_checkpoint(
    path: Path, network: nn.Module, optimiser: Optimizer, progress: Progress, averaged: nn.Module | None = None
) -> None:
    """Write everything that the next step depends on. `averaged`: the moving average of the weights, if any."""
    write_checkpoint(path, checkpoint_bytes(network, optimiser, progress, averaged))


def checkpoint_bytes(
    network: nn.Module,
    optimiser: Optimizer,
    progress: Progress,
    averaged: nn.Module | None = None,
    more: Mapping[str, Any] | None = None,
) -> bytes:
    """`more`: further facts, which are no part of the progress."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    if averaged is not None:
        tensors |= {f"averaged.{name}": value for name, value in averaged.state_dict().items()}
    state = optimiser.state_dict()
    for index, slots in state["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(value) for name, value in slots.items()}
    tensors["progress.scores"] = torch.tensor(progress.scores, dtype=torch.float64)
    tensors["progress.truths"] = torch.tensor(progress.truths, dtype=torch.float64)
    facts = {name: value for name, value in vars(progress).items() if name not in ("scores", "truths")}
    return checksummed_bytes(tensors, PROGRESS, facts | dict(more or {}))


def write_checkpoint(path: Path, data: bytes, previous: Path | None = None) -> None:
    """Write `path` whole or not at all; what it held before becomes `previous`, for a disk that damages the new one."""
    if previous is not None and path.exists():
        with publishing(previous) as temporary:
            try:
                os.link(path, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, temporary)
    write_bytes(path, data)


def load_checkpoint(
    path: Path, network: nn.Module, optimiser: Optimizer, averaged: nn.Module | None = None
) -> Progress | None:
    """Restore networks and optimiser in place; None, with all untouched, where the file is absent or damaged."""
    try:
        tensors, facts = read_checksummed(path, PROGRESS)
    except (OSError, Damaged):
        return None
    restore(tensors, network, optimiser, averaged)
    return Progress(**facts, scores=tensors["progress.scores"].tolist(), truths=tensors["progress.truths"].tolist())


def restore(
    tensors: dict[str, Tensor], network: nn.Module, optimiser: Optimizer, averaged: nn.Module | None = None
) -> None:
    """Networks and optimiser in place; the learning rates and the like stay the optimiser's own.

    Where no average of the weights was kept, it begins with the weights.
    """
    network.load_state_dict(_under("network.", tensors))
    if averaged is not None:
        averaged.load_state_dict(_under("averaged.", tensors) or network.state_dict())
    optimiser.load_state_dict(_optimiser_state(optimiser, _under("optimiser.", tensors)))
    _match_layout(optimiser)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _optimiser_state(optimiser: Optimizer, slots: dict[str, Tensor]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in slots.items():
        index, _, slot = name.partition(".")
        state.setdefault(int(index), {})[slot] = value
    return {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}


def _match_layout(optimiser: Optimizer) -> None:
    """Lay out the moments in memory as their weights are: the fused update walks through both side by side."""
    for weight, slots in optimiser.state.items():
        for name, value in slots.items():
            if value.shape == weight.shape:
                slots[name] = torch.empty_like(weight).copy_(value)
