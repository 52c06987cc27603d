"""Snapshots: further weights of one training, so that an ensemble has more members for the price of one.

In: a training after each epoch. Out: `snapshot-<epoch>.safetensors` in the attempt's folder, which models.process.job
publishes beside the best weights. Called by models.training.loop.

Which epochs: with schedule=cyclic the last one of each cycle (snapshot ensembles, Huang et al. 2017), where the rate
has come down and the network lies in a minimum of its own. With any other schedule the epochs of the next best select
scores (checkpoint ensembles, Chen et al. 2017): without cycles, equal parts would end at a high rate, in networks that
are worse than their neighbours. The best epoch is `weights.safetensors`, and no snapshot of its own.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.config import TrainConfig
from models.files.layout import AttemptPaths, write_bytes
from models.training.checkpoint import Progress


def cycle_ends(config: TrainConfig) -> list[int]:
    """The epochs (from 1) that are the last ones of the cycles."""
    return [round(number * config.epochs / config.snapshots) for number in range(1, config.snapshots + 1)]


def keep_snapshot(
    paths: AttemptPaths,
    config: TrainConfig,
    progress: Progress,
    score: float,
    weights: Callable[[], bytes],
    write: Callable[[Path, bytes], None] = write_bytes,
) -> None:
    """Write the weights of the epoch just trained if they are among those to keep, and say so in `progress`."""
    if not config.snapshots:
        return
    epoch = progress.epoch + 1
    if config.schedule == "cyclic":
        if epoch not in cycle_ends(config):
            return
        progress.snapshots = [*progress.snapshots, [epoch, score]]
    else:  # one more than asked for: the best of them is the best epoch
        ranked = sorted([*progress.snapshots, [epoch, score]], key=_rank)[: config.snapshots + 1]
        if all(kept != epoch for kept, _ in ranked):
            return
        progress.snapshots = ranked
    write(paths.snapshot(epoch), weights())


def drop_snapshots(paths: AttemptPaths, progress: Progress, before: list[list[float]]) -> None:
    """Remove those that better ones have replaced, once neither the checkpoint nor the one before it names them.

    `before`: what `progress.snapshots` was at the previous checkpoint.
    """
    kept = {paths.snapshot(int(epoch)) for epoch, _ in (*progress.snapshots, *before)}
    for path in paths.snapshots():
        if path not in kept:
            path.unlink(missing_ok=True)


def snapshot_facts(config: TrainConfig, progress: Progress) -> dict[str, Any]:
    """For the outcome: epoch and select score of each snapshot to publish, in order; nothing where none was wanted."""
    if not config.snapshots:
        return {}
    others = [one for one in progress.snapshots if one[0] != progress.best_epoch]
    if config.schedule != "cyclic":
        others = others[: config.snapshots]
    return {"snapshots": [{"epoch": int(epoch), "select_score": score} for epoch, score in sorted(others)]}


def _rank(one: list[float]) -> tuple[float, float]:
    epoch, score = one
    return (-score if math.isfinite(score) else math.inf), epoch
