"""The plan of a run: which (target, member) is trained on what and how, written before anything starts.

In: a prepared data set and what the user asked for. Out: a folder per job with `config.json` and `targets.npz`, and
`plan.json`. Called by the launcher. The labels of `calibrate` and `test` are not handed to any training.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from models.config import RECIPE_VERSION, TrainConfig, build_config
from models.files.layout import RunPaths, TargetPaths, read_json, remove_folder, write_json
from models.training.cpu_features import cpu_precision
from orchestrator.datasets.dataset import SAME_DATA, Dataset, differing
from orchestrator.datasets.labelled import Material, read_material
from orchestrator.storage.staging import address
from orchestrator.storage.workspace import DrivenRun, Workspace
from orchestrator.training.backbones import require_backbone, require_films
from orchestrator.training.batch_backoff import as_reduced, as_wished
from orchestrator.training.changed_settings import Change, changed_settings, has_learnt, is_finished, refuse_changes
from orchestrator.training.config_repair import config_again, is_damaged, read_planned, targets_are_whole
from orchestrator.training.initial_weights import require_others, require_start, start_entry, start_note
from orchestrator.training.multilabel import SHARED, SharedTask, shared_task
from orchestrator.training.ray_session import own_cluster
from orchestrator.training.target_files import write_targets
from orchestrator.training.tuned_settings import tuned_settings
from pathologies.errors import InputError
from pathologies.findings.catalog import CHEXPERT_TARGETS, find_pathology
from pathologies.findings.pathology import Pathology
from pathologies.findings.policy import LabelPolicy

UNTUNED = "not tuned: its usual settings"


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
    gpus_per_target: float | str | None = None  # none: one, where there are GPUs; auto: as many as fit on a card
    retries: int = 2  # of a training process that dies
    force: bool = False  # train a target anew that was trained, or begun, with another configuration
    findings: Path | None = None  # a folder with further pathology files
    shared: bool = False  # one network for all the targets, in the place of one for each
    tuned: Path | None = None  # a run whose search found better settings: between the finding's own and the user's
    workspace: Workspace = field(default_factory=Workspace, compare=False)  # in which `out` was opened


@dataclass(frozen=True, kw_only=True)
class Job:
    slug: str
    member: int
    paths: TargetPaths
    config: TrainConfig
    finished: bool = False
    shared: SharedTask | None = None  # what a shared network answers for; its slug is `shared`
    untuned: bool = False  # the run of --tuned has no settings of this finding
    cpus: float | None = None  # what it asks of Ray; none: one for each of its threads
    # with --force: removes what was trained with other settings; called when this training starts, and not before
    replace_earlier: Callable[[], None] | None = field(default=None, compare=False)

    @property
    def note(self) -> str:
        """What to tell of the job before it starts."""
        own = self.shared.note if self.shared else UNTUNED if self.untuned else ""
        return "; ".join(filter(None, (own, start_note(self.config))))

    @property
    def name(self) -> str:
        return f"{self.slug}/{self.member}"


def plan_run(request: TrainRequest, device: str, card: str = "bf16") -> list[Job]:
    """Write what every job needs and return the jobs, finished ones marked.

    `device`: what `auto` means here; `card`: what precision=auto means on its GPUs.
    """
    material = read_material(request.dataset, request.findings)
    slugs = chosen_targets(request.targets, material.dataset.manifest["findings"], material.catalog)
    run = request.workspace.driven(request.out)
    require_same_data(run, material.dataset)
    tuned = tuned_settings(request.tuned, slugs) if request.tuned else {}
    beyond = [member for member in request.member_settings if member >= request.members]
    if beyond:
        raise InputError(
            f"There are settings for member {beyond[0]}, and {request.members} member(s), counted from 0. "
            f"Give --members {max(beyond) + 1}."
        )
    if request.shared and request.tuned:
        raise InputError("--tuned has the settings of single findings; a shared network takes none of them. Use --set.")
    jobs, planned = [], read_planned(run)
    for slug in [SHARED] if request.shared else slugs:
        for member in range(request.members):
            settings = {**request.settings, **request.member_settings.get(member, {})}
            if request.shared:
                config = build_config({"recipe_version": RECIPE_VERSION}, settings)
                paths = run.shared(member)
                config = _as_before(_definite(config, member, device, card), settings, paths)
                job = _shared_job(paths, member, config, material, slugs)
            else:
                config = resolved_config(material.catalog[slug], settings, member, device, tuned.get(slug), card)
                paths = run.target(slug, member)
                config, untuned = _as_before(config, settings, paths), bool(tuned) and slug not in tuned
                job = Job(slug=slug, member=member, paths=paths, config=config, untuned=untuned)
            require_others(job.config, job.paths.root)
            jobs.append(job)
    here = request.inline or own_cluster(request.address)  # a cluster's machines may see files that this one does not
    for job in jobs:
        if request.force or not is_finished(job.paths):  # before --force removes what is finished
            require_films(job.config, material.dataset.manifest["size"], here)
            if here:
                require_start(job.config)
    jobs = [_mended(job, material.dataset, planned.get(job.name)) for job in jobs]
    if not request.force:
        refuse_changes([change for job in jobs if (change := _loss(job, _payload(job, material.dataset), False, run))])
    jobs = [write_job(job, material, request.force, run) for job in jobs]
    write_plan(run, material.dataset, [job for job in jobs if not job.replace_earlier])
    return jobs


def _shared_job(paths: TargetPaths, member: int, config: TrainConfig, material: Material, slugs: list[str]) -> Job:
    """Its configuration is the defaults and the user's; an empty policy in it means each finding's own."""
    require_backbone(config.backbone)
    shared = shared_task(material, slugs, config)
    return Job(slug=SHARED, member=member, paths=paths, config=config, shared=shared)


def write_job(job: Job, material: Material, force: bool = False, run: DrivenRun | None = None) -> Job:
    """Write the folder that `models.process.job.run_job` trains from; returns the job, marked when it is finished
    already.

    Where something was learnt with other settings it is refused; with `force` it stays until `replace_earlier` is
    called, and `run` is the one whose plan then has the new settings.
    """
    paths, payload = job.paths, _payload(job, material.dataset)
    loss = _loss(job, payload, force, run)
    if loss and not force:
        refuse_changes([loss])
    if loss:
        if not targets_are_whole(paths):  # how long it takes is estimated from them
            write_targets(paths, read_json(paths.config), material)
        return dataclasses.replace(job, replace_earlier=partial(_write_anew, job, material, run))
    if changed_settings(paths, payload, force):
        _write_anew(job, material)
    finished = is_finished(paths)
    if not finished:  # the upkeep may change at any time
        write_json(paths.config, as_reduced(payload, read_json(paths.config)) if paths.config.exists() else payload)
    if not paths.targets.exists() or not (finished or targets_are_whole(paths)):
        write_targets(paths, payload, material)
    config = job.config
    if paths.attempts.exists():  # its batch may have become smaller, for want of memory
        config = TrainConfig(**as_reduced(payload, read_json(paths.config))["config"])
    return dataclasses.replace(job, config=config, finished=finished)


def _as_before(config: TrainConfig, settings: Mapping[str, Any], paths: TargetPaths) -> TrainConfig:
    """Device, precision and recipe that the user left to us stay what they were: they are resolved once in a run.

    Only an unfinished training whose device is not here begins anew on the one that is, and a training that begins
    anew with other settings has the newest recipe.
    """
    if not paths.config.exists() or is_damaged(paths):
        return config
    before = TrainConfig(**as_wished(read_json(paths.config))["config"])
    if not is_finished(paths) and before.device != config.device:
        return config
    kept = {name: getattr(before, name) for name in ("device", "precision") if settings.get(name, "auto") == "auto"}
    config = dataclasses.replace(config, **kept)
    if "recipe_version" not in settings:
        same = dataclasses.replace(config, recipe_version=before.recipe_version)
        config = same if same.digest() == before.digest() else config
    return config


def chosen_targets(names: tuple[str, ...], labelled: list[str], catalog: Mapping[str, Pathology]) -> list[str]:
    """Slugs in the order asked for. Errors: an unknown name; a finding that the data set does not label."""
    if not names:
        slugs = [slug for slug in CHEXPERT_TARGETS if slug in labelled]
        if not slugs:
            raise InputError(
                "The data set labels none of CheXpert's twelve targets, so name with --targets what to train. "
                f"It labels: {', '.join(labelled)}."
            )
        return slugs
    slugs = list(dict.fromkeys(find_pathology(name, catalog).slug for name in names))
    absent = [slug for slug in slugs if slug not in labelled]
    if absent:
        raise InputError(
            f"The data set does not label {', '.join(absent)}: training on it would learn from nothing. "
            f"It labels: {', '.join(labelled)}."
        )
    return slugs


def resolved_config(
    pathology: Pathology,
    settings: Mapping[str, Any],
    member: int,
    device: str,
    tuned: Mapping[str, Any] | None = None,
    card: str = "bf16",
) -> TrainConfig:
    """Defaults, the finding's overrides, those of a search, the user's; nothing in it is left to be decided later.

    `device`, `card`: as in `plan_run`. Only where `card` is `auto` the precision is left to the training process.
    """
    try:
        config = build_config({"recipe_version": RECIPE_VERSION}, pathology.training, tuned or {}, settings)
        require_backbone(config.backbone)
    except ValueError as error:
        if not pathology.training:
            raise
        raise InputError(f"{error} (with the [training] table of {pathology.slug}.toml)") from error
    policy = LabelPolicy(
        uncertain=config.uncertain or pathology.policy.uncertain, blank=config.blank or pathology.policy.blank
    )
    config = dataclasses.replace(config, uncertain=policy.uncertain, blank=policy.blank)
    return _definite(config, member, device, card)


def _definite(config: TrainConfig, member: int, device: str, card: str) -> TrainConfig:
    """The member's seed, the device and the precision."""
    device = device if config.device == "auto" else config.device
    precision = config.precision
    if precision == "auto":
        precision = card if device.startswith("cuda") else cpu_precision()
    return dataclasses.replace(config, seed=config.seed + member, device=device, precision=precision)


