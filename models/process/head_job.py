"""The work of a head's job: fit it on stored features, answer for the films that it did not learn from, publish.

In: a DATASET with the features of a frozen encoder, and a head's folder with `config.json` and `targets.npz`. Out: the
head's weights and `predictions.parquet` there, and what its outcome says. Called by models.process.job in the process
of this one finding. The encoder itself is not needed: its features are what it would say.
"""

import time
from functools import partial
from typing import Any

import numpy as np
import pyarrow
import torch
from pyarrow import parquet

from models.config import TrainConfig
from models.data.features import open_features, read_description
from models.data.targets import PARTS, Targets
from models.files.checksummed import verify_file, weights_bytes
from models.files.layout import AttemptPaths, DatasetPaths, TargetPaths, publishing, read_json, write_bytes
from models.network.encoder import Head
from models.network.losses import positive_weight
from models.process.supervision import Guards, check_newest
from models.training.device import set_threads
from models.training.heads import Fitted, Taught, fit_head
from models.training.selection import require_both_classes
from pathologies.errors import InputError

ANSWERED = ("calibrate", "test")  # the other films are learned from
BATCH = 4096  # films of features at once


def is_head(paths: TargetPaths) -> bool:
    return "head" in read_json(paths.config)


def fit_and_answer(dataset: DatasetPaths, paths: TargetPaths, attempt: AttemptPaths, guards: Guards) -> dict[str, Any]:
    """Errors: InputError where the features are not those that the head was planned on, or a class is missing."""
    payload = read_json(paths.config)
    config, facts, kind = TrainConfig(**payload["config"]), payload["encoder"], payload["head"]["kind"]
    set_threads(config.threads)
    features = _features(dataset, facts, guards)
    targets, started = Targets.load(paths.targets), time.monotonic()
    positions = targets.usable("train")
    require_both_classes(targets, positions)
    value = targets.truth(positions)
    weight = np.where(value >= 0.5, positive_weight(config, value), 1.0)
    taught = Taught(features=features[targets.row[positions]], value=value, weight=weight, fold=targets.fold[positions])
    fitted = fit_head(kind, taught, config.seed, partial(_alive, guards))
    predictions = _predictions(fitted.head, features, targets)
    check_newest(paths, attempt)
    retry, content = guards.retry, weights_bytes(fitted.head)
    retry.write(partial(write_bytes, paths.weights, content), paths.weights, len(content))
    retry.write(partial(_write_table, predictions, paths), paths.predictions, predictions.nbytes)
    return _said(fitted, kind) | {
        "architecture": facts["architecture"],
        "encoder": facts["digest"],
        "seconds": round(time.monotonic() - started, 3),
        "device": "cpu",
        "precision": "fp32",
        "threads": config.threads,
        "torch": torch.__version__,
        "peak_gpu_bytes": 0,
    }


def _features(dataset: DatasetPaths, facts: dict[str, Any], guards: Guards) -> np.ndarray:
    paths = dataset.features(facts["digest"])
    description = read_description(paths)
    if description["images_sha256"] != read_json(dataset.manifest)["images_sha256"]:
        raise InputError(f"{paths.root} has the features of other films. Remove it and give `hilum embed` again.")
    features = open_features(paths, description)
    advice = f"Remove {paths.root} and give `hilum embed` again."
    words = ("made", "its description", advice)
    verify_file(paths.features, description["features_sha256"], words, guards.watchdog.alive)
    return features


def _alive(guards: Guards) -> None:
    guards.sign_of_life()
    guards.still_wanted()
    guards.stop.check()


def _said(fitted: Fitted, kind: str) -> dict[str, Any]:
    if fitted.folds:
        reason = (
            f"penalty {fitted.strength:g}: of {len(fitted.losses)} tried it has the least log-loss on films of "
            f"{fitted.folds} folds of patients, each left out in turn"
        )
    else:
        reason = f"penalty {fitted.strength:g} without a choice: too few patients of a class to leave any out"
    return {
        "selection_rule": "left_out_patients",
        "selection_reason": reason,
        "select_score": -fitted.loss,
        "head": {
            "kind": kind,
            "hidden": fitted.hidden,
            "penalty": fitted.strength,
            "losses": {f"{one:g}": loss for one, loss in fitted.losses.items()},
        },
        "epochs_trained": 0,
        "start": "",
    }


def _predictions(head: Head, features: np.ndarray, targets: Targets) -> pyarrow.Table:
    chosen = np.concatenate([targets.all_of(part) for part in ANSWERED])
    rows, logits = targets.row[chosen], np.zeros(len(chosen), np.float32)
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            here = slice(start, start + BATCH)
            logits[here] = head(torch.from_numpy(features[rows[here]])).numpy()
    names = np.array(PARTS)[targets.part[chosen]]
    return pyarrow.table({"image_id": targets.image_id[chosen].astype(str), "part": names, "logit": logits})


def _write_table(table: pyarrow.Table, paths: TargetPaths) -> None:
    with publishing(paths.predictions) as temporary:
        parquet.write_table(table, temporary)
