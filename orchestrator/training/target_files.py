"""What a network is taught: label policies applied, columns put together, `targets.npz` written.

In: the data set's frame and parts, the finding's settings. Out: the file that the trainer reads. Called by the planner
of a run; `plan` hands its names on. The labels of `calibrate` and `test` are not handed to any training.
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


def write_targets(paths: TargetPaths, payload: Mapping[str, Any], material: Material) -> None:
    """`targets.npz` for a job's `config.json`: of its target, or a column for each finding of a shared network."""
    config, frame, parts = TrainConfig(**payload["config"]), material.frame, material.parts
    slugs = payload.get("targets", ())
    if slugs:
        policies = {slug: LabelPolicy(**payload["policies"][slug]) for slug in slugs}
        columns = [taught_column(material, slug, policy, config.seed) for slug, policy in policies.items()]
        value, weight = (np.column_stack(one) for one in zip(*columns, strict=True))
    else:
        policy = LabelPolicy(uncertain=config.uncertain, blank=config.blank)
        value, weight = taught_column(material, payload["target"], policy, config.seed)
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
    )
    if config.recipe_version > 1:
        targets = with_draws(targets, config, frame[findings].to_numpy(np.float32)[rows])
    else:
        targets = replace(targets, draw=sampler_weights(config, frame, parts, value, findings)[rows])
    targets.save(paths.targets)


def taught_column(material: Material, slug: str, policy: LabelPolicy, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(values, weights) of all films: training contract in `train`, reference contract in `select`, nothing elsewhere.

    `policy` is the finding's; children that lift it by closure keep their own.
    """
    frame, catalog, manifest = material.frame, material.catalog, material.dataset.manifest
    contracts = {
        "train": training_contract(catalog, manifest["findings"], {slug: policy}),
        "select": material.reference_contract,
    }
    value = np.full(len(frame), np.nan, np.float32)
    weight = np.zeros(len(frame), np.float32)
    for part, contract in contracts.items():
        answer = resolve(frame, slug, contract, catalog, seed=seed, labelled=manifest["sources"])
        here = material.parts == part
        value[here], weight[here] = answer.values[here], answer.weights[here]
    return value, weight


def with_draws(targets: Targets, config: TrainConfig, labels: np.ndarray) -> Targets:
    """`targets` with how often the config's sampler draws each film of `train`. Weights, never duplicated rows.

    They are those of the films that are drawn from: of the views of the config, and of a known answer. `labels`: raw,
    films x findings of the data set.
    """
    here, draw = targets.usable("train"), np.ones(len(targets.row), np.float32)
    if config.sampler == "balanced":
        draw[here] = target_weights(targets.value[here])
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
