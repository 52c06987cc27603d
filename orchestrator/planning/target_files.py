"""What a network is taught: label policies applied, columns put together, `targets.npz` written.

In: the data set's frame and parts, the finding's settings. Out: the file that the trainer reads. Called by the planner
of a run; `plan` hands its names on. The labels of `calibrate` and `test` are not handed to any training.

Which part a film has for a training is the data set's to say, with two exceptions. In a fold, all films that are not
`test` are `train`, but those held out, which are `calibrate`: their logits are what the network says of films that it
has not seen. And a training that chooses no epoch (epoch_choice=last) learns from `select` too.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from models.config import TrainConfig
from models.data.targets import PARTS, Targets
from models.files.layout import TargetPaths
from orchestrator.datasets.labelled import Material, usable_views
from pathologies.findings.policy import LabelPolicy
from pathologies.labels.contract import training_contract
from pathologies.labels.resolution import resolve
from pathologies.labels.sample_weights import combination_of, target_weights, vector_weights
from pathologies.splits.assignment import assign_folds

HEAD_FOLDS = 5

BRANCH = "branch"  # key of config.json: which shared network it goes on from, and the findings of that
FOLD = "fold"  # key of config.json: {"index": from 0, "of": folds}


def write_targets(paths: TargetPaths, payload: Mapping[str, Any], material: Material) -> None:
    """`targets.npz` for a job's `config.json`: of its target, or a column for each finding of a shared network."""
    config, frame = TrainConfig(**payload["config"]), material.frame
    parts = job_parts(material, config, payload.get(FOLD))
    columns, own = payload.get(BRANCH, payload), -1
    slugs = columns.get("targets", ())
    if slugs:
        policies = {slug: LabelPolicy(**columns["policies"][slug]) for slug in slugs}
        if BRANCH in payload:
            own, policies[payload["target"]] = list(slugs).index(payload["target"]), _policy_of(config)
        taught = [taught_column(material, slug, policy, config.seed, parts) for slug, policy in policies.items()]
        value, weight = (np.column_stack(one) for one in zip(*taught, strict=True))
    else:
        value, weight = taught_column(material, payload["target"], _policy_of(config), config.seed, parts)
    rows = np.flatnonzero(usable_views(frame, config.views))
    findings = material.dataset.manifest["findings"]
    targets = Targets(
        row=rows.astype(np.int64),
        part=np.array([PARTS.index(part) for part in parts[rows]], np.uint8),
        value=value[rows],
        weight=weight[rows],
        draw=np.ones(len(rows), np.float32),
        image_id=frame["image_id"].to_numpy(str)[rows].astype(bytes),
        slugs=np.array(slugs, "S"),
        own=own,
    )
    if config.recipe_version > 1:
        targets = with_draws(targets, config, frame[findings].to_numpy(np.float32)[rows])
    else:
        judged = value if own < 0 else value[:, own]
        targets = replace(targets, draw=sampler_weights(config, frame, parts, judged, findings)[rows])
    if "head" in payload:
        targets = _with_folds(targets, material, rows)
    targets.save(paths.targets)


def _with_folds(targets: Targets, material: Material, rows: np.ndarray) -> Targets:
    """For the choice of a head's penalty: the fold of each film that it learns from, the same for all findings."""
    here, fold = targets.all_of("train"), np.zeros(len(rows), np.uint8)
    taught = material.frame.iloc[rows[here]].reset_index(drop=True)
    folds = min(HEAD_FOLDS, taught["patient_id"].nunique())
    if folds > 1:
        fold[here] = assign_folds(taught, material.dataset.manifest["findings"], folds)
    return replace(targets, fold=fold)


def _policy_of(config: TrainConfig) -> LabelPolicy:
    return LabelPolicy(uncertain=config.uncertain, blank=config.blank)


def job_parts(material: Material, config: TrainConfig, fold: Mapping[str, int] | None) -> np.ndarray:
    """The part that each film has for a training."""
    if fold is not None:
        held_out = np.where(material.folds[fold["of"]] == fold["index"], "calibrate", "train")
        return np.where(material.parts == "test", "test", held_out)
    if config.epoch_choice == "last":
        return np.where(material.parts == "select", "train", material.parts)
    return material.parts


def taught_column(
    material: Material, slug: str, policy: LabelPolicy, seed: int, parts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(values, weights) of all films: training contract in `train`, reference contract in `select`, nothing elsewhere.

    `policy` is the finding's; children that lift it by closure keep their own.
    """
    value = np.full(len(parts), np.nan, np.float32)
    weight = np.zeros(len(parts), np.float32)
    for part, taught in (("train", policy), ("select", None)):
        here = parts == part
        if here.any():
            values, weights = _resolved(material, slug, taught, seed)
            value[here], weight[here] = values[here], weights[here]
    return value, weight


def _resolved(material: Material, slug: str, policy: LabelPolicy | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(values, weights) of all films under the training contract with this policy; without one, the reference's."""
    key, manifest = (slug, policy, seed), material.dataset.manifest
    if key not in material.resolved:
        if policy is None:
            contract = material.reference_contract
        else:
            contract = training_contract(material.catalog, manifest["findings"], {slug: policy})
        answer = resolve(material.frame, slug, contract, material.catalog, seed=seed, labelled=manifest["sources"])
        material.resolved[key] = answer.values, answer.weights
    return material.resolved[key]


def with_draws(targets: Targets, config: TrainConfig, labels: np.ndarray) -> Targets:
    """`targets` with how often the config's sampler draws each film of `train`. Weights, never duplicated rows.

    They are those of the films that are drawn from: of the views of the config, and of a known answer. `labels`: raw,
    films x findings of the data set.
    """
    here, draw = targets.usable("train"), np.ones(len(targets.row), np.float32)
    if config.sampler == "balanced":
        draw[here] = target_weights(targets.judged.value[here])
    elif config.sampler == "label_vector":
        draw[here] = vector_weights(labels[here], config.sampler_minimum)
        return replace(targets, draw=draw, combination=combination_of(labels == 1).astype(np.int32))
    return replace(targets, draw=draw)


def sampler_weights(
    config: TrainConfig, frame: pd.DataFrame, parts: np.ndarray, value: np.ndarray, findings: list[str]
) -> np.ndarray:
    """The weights of recipe_version 1, which counted films of `train` that are never drawn, of other views, too.

    Kept for the trainings that were begun under it.
    """
    weights = np.ones(len(frame), np.float32)
    here = parts == "train"
    if config.sampler == "balanced":
        weights[here] = target_weights(value[here])
    elif config.sampler == "label_vector":
        weights[here] = vector_weights(frame.loc[here, findings].to_numpy(np.float32), config.sampler_minimum)
    return weights