def _payload(job: Job, dataset: Dataset) -> dict[str, Any]:
    manifest = dataset.manifest
    others = start_entry(job.config) | (job.shared.payload() if job.shared else {})
    return others | {
        "config": job.config.to_dict(),
        "target": job.slug,
        "member": job.member,
        "reference_contract": manifest["reference_contract"],
        "data": {name: manifest[name] for name in (*SAME_DATA, "size")},
    }


def _mended(job: Job, dataset: Dataset, planned: Mapping[str, Any] | None) -> Job:
    """The job; a damaged `config.json` is written again. `planned`: what `plan.json` says of the job."""
    if is_damaged(job.paths):
        job = dataclasses.replace(job, config=config_again(job.paths, job.config, planned))
        write_json(job.paths.config, _payload(job, dataset))
    return job


def _loss(job: Job, payload: Mapping[str, Any], force: bool, run: DrivenRun | None) -> Change | None:
    """What these settings would remove: something finished, or a training that has learnt already."""
    what, finished = changed_settings(job.paths, payload, force), is_finished(job.paths)
    if not what or not (finished or has_learnt(job.paths, run)):
        return None
    return Change(slug=job.slug, paths=job.paths, what=what, finished=finished)


def _write_anew(job: Job, material: Material, run: RunPaths | None = None) -> None:
    """A checkpoint of another configuration is no place to go on from: the job's folder is as if it were new."""
    remove_folder(job.paths.root)
    payload = _payload(job, material.dataset)
    write_json(job.paths.config, payload)
    write_targets(job.paths, payload, material)
    if run:
        write_plan(run, material.dataset, [job])


def require_same_data(run: RunPaths, dataset: Dataset) -> None:
    if not run.plan.exists():
        return
    changed = differing(read_json(run.plan)["data"], dataset.manifest)
    if changed:
        raise InputError(
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
    data = {name: manifest[name] for name in (*SAME_DATA, "size", "fold")}
    write_json(
        run.plan,
        {"format": "hilum-run/1", "dataset": address(dataset.paths.root), "data": data, "jobs": old | mine},
    )
