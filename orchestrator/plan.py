"""The plan of a run: which (target, member) is trained on what and how, written before anything starts.

In: a prepared data set and what the user asked for. Out: a folder per job with `config.json` and `targets.npz`, and
`plan.json`. Called by the launcher. The labels of `calibrate` and `test` are not handed to any training.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.config import TrainConfig, build_config, difference
from models.paths import RunPaths, TargetPaths, read_json, write_json
from models.processor import cpu_precision
from models.targets import PARTS, Targets
from orchestrator.dataset import Dataset, load_dataset
from orchestrator.tuned import tuned_settings
from pathologies.catalog import CHEXPERT_TARGETS, Pathology, find_pathology, load_catalog
from pathologies.labels import LabelContract, LabelPolicy, resolve, training_contract
from pathologies.sampling import target_weights, vector_weights


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What `hilum train` was asked for."""

    dataset: Path
    out: Path
    targets: tuple[str, ...] = ()  # names or slugs; none: those of CheXpert's twelve that the data set labels
    members: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)  # fields of TrainConfig
    member_settings: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)  # on top, for one member (from 0)
    inline: bool = False
    address: str | None = None
    gpus_per_target: float | None = None  # none: one, where there are GPUs
    retries: int = 2  # of a training process that dies
    force: bool = False  # train a finished target again when its configuration changed
    findings: Path | None = None  # a folder with further pathology files
    tuned: Path | None = None  # a run whose search found better settings: between the finding's own and the user's


@dataclass(frozen=True, kw_only=True)
class Material:
    """What the files of every job are made from, read once."""

    dataset: Dataset
    catalog: Mapping[str, Pathology]
    frame: pd.DataFrame
    parts: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Job:
    slug: str
    member: int
    paths: TargetPaths
    config: TrainConfig
    finished: bool = False

    @property
    def name(self) -> str:
        return f"{self.slug}/{self.member}"


def plan_run(request: TrainRequest, device: str) -> list[Job]:
    """Write what every job needs and return the jobs, finished ones marked. `device`: what `auto` means here."""
    material = read_material(request.dataset, request.findings)
    slugs = chosen_targets(request.targets, material.dataset.manifest["findings"], material.catalog)
    run = RunPaths(request.out)
    require_same_data(run, material.dataset)
    tuned = tuned_settings(request.tuned, slugs) if request.tuned else {}
    beyond = [member for member in request.member_settings if member >= request.members]
    if beyond:
        raise ValueError(
            f"There are settings for member {beyond[0]}, and {request.members} member(s), counted from 0. "
            f"Give --members {max(beyond) + 1}."
        )
    jobs = []
    for slug in slugs:
        for member in range(request.members):
            settings = {**request.settings, **request.member_settings.get(member, {})}
            config = resolved_config(material.catalog[slug], settings, member, device, tuned.get(slug))
            paths = run.target(slug, member)
            job = Job(slug=slug, member=member, paths=paths, config=_as_before(config, settings, paths))
            jobs.append(write_job(job, material, request.force))
    write_plan(run, material.dataset, jobs)
    return jobs


def read_material(dataset: Path, findings: Path | None = None) -> Material:
    opened = load_dataset(dataset)
    frame = opened.read_labels_frame()
    return Material(dataset=opened, catalog=load_catalog(findings), frame=frame, parts=opened.parts())


def write_job(job: Job, material: Material, force: bool = False) -> Job:
    """Write the folder that `models.job.run_job` trains from; returns the job, marked when it is finished already."""
    payload = _payload(job, material.dataset)
    finished = _settle(job.paths, payload, force)
    if not job.paths.targets.exists():
        _write_targets(job.paths, payload, material)
    return dataclasses.replace(job, finished=finished)


def _as_before(config: TrainConfig, settings: Mapping[str, Any], paths: TargetPaths) -> TrainConfig:
    """Device and precision that the user left to us stay what they were: they are resolved once in a run.

    Only an unfinished training whose device is not here begins anew on the one that is.
    """
    if not paths.config.exists():
        return config
    before = TrainConfig(**read_json(paths.config)["config"])
    finished = paths.outcome.exists() and read_json(paths.outcome).get("status") == "ok"
    if not finished and before.device != config.device:
        return config
    kept = {name: getattr(before, name) for name in ("device", "precision") if settings.get(name, "auto") == "auto"}
    return dataclasses.replace(config, **kept)


def chosen_targets(names: tuple[str, ...], labelled: list[str], catalog: Mapping[str, Pathology]) -> list[str]:
    """Slugs in the order asked for. Errors: an unknown name; a finding that the data set does not label."""
    if not names:
        slugs = [slug for slug in CHEXPERT_TARGETS if slug in labelled]
        if not slugs:
            raise ValueError(
                "The data set labels none of CheXpert's twelve targets, so name with --targets what to train. "
                f"It labels: {', '.join(labelled)}."
            )
        return slugs
    slugs = list(dict.fromkeys(find_pathology(name, catalog).slug for name in names))
    absent = [slug for slug in slugs if slug not in labelled]
    if absent:
        raise ValueError(
            f"The data set does not label {', '.join(absent)}: training on it would learn from nothing. "
            f"It labels: {', '.join(labelled)}."
        )
    return slugs


