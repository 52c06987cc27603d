"""Branching: a finding's training goes on from the middle of a shared one, with its whole state.

In: a shared training at the end of its epoch `branch_epoch`. Out: `branch.ckpt` in the attempt's folder, which
models.process.job publishes: weights, their average, the optimiser's moments. A finding's training reads it, keeps all
outputs and goes on through the rest of the same schedule with its own films, seed and loss. Called by
models.training.loop. On 443 real films that was worth as much as the shared network, while a training begun anew after
the end of the schedule fell .014 of AUC behind: it only learns its films by heart.
"""

from typing import Any

from models.config import TrainConfig
from models.data.targets import Targets
from models.files.checksummed import Damaged, file_sha256, read_checksummed
from models.training.checkpoint import PROGRESS, Progress, checkpoint_bytes, restore
from models.training.optimisation import Machine
from models.training.task import Task
from pathologies.errors import InputError

SAME = ("backbone", "standardise")  # what both trainings must have alike


def require_columns(config: TrainConfig, targets: Targets) -> None:
    """Errors: InputError for settings that a training of one target alone cannot follow."""
    if targets.outputs is None and (config.others_weight or config.branch_epoch):
        raise InputError(
            f"others_weight={config.others_weight:g} and branch_epoch={config.branch_epoch} are for networks that "
            "learn the other findings as well, and these targets have one finding alone. Set both to 0."
        )


def keep_branch(task: Task, machine: Machine, progress: Progress) -> None:
    """After its epoch, and before the checkpoint that says so; of a shared network alone."""
    config, targets = task.config, task.targets
    if targets.outputs is None or targets.own >= 0 or not progress.epoch == config.branch_epoch > 0:
        return
    progress.branch = progress.epoch
    kept = Progress(epoch=progress.epoch, skipped=progress.skipped, scaler=machine.scaler.state_dict())
    facts = {"slugs": _slugs(targets)} | {name: getattr(config, name) for name in SAME}
    task.write(task.paths.branch, checkpoint_bytes(machine.network, machine.optimiser, kept, machine.averaged, facts))


def begin(task: Task, machine: Machine) -> Progress:
    """Where a training without a checkpoint of its own begins. Errors: InputError; OSError of the disk."""
    config, targets = task.config, task.targets
    if targets.own < 0 or not config.branch_epoch:
        return Progress()
    path = task.branch
    if path is None or not config.init:
        raise InputError(f"branch_epoch={config.branch_epoch} needs the shared network's folder: --set init=shared/0")
    try:
        tensors, facts = read_checksummed(path, PROGRESS)
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is missing: init={config.init} is no shared network that kept its state. Train it to its end with "
            f"branch_epoch={config.branch_epoch} first, or train this finding from scratch."
        ) from error
    except Damaged as error:
        raise InputError(f"{error} Train the shared network in {path.parent} again.") from error
    wanted = {"epoch": config.branch_epoch, "slugs": _slugs(targets)} | {name: getattr(config, name) for name in SAME}
    other = [
        f"{name} {facts.get(name)} there, {value} here" for name, value in wanted.items() if facts.get(name) != value
    ]
    if other:
        raise InputError(f"{path} is of another kind of training: {'; '.join(other)}. Train one of the two again.")
    try:
        restore(tensors, machine.network, machine.optimiser, machine.averaged)
    except (RuntimeError, ValueError) as error:  # of torch: tensors missing, or of another shape
        raise InputError(f"{path} does not fit this network: {' '.join(str(error).split())[:300]}") from error
    if facts["scaler"]:
        machine.scaler.load_state_dict(facts["scaler"])
    job = f"{path.parent.parent.name}/{path.parent.name}"
    return Progress(
        epoch=config.branch_epoch,
        skipped=facts["skipped"],
        branched_from={"job": job, "epoch": config.branch_epoch, "sha256": file_sha256(path)},
    )


def branch_facts(progress: Progress) -> dict[str, Any]:
    """For the outcome: what was kept for others, or what it began with, also in words."""
    facts: dict[str, Any] = {"kept_branch": {"epoch": progress.branch}} if progress.branch else {}
    if progress.branched_from:
        job, epoch = progress.branched_from["job"], progress.branched_from["epoch"]
        start = f"Branched out of {job} at the end of its epoch {epoch}, with its weights and the optimiser's moments."
        facts |= {"branched_from": progress.branched_from, "start": start}
    return facts


def _slugs(targets: Targets) -> list[str]:
    return targets.slugs.astype(str).tolist()
