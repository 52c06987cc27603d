"""One job: train a (target, member) from the files in its folder and publish the result there.

In: DATASET, and a target's folder with `config.json` and `targets.npz`. Out: `weights.safetensors`,
`predictions.parquet` and, last, `outcome.json`, which tells ok or what went wrong. Called by
orchestrator.training.launch, in a process of its own or in the caller's (`--inline`). Needs numpy, torch, timm,
safetensors and pyarrow.
"""

import dataclasses
import logging
import os
import resource
import shutil
import socket
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from pyarrow import parquet

from models.config import TrainConfig
from models.data.cache import open_images
from models.data.loading import Pixels
from models.data.targets import PARTS, Targets
from models.files.checksummed import file_sha256, load_weights, verify_images, weights_bytes
from models.files.layout import (
    AttemptPaths,
    DatasetPaths,
    TargetPaths,
    branch_file,
    publishing,
    read_json,
    write_bytes,
    write_json,
)
from models.network.architecture import architecture
from models.network.builder import SingleLogit, build_network, one_output
from models.process.resume import continue_from_earlier, drop_checkpoints
from models.process.supervision import Guards, Superseded, check_newest, guarded
from models.training.device import resolve, set_threads
from models.training.distributed import together
from models.training.loop import NotANumber, OnEpoch, predict_logits, train_target
from models.training.task import Task

log = logging.getLogger(__name__)
Check = Callable[[], None]
_NO_CPU_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # a RuntimeError without a class of its own
PREDICTED_PARTS = ("select", "calibrate", "test")


def run_job(
    dataset: Path,
    target: Path,
    on_epoch: OnEpoch | None = None,
    watch_parent: bool = True,
    on_hang: Check | None = None,
) -> dict[str, Any]:
    """Train, predict, publish; returns what `outcome.json` says. A failure is an outcome, never an exception.

    KeyboardInterrupt (Interrupted, when there was time for a checkpoint) and Superseded pass through: nobody asked this
    process for a result any more. `watch_parent`: this process was started for the training alone. `on_hang`: called
    when the outcome tells of a hang, before this process ends.
    """
    paths = TargetPaths(target)
    started = _now()
    attempt = paths.new_attempt()

    def hung(stacks: str) -> None:
        check_newest(paths, attempt)
        error = "A step of the training gave no sign of life for watchdog_minutes; `traceback` has the stacks."
        write_json(paths.outcome, _facts(attempt, started) | {"status": "hung", "error": error, "traceback": stacks})
        if on_hang:
            on_hang()

    with guarded(paths, attempt, watch_parent, hung) as guards:
        try:
            taken = continue_from_earlier(paths, attempt)
            trained = _train_and_predict(DatasetPaths(dataset), paths, attempt, guards, on_epoch)
            result = {"status": "ok"} | taken | trained
        except Superseded:
            raise
        except Exception as error:  # the border of the process: whatever happened becomes the outcome of this target
            result = {"status": _status(error), "error": f"{type(error).__name__}: {error}", "traceback": _trace(error)}
            result |= _kept(paths, attempt)
        result = _facts(attempt, started) | result
        check_newest(paths, attempt)
        guards.retry.write(lambda: write_json(paths.outcome, result), paths.outcome)
    if result["status"] == "ok":
        for number in range(1, attempt.number + 1):
            drop_checkpoints(paths.attempt(number))
    return result


def _facts(attempt: AttemptPaths, started: str) -> dict[str, Any]:
    """What every outcome says."""
    return {
        "attempt": attempt.number,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": started,
        "ended": _now(),
        "peak_memory_bytes": peak_memory(),
        **dict.fromkeys(("best_epoch", "select_score", "error")),
    }


