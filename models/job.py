"""One job: train a (target, member) from the files in its folder and publish the result there.

In: DATASET, and a target's folder with `config.json` and `targets.npz`. Out: `weights.safetensors`,
`predictions.parquet` and, last, `outcome.json`, which tells ok or what went wrong. Called by orchestrator.launch, in a
process of its own or in the caller's (`--inline`). Needs numpy, torch, timm, safetensors and pyarrow.
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
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from pyarrow import parquet
from safetensors.torch import load_file

from models.batches import Pixels
from models.cache import open_images
from models.config import TrainConfig
from models.device import resolve, set_threads
from models.network import build_network
from models.paths import AttemptPaths, DatasetPaths, TargetPaths, publishing, read_json, write_json
from models.targets import PARTS, Targets
from models.train import NotANumber, OnEpoch, Task, predict_logits, train_target

log = logging.getLogger(__name__)
Check = Callable[[], None]
PREDICTED_PARTS = ("select", "calibrate", "test")


class Superseded(RuntimeError):
    """A newer attempt at this target has started, or the process that wanted this one is gone."""


def run_job(dataset: Path, target: Path, on_epoch: OnEpoch | None = None, watch_parent: bool = True) -> dict[str, Any]:
    """Train, predict, publish; returns what `outcome.json` says. A failure is an outcome, never an exception.

    KeyboardInterrupt and Superseded pass through: nobody asked this process for a result any more.
    """
    paths = TargetPaths(target)
    started = _now()
    attempt = paths.new_attempt()
    try:
        _continue_from_earlier(paths, attempt)
        wanted = _still_wanted(watch_parent)
        result = {"status": "ok"} | _train_and_predict(DatasetPaths(dataset), paths, attempt, wanted, on_epoch)
    except Superseded:
        raise
    except Exception as error:  # the border of the process: whatever happened becomes the outcome of this target
        result = {"status": _status(error), "error": f"{type(error).__name__}: {error}", "traceback": _trace(error)}
    result |= {
        "attempt": attempt.number,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": started,
        "ended": _now(),
        "peak_memory_bytes": peak_memory(),
    }
    for name in ("best_epoch", "select_score", "error"):
        result.setdefault(name, None)
    _check_newest(paths, attempt)
    write_json(paths.outcome, result)
    if result["status"] == "ok":
        attempt.checkpoint.unlink(missing_ok=True)  # of a finished attempt only the history is still of use
        attempt.best.unlink(missing_ok=True)
    return result


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
    wanted: Callable[[], None],
    on_epoch: OnEpoch | None,
) -> dict[str, Any]:
    config = resolve(TrainConfig(**read_json(paths.config)["config"]))
    set_threads(config.threads)
    manifest = read_json(dataset.manifest)
    targets = Targets.load(paths.targets)
    pixels = Pixels(
        images=open_images(dataset.root),
        mean=manifest["pixel_mean"],
        std=manifest["pixel_std"],
        size=config.image_size or manifest["size"],
        device=config.device,
    )
    task = Task(config=config, targets=targets, pixels=pixels, paths=attempt, still_wanted=wanted)
    result = train_target(task, on_epoch)
    network = build_network(config.backbone, config.dropout)
    network.load_state_dict(load_file(attempt.best))
    network.to(config.device, memory_format=torch.channels_last)
    predictions = _predictions(task, network)
    _check_newest(paths, attempt)
    with publishing(paths.weights) as temporary:
        shutil.copyfile(attempt.best, temporary)
    with publishing(paths.predictions) as temporary:
        parquet.write_table(predictions, temporary)
    return result | {
        "device": config.device,
        "precision": config.precision,
        "threads": config.threads,
        "torch": torch.__version__,
        "peak_gpu_bytes": _peak_gpu(config.device),
    }


def _predictions(task: Task, network: torch.nn.Module) -> pyarrow.Table:
    """Logits of every film that is not trained on, in fp32 as `predict` computes them; no label is needed or known."""
    targets = task.targets
    chosen = np.concatenate([targets.all_of(part) for part in PREDICTED_PARTS])
    exact = dataclasses.replace(task.config, precision="fp32")
    logits = predict_logits(network, task.pixels, targets.row[chosen], exact)
    names = np.array(PARTS)[targets.part[chosen]]
    return pyarrow.table({"image_id": targets.image_id[chosen].astype(str), "part": names, "logit": logits})


def _continue_from_earlier(paths: TargetPaths, new: AttemptPaths) -> None:
    """Take over checkpoint, best weights and history of the newest earlier attempt that left a checkpoint."""
    for earlier in range(new.number - 1, 0, -1):
        old = paths.attempt(earlier)
        if not old.checkpoint.exists():
            continue
        # the checkpoint comes last: without it the attempt starts afresh and overwrites the others
        for source, goal in ((old.history, new.history), (old.best, new.best), (old.checkpoint, new.checkpoint)):
            if source.exists():
                with publishing(goal) as temporary:
                    shutil.copyfile(source, temporary)
        return


def _still_wanted(watch_parent: bool) -> Check:
    parent = os.getppid()

    def check() -> None:
        if watch_parent and os.getppid() != parent:
            raise Superseded("The process that started this training is gone.")

    return check


def _check_newest(paths: TargetPaths, attempt: AttemptPaths) -> None:
    newest = paths.newest_attempt()
    if newest and newest.number != attempt.number:
        raise Superseded(f"Attempt {newest.number} has taken over from attempt {attempt.number} at {paths.root}.")


def _status(error: Exception) -> str:
    if isinstance(error, NotANumber):
        return "nan"
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return "oom"
    return "failed"


def _trace(error: Exception) -> str:
    return "".join(traceback.format_exception(error))


def _peak_gpu(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