def resolved_config(
    pathology: Pathology, settings: Mapping[str, Any], member: int, device: str, tuned: Mapping[str, Any] | None = None
) -> TrainConfig:
    """Defaults, the finding's overrides, those of a search, the user's; nothing in it is left to be decided later."""
    try:
        config = build_config(pathology.training, tuned or {}, settings)
    except ValueError as error:
        if not pathology.training:
            raise
        raise ValueError(f"{error} (with the [training] table of {pathology.slug}.toml)") from error
    policy = LabelPolicy(
        uncertain=config.uncertain or pathology.policy.uncertain, blank=config.blank or pathology.policy.blank
    )
    device = device if config.device == "auto" else config.device
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if device.startswith("cuda") else cpu_precision()
    return dataclasses.replace(
        config,
        seed=config.seed + member,
        device=device,
        precision=precision,
        uncertain=policy.uncertain,
        blank=policy.blank,
    )


def _payload(job: Job, dataset: Dataset) -> dict[str, Any]:
    manifest = dataset.manifest
    return {
        "config": job.config.to_dict(),
        "target": job.slug,
        "member": job.member,
        "reference_contract": manifest["reference_contract"],
        "data": {name: manifest[name] for name in ("images_sha256", "labels_sha256", "split_hash", "size")},
    }


def _settle(paths: TargetPaths, payload: dict[str, Any], force: bool) -> bool:
    """Write `config.json`; True when this job is finished already. A finished configuration is fixed."""
    finished = paths.outcome.exists() and read_json(paths.outcome).get("status") == "ok"
    if paths.config.exists():
        old = read_json(paths.config)
        changed = difference(_flat(old), _flat(payload))
        if not changed:
            if not finished:
                write_json(paths.config, payload)  # how often checkpoints are written may change at any time
            return finished
        if finished and not force:
            raise ValueError(
                f"{paths.root} is trained already, with another configuration ({changed}). "
                "Use another --out, or --force to train it again."
            )
        shutil.rmtree(paths.root)  # a checkpoint of another configuration is no place to go on from
    write_json(paths.config, payload)
    return False


def _flat(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A settings file of an earlier version lacks newer fields: they had what is their default now."""
    full = TrainConfig(**payload["config"]).to_dict()
    config = {name: value for name, value in full.items() if name != "checkpoint_minutes"}
    return config | {name: value for name, value in payload.items() if name != "config"}


def _write_targets(paths: TargetPaths, payload: Mapping[str, Any], material: Material) -> None:
    """Training contract in `train`, reference contract in `select`, nothing in the other parts."""
    slug, config = payload["target"], TrainConfig(**payload["config"])
    frame, parts, catalog, manifest = material.frame, material.parts, material.catalog, material.dataset.manifest
    policies = {slug: LabelPolicy(uncertain=config.uncertain, blank=config.blank)}
    contracts = {
        "train": training_contract(catalog, manifest["findings"], policies),
        "select": LabelContract.from_dict(manifest["reference_contract"]),
    }
    value = np.full(len(frame), np.nan, np.float32)
    weight = np.zeros(len(frame), np.float32)
    for part, contract in contracts.items():
        answer = resolve(frame, slug, contract, catalog, seed=config.seed, labelled=manifest["sources"])
        here = parts == part
        value[here], weight[here] = answer.values[here], answer.weights[here]
    rows = np.flatnonzero(usable_views(frame, config.views))
    targets = Targets(
        row=rows.astype(np.int64),
        part=np.array([PARTS.index(part) for part in parts[rows]], np.uint8),
        value=value[rows],
        weight=weight[rows],
        draw=sampler_weights(config, frame, parts, value, manifest["findings"])[rows],
        image_id=frame["image_id"].to_numpy(str)[rows].astype(bytes),
    )
    targets.save(paths.targets)


def sampler_weights(
    config: TrainConfig, frame: pd.DataFrame, parts: np.ndarray, value: np.ndarray, findings: list[str]
) -> np.ndarray:
    """How often each film of `train` is drawn; equal for the natural sampler. Weights, never duplicated rows."""
    weights = np.ones(len(frame), np.float32)
    here = parts == "train"
    if config.sampler == "balanced":
        weights[here] = target_weights(value[here])
    elif config.sampler == "label_vector":
        weights[here] = vector_weights(frame.loc[here, findings].to_numpy(np.float32), config.sampler_minimum)
    return weights


def usable_views(frame: pd.DataFrame, views: str) -> np.ndarray:
    """Which films a network of these views takes. A film of unknown view is taken by `all` only."""
    return np.ones(len(frame), bool) if views == "all" else (frame["view"] == views).to_numpy()


def require_same_data(run: RunPaths, dataset: Dataset) -> None:
    if not run.plan.exists():
        return
    planned = read_json(run.plan)["data"]
    names = ("images_sha256", "labels_sha256", "split_hash")
    changed = [name for name in names if planned.get(name) != dataset.manifest[name]]
    if changed:
        raise ValueError(
            f"{run.root} was begun on another data set ({', '.join(changed)} differ). One run has one data set: "
            "give another --out."
        )


def write_plan(run: RunPaths, dataset: Dataset, jobs: list[Job], gone: tuple[str, ...] = ()) -> None:
    """`plan.json` names all targets and members of the run, those of earlier commands too, except for `gone`."""
    old = read_json(run.plan)["jobs"] if run.plan.exists() else {}
    old = {name: entry for name, entry in old.items() if name not in gone}
    mine = {
        job.name: {"threads": job.config.threads, "precision": job.config.precision, "device": job.config.device,
                   "config": job.config.digest()}
        for job in jobs
    }  # fmt: skip
    manifest = dataset.manifest
    data = {name: manifest[name] for name in ("images_sha256", "labels_sha256", "split_hash", "size", "fold")}
    write_json(
        run.plan,
        {"format": "hilum-run/1", "dataset": str(Path(dataset.paths.root).resolve()), "data": data, "jobs": old | mine},
    )