def _kept(paths: TargetPaths, attempt: AttemptPaths) -> dict[str, Any]:
    """Of a training that failed: its best weights so far and its last checkpoint, and where they are."""
    found = {"last_good_weights": attempt.best, "last_checkpoint": attempt.checkpoint}
    return {name: str(path.relative_to(paths.root)) if path.exists() else None for name, path in found.items()}


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes.

    VmHWM where the system has it: `ru_maxrss` may carry over what the parent was before this program was loaded.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _train_and_predict(
    dataset: DatasetPaths,
    paths: TargetPaths,
    attempt: AttemptPaths,
    guards: Guards,
    on_epoch: OnEpoch | None,
) -> dict[str, Any]:
    task = open_task(dataset, paths, attempt, guards.still_wanted, guards)
    config = task.config
    with together(dataset, paths, attempt, config):
        result = train_target(task, guards.beside(on_epoch))
    task = task.endable()  # from the last checkpoint on there is nothing to lose but predictions
    kind = architecture(config.backbone, task.pixels.size)
    network = build_network(kind.name, config.dropout, task.targets.judged.outputs, config.standardise, kind.args)
    _load_judged(network, task.targets, attempt.best)
    network.to(config.device, memory_format=torch.channels_last)
    predictions = _predictions(task, network)
    further = [one["epoch"] for one in result.get("snapshots", ())]
    for epoch in further:
        _load_judged(network, task.targets, attempt.snapshot(epoch))
        predictions = _beside(predictions, _predictions(task, network), epoch)
    check_newest(paths, attempt)
    sources = {paths.weights: attempt.best} | {paths.snapshot(epoch): attempt.snapshot(epoch) for epoch in further}
    for goal, source in sources.items():
        guards.retry.write(partial(_publish, network, task.targets, source, goal), goal, source.stat().st_size)
    if "kept_branch" in result:
        guards.retry.write(partial(_copy, attempt.branch, paths.branch), paths.branch, attempt.branch.stat().st_size)
        result["kept_branch"]["sha256"] = file_sha256(paths.branch)
    guards.retry.write(partial(_write_table, predictions, paths.predictions), paths.predictions, predictions.nbytes)
    return result | {
        "architecture": kind.to_dict(),
        "device": config.device,
        "precision": config.precision,
        "threads": config.threads,
        "torch": torch.__version__,
        "peak_gpu_bytes": _peak_gpu(config.device),
    }


def _load_judged(network: SingleLogit, targets: Targets, path: Path) -> None:
    """Of a network that learned other findings beside its own one, the own one's output alone."""
    state = load_weights(path)
    network.load_state_dict(one_output(state, network, targets.own) if targets.own >= 0 else state)


def _publish(network: SingleLogit, targets: Targets, source: Path, goal: Path) -> None:
    if targets.own < 0:
        return _copy(source, goal)
    _load_judged(network, targets, source)
    return write_bytes(goal, weights_bytes(network))


def _copy(source: Path, goal: Path) -> None:
    with publishing(goal) as temporary:
        shutil.copyfile(source, temporary)


def _write_table(table: pyarrow.Table, goal: Path) -> None:
    with publishing(goal) as temporary:
        parquet.write_table(table, temporary)


def open_task(
    dataset: DatasetPaths,
    paths: TargetPaths,
    attempt: AttemptPaths,
    still_wanted: Check,
    guards: Guards | None = None,
) -> Task:
    """What a training works on, from the files; sets the threads of this process."""
    config = resolve(TrainConfig(**read_json(paths.config)["config"]))
    set_threads(config.threads)
    manifest = read_json(dataset.manifest)
    images = open_images(dataset.root)
    if guards:
        verify_images(dataset, manifest, guards.watchdog.alive)
    pixels = Pixels(
        images=images,
        mean=manifest["pixel_mean"],
        std=manifest["pixel_std"],
        size=config.image_size or manifest["size"],
        device=config.device,
        on_batch=guards.sign_of_life if guards else None,
    )
    targets = Targets.load(paths.targets)
    further = {"stop": guards.stop, "retry": guards.retry} if guards else {}
    further["branch"] = branch_file(config.init, paths) if config.init else None
    return Task(config=config, targets=targets, pixels=pixels, paths=attempt, still_wanted=still_wanted, **further)


def _predictions(task: Task, network: torch.nn.Module) -> pyarrow.Table:
    """Logits of every film that is not trained on, in fp32 as `predict` computes them; no label is needed or known.

    Of a shared network there is a column for each finding, in the place of `logit`.
    """
    targets = task.targets.judged
    chosen = np.concatenate([targets.all_of(part) for part in PREDICTED_PARTS])
    exact = dataclasses.replace(task.config, precision="fp32")
    logits = predict_logits(network, task.pixels, targets.row[chosen], exact)
    names = np.array(PARTS)[targets.part[chosen]]
    columns = {"logit": logits}
    if targets.outputs is not None:
        columns = dict(zip(targets.slugs.astype(str).tolist(), logits.reshape(-1, targets.outputs).T, strict=True))
    return pyarrow.table({"image_id": targets.image_id[chosen].astype(str), "part": names} | columns)


def _beside(table: pyarrow.Table, snapshot: pyarrow.Table, epoch: int) -> pyarrow.Table:
    """The columns of a snapshot as further ones: `logit@7` is `logit` at the end of epoch 7."""
    for name in snapshot.column_names[2:]:
        table = table.append_column(f"{name}@{epoch}", snapshot[name])
    return table


def _status(error: Exception) -> str:
    if isinstance(error, NotANumber):
        return "nan"
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or _NO_CPU_MEMORY in str(error):
        return "oom"
    return "failed"


def _trace(error: Exception) -> str:
    return "".join(traceback.format_exception(error))


def _peak_gpu(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
