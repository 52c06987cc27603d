"""The training loop of one network, a single target's or a shared one: train_step < train_epoch < train_target.

In: a target's folder with `config.json` and `targets.npz`, and the data set's cache. Out: the folder's newest attempt
with `history.jsonl`, `last.ckpt` and `best.safetensors`; models.process.job publishes from there. Called by
models.process.job only.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.config import TrainConfig
from models.data.loading import Pixels, epoch_order, film_size, send
from models.data.targets import Targets
from models.files.checksummed import weights_bytes
from models.files.layout import AttemptPaths, append_json_line, read_json_lines, write_text
from models.network.normalisation import with_film_area
from models.training.augment import augment, mixup
from models.training.branch import begin, branch_facts, keep_branch, require_columns
from models.training.checkpoint import Progress, checkpoint_bytes, load_checkpoint, write_checkpoint
from models.training.device import autocast
from models.training.optimisation import Machine, assemble, freeze, place_in_schedule, set_learning_rate, update_average
from models.training.selection import NeverPositive, selection_rule, shared_summary, summary
from models.training.snapshots import drop_snapshots, keep_snapshot, snapshot_facts
from models.training.stop_request import Interrupted
from models.training.task import Task

log = logging.getLogger(__name__)
STREAM = 2  # keeps these draws apart from those of film order and augmentation
OnEpoch = Callable[[dict[str, Any]], None]
Place = tuple[int, int, int]  # seed, epoch, step
Batch = tuple[np.ndarray, Place]  # positions of its films


class NotANumber(RuntimeError):
    """A loss or a logit became NaN or infinite, or the gradients stay so."""


def train_target(task: Task, on_epoch: OnEpoch | None = None) -> dict[str, Any]:
    """Train to the last epoch (or the patience's end) from wherever the attempt's checkpoint stands.

    Returns best_epoch, select_score, selection_rule, and in words what it started from. Errors: NotANumber; InputError
    where `train` lacks a class, or what it should begin with is not there.
    """
    config, targets = task.config, task.targets
    require_columns(config, targets)
    positions = targets.usable("train")
    _require_both_classes(targets.judged, positions)
    machine = assemble(config, targets.truth(positions), task.pixels.size, targets.own)
    rule = selection_rule(targets.judged.truth(targets.usable("select")), config.epoch_choice)
    progress = _load(task, machine) or begin(task, machine)
    _cut_history(task.paths, progress.history_rows)
    while progress.epoch < config.epochs and not _out_of_patience(config, progress):
        train_epoch(task, machine, progress, positions)
        row = _judge(task, machine, progress, rule)
        task.retry.write(partial(append_json_line, task.paths.history, row), task.paths.history)
        weights = partial(weights_bytes, machine.judged)
        before = progress.snapshots
        keep_snapshot(task.paths, config, progress, row["select_score"], weights, task.write)
        progress = _next_epoch(progress)
        keep_branch(task, machine, progress)
        _save(task, machine, progress)
        drop_snapshots(task.paths, progress, before)
        if on_epoch:
            on_epoch(row)
    return {
        "best_epoch": progress.best_epoch,
        "select_score": progress.best_score,
        "selection_rule": rule.name,
        "selection_reason": rule.reason,
        "epochs_trained": progress.epoch - progress.branched_from.get("epoch", 0),
        "start": machine.network.initial_weights,
        **snapshot_facts(config, progress),
        **branch_facts(progress),
    }


def train_epoch(task: Task, machine: Machine, progress: Progress, positions: np.ndarray) -> None:
    """The remaining steps of the current epoch; leaves a checkpoint whenever the last one is old."""
    config = task.config
    order = epoch_order(task.targets, positions, config, progress.epoch)
    steps = len(order) // config.batch_size
    machine.network.train()
    freeze(machine.network, config, progress.epoch)
    saved = started = time.monotonic()
    losses, logits = [], []
    while progress.step < steps:
        update, updates = place_in_schedule(config, progress.epoch, progress.step, steps)
        set_learning_rate(machine.optimiser, config, update, updates)
        group = _group_of(config, order, progress.epoch, progress.step)
        chosen, place = group[progress.step % config.accumulate]
        loss, logit = train_step(task, machine, chosen, place, group)
        losses.append(loss)
        logits.append(task.targets.judged_columns(logit))
        progress.truths += task.targets.judged_columns(task.targets.truth(chosen)).ravel().tolist()
        progress.step += 1
        whole = progress.step % config.accumulate == 0 or progress.step == steps
        if whole and not apply_gradients(machine, config, update - progress.skipped):
            progress.skipped += 1
            _require_scale(machine, progress)
        task.still_wanted()
        due = time.monotonic() - saved > 60 * config.checkpoint_minutes and progress.step < steps
        if whole and (due or task.stop):
            _collect(progress, losses, logits, started)
            _save(task, machine, progress)
            task.stop.check()
            saved = started = time.monotonic()
    _collect(progress, losses, logits, started)


def _group_of(config: TrainConfig, order: np.ndarray, epoch: int, step: int) -> list[Batch]:
    """The batches whose gradients make one update together with the one of `step`; an epoch's last group is shorter."""
    first, size = step - step % config.accumulate, config.batch_size
    last = min(first + config.accumulate, len(order) // size)
    return [(order[one * size :][:size], (config.seed, epoch, one)) for one in range(first, last)]


def train_step(
    task: Task, machine: Machine, chosen: np.ndarray, place: Place, group: Sequence[Batch] = ()
) -> tuple[Tensor, Tensor]:
    """Gradients of the films at `chosen`; (loss, N or N x T logits), both on the device so that no step waits.

    `group`: all batches of the update, this one among them; empty for an update of its own.
    """
    targets, config = task.targets, task.config
    torch.manual_seed(step_seed(place))  # dropout's draws depend on the place alone, too
    size = film_size(config, task.pixels.size, place[1])
    films = with_film_area(task.pixels.batch(targets.row[chosen], size), config.standardise)
    batch = augment(films, config, place)
    truth = send(targets.truth(chosen), config.device)
    batch, truth = mixup(batch, truth, config, place)
    with autocast(config):
        logit = machine.forward(machine.ranks.mine(batch))
    loss = _of_batch(machine, logit.float(), truth)
    machine.scaler.scale(_in_group(task, machine, loss, logit, truth, group)).backward()
    return machine.ranks.whole(loss.detach(), logit.detach().float())


def _of_batch(machine: Machine, logit: Tensor, truth: Tensor) -> Tensor:
    """What this rank's films add to the mean loss of the batch."""
    ranks = machine.ranks
    if ranks.count == 1 or truth.ndim == 1:
        return ranks.share(machine.loss(logit, ranks.mine(truth)))
    return machine.loss(logit, ranks.mine(truth), truth)  # the ranks may know unlike numbers of answers


def _in_group(
    task: Task, machine: Machine, loss: Tensor, logit: Tensor, truth: Tensor, group: Sequence[Batch]
) -> Tensor:
    """What a batch adds to the mean loss of its group: each film, or each known answer, counts alike in all of it."""
    config = task.config
    if config.recipe_version == 1:  # a last group with fewer batches counted less, and moved the weights less
        return loss / config.accumulate
    if len(group) < 2:
        return loss
    if truth.ndim == 1:
        return loss * (len(truth) / sum(len(chosen) for chosen, _ in group))
    answers = [send(task.targets.truth(chosen), config.device) for chosen, _ in group]
    blended = [mixup(one, one, config, place)[1] for one, (_, place) in zip(answers, group, strict=True)]
    return machine.loss(logit.float(), machine.ranks.mine(truth), torch.cat(blended))


def apply_gradients(machine: Machine, config: TrainConfig, update: int) -> bool:
    """One optimiser step with the gradients that have gathered; False where they were no numbers and it was left out.

    That happens with precision=fp16 alone, whose scaler then tries a smaller scale: neither the weights nor their
    average move. `update`: how many steps there were before.
    """
    machine.ranks.add_gradients(machine.network)
    machine.scaler.unscale_(machine.optimiser)
    if config.clip:
        nn.utils.clip_grad_norm_(machine.network.parameters(), config.clip)
    scale = machine.scaler.get_scale()  # 1 without a scaler; with one it waits for the device
    machine.scaler.step(machine.optimiser)
    machine.scaler.update()
    machine.optimiser.zero_grad(set_to_none=True)
    stepped = machine.scaler.get_scale() >= scale
    if stepped:
        update_average(machine, config, update)
    return stepped


def step_seed(place: tuple[int, int, int]) -> int:
    return int(np.random.SeedSequence([STREAM, *place]).generate_state(1, np.uint64)[0] >> 1)


def predict_logits(network: nn.Module, pixels: Pixels, rows: np.ndarray, config: TrainConfig) -> np.ndarray:
    """Logits (float32) of cache rows, N or N x T, at twice the training batch, without gradients."""
    network.eval()
    size = 2 * config.batch_size
    parts = []
    with torch.inference_mode(), autocast(config):
        for start in range(0, len(rows), size):
            parts.append(network(pixels.batch(rows[start : start + size])).float())
    return torch.cat(parts).cpu().numpy() if parts else np.zeros(0, np.float32)


def _save(task: Task, machine: Machine, progress: Progress) -> None:
    """The last checkpoint stays as the one before."""
    progress.batch_size, progress.scaler = task.config.batch_size, machine.scaler.state_dict()
    data = checkpoint_bytes(machine.network, machine.optimiser, progress, machine.averaged)
    paths = task.paths
    task.retry.write(lambda: write_checkpoint(paths.checkpoint, data, paths.previous), paths.checkpoint, len(data))


def _load(task: Task, machine: Machine) -> Progress | None:
    progress = load_checkpoint(task.paths.checkpoint, machine.network, machine.optimiser, machine.averaged)
    if progress and progress.batch_size:  # batches may have become smaller since, for want of memory
        progress.step = progress.step * progress.batch_size // task.config.batch_size
    if progress and progress.scaler:
        machine.scaler.load_state_dict(progress.scaler)
    return progress


def _judge(task: Task, machine: Machine, progress: Progress, rule: Any) -> dict[str, Any]:
    """The epoch's row; asked to end meanwhile, the steps of the epoch are kept and its score is left for later."""
    try:
        return _epoch_row(task.endable(), machine, progress, rule)
    except Interrupted:
        _save(task, machine, progress)
        raise


def _epoch_row(task: Task, machine: Machine, progress: Progress, rule: Any) -> dict[str, Any]:
    """The history row of the epoch just trained; keeps the weights when they are the best so far."""
    targets = task.targets
    chosen = targets.usable("select")
    logits = predict_logits(machine.judged, task.pixels, targets.row[chosen], task.config)
    if targets.outputs is not None:  # without films there are no columns either
        logits = targets.judged_columns(logits.reshape(-1, targets.outputs))
    if np.isnan(logits).any():
        raise NotANumber(_no_number("A logit of part `select` is", progress))
    truth = targets.judged.truth(chosen)
    films = len(progress.scores) // (targets.judged.outputs or 1)
    row = {"epoch": progress.epoch + 1} | _figures(targets.judged, progress, logits, truth)
    score = machine.ranks.agree(rule.score(logits, truth, progress.epoch))
    row |= {"train_loss": progress.loss_sum / max(films, 1), "select_score": score}
    row["learning_rate"] = machine.optimiser.param_groups[0]["lr"]
    row["images_per_second"] = round(films / max(progress.seconds, 1e-9), 1)
    row["seconds"] = round(progress.seconds, 3)
    if machine.scaler.is_enabled():
        row |= {"skipped_updates": progress.skipped, "loss_scale": machine.scaler.get_scale()}
    if progress.best_score is None or math.isnan(progress.best_score) or row["select_score"] > progress.best_score:
        progress.best_score, progress.best_epoch = row["select_score"], progress.epoch + 1
        task.write(task.paths.best, weights_bytes(machine.judged))
    return row


def _figures(targets: Targets, progress: Progress, logits: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """The figures of both parts; of a shared network those of each target too."""
    scores, truths = np.asarray(progress.scores), np.asarray(progress.truths)
    if targets.outputs is None:
        return summary("train", scores, truths) | summary("select", logits, truth)
    slugs, shape = targets.slugs.astype(str).tolist(), (-1, targets.outputs)
    train = shared_summary("train", scores.reshape(shape), truths.reshape(shape), slugs)
    select = shared_summary("select", logits, truth, slugs)
    each = {slug: train["targets"][slug] | select["targets"][slug] for slug in slugs}
    return train | select | {"targets": each}


def _collect(progress: Progress, losses: list[Tensor], logits: list[Tensor], started: float) -> None:
    """Move what the device holds of the running epoch into `progress`: the one place that waits for the device."""
    if not losses:
        return
    loss, logit = torch.stack(losses).cpu(), torch.stack(logits).cpu()
    if not torch.isfinite(loss).all() or not torch.isfinite(logit).all():
        raise NotANumber(_no_number("The loss is", progress))
    progress.loss_sum += float(loss.double().sum()) * logit.shape[1]
    progress.scores += logit.flatten().tolist()
    progress.seconds += time.monotonic() - started
    losses.clear()
    logits.clear()


def _require_scale(machine: Machine, progress: Progress) -> None:
    """Gradients that overflow at a scale below 1 overflow by themselves: no smaller scale will help."""
    if machine.scaler.get_scale() < 1:
        raise NotANumber(_no_number("The gradient, whatever the scale of the loss, is", progress))


def _no_number(what: str, progress: Progress) -> str:
    return (
        f"{what} no longer a number in epoch {progress.epoch + 1}. Lower the learning rate "
        "(--set learning_rate=3e-4), keep the gradient clipping (clip=1) or use precision=fp32."
    )


def _next_epoch(progress: Progress) -> Progress:
    return Progress(
        epoch=progress.epoch + 1,
        best_epoch=progress.best_epoch,
        best_score=progress.best_score,
        history_rows=progress.history_rows + 1,
        snapshots=progress.snapshots,
        skipped=progress.skipped,
        branch=progress.branch,
        branched_from=progress.branched_from,
    )


def _out_of_patience(config: TrainConfig, progress: Progress) -> bool:
    if progress.epoch < config.branch_epoch:  # others wait for that epoch's state
        return False
    return bool(config.patience) and progress.epoch - progress.best_epoch >= config.patience > 0 <= progress.best_epoch


def _require_both_classes(targets: Targets, positions: np.ndarray) -> None:
    truth = targets.truth(positions)
    names = ["this target"] if targets.outputs is None else targets.slugs.astype(str)
    for name, value in zip(names, truth.reshape(len(truth), -1).T, strict=True):
        positives, negatives = int((value >= 0.5).sum()), int((value < 0.5).sum())
        if not positives or not negatives:
            raise NeverPositive(
                f"The part `train` has {positives} positives and {negatives} negatives of {name}, so there is nothing "
                "to tell apart. Prepare more patients, or leave it out with --targets."
            )


def _cut_history(paths: AttemptPaths, rows: int) -> None:
    """Cut `history.jsonl` back to what the checkpoint knows: a kill may fall between the two writes."""
    if paths.history.exists():
        kept = read_json_lines(paths.history)[:rows]
        write_text(paths.history, "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in kept))
