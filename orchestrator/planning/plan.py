"""The plan of a run: which (target, member) is trained on what and how, written before anything starts.

In: a prepared data set and what the user asked for. Out: a folder per job with `config.json` and `targets.npz`, and
`plan.json`. Called by the launcher. The labels of `calibrate` and `test` are not handed to any training.

With K folds a member is K networks: number m x K + k is member m without fold k, and its seed is the config's plus that
number, as without folds.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from models.config import RECIPE_VERSION, TrainConfig, build_config
from models.files.layout import RunPaths, TargetPaths, read_json, remove_folder, write_json
from orchestrator.datasets.dataset import SAME_DATA, Dataset, differing
from orchestrator.datasets.folds import fold_of_films
from orchestrator.datasets.labelled import Material, read_material
from orchestrator.planning.backbones import require_backbone, require_films
from orchestrator.planning.batch_backoff import as_reduced
from orchestrator.planning.changed_settings import Change, changed_settings, has_learnt, is_finished, refuse_changes
from orchestrator.planning.config_repair import config_again, is_damaged, read_planned, targets_are_whole
from orchestrator.planning.initial_weights import require_others, require_start
from orchestrator.planning.job_config import (
    Job,
    TrainRequest,
    as_before,
    definite,
    job_payload,
    resolved_config,
)
from orchestrator.planning.multilabel import SHARED, shared_task
from orchestrator.planning.recipe import (
    DECIDE,
    DECIDE_FOLDS,
    KEY,
    SHARED_START,
    Recipe,
    chooses_epochs,
    decided_recipe,
    write_folds,
)
from orchestrator.planning.shared_start import (
    LAST,
    Branch,
    branched,
    payload_digest,
    shared_findings,
    shared_settings,
    why_not,
)
from orchestrator.planning.target_files import write_targets
from orchestrator.planning.tuned_settings import tuned_settings
from orchestrator.ray_address import own_cluster
from orchestrator.storage.staging import address
from orchestrator.storage.workspace import DrivenRun
from pathologies.errors import InputError
from pathologies.findings.catalog import CHEXPERT_TARGETS, find_pathology
from pathologies.findings.pathology import Pathology

__all__ = ["Job", "TrainRequest", "plan_run", "resolved_config"]


MakeJobs = Callable[[TrainRequest, Recipe, Material, list[str]], list[Job]]


def plan_run(
    request: TrainRequest,
    device: str,
    card: str = "bf16",
    tell: Callable[[str], None] = lambda text: None,
    make_jobs: MakeJobs | None = None,
) -> list[Job]:
    """Write what every job needs and return the jobs, finished ones marked; a shared one before those it begins.

    `device`: what `auto` means here; `card`: what precision=auto means on its GPUs. `tell` gets a line where the recipe
    was left to be decided. `make_jobs`: jobs of another kind, in the place of the networks that are asked for.
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
    given = [request.settings, *request.member_settings.values()]
    recipe, planned = decided_recipe(request.start, request.folds, given, run, material), read_planned(run)
    if recipe.folds > 1:
        number = fold_of_films(material.dataset, recipe.folds, run.folds(recipe.folds))
        material = dataclasses.replace(material, folds={recipe.folds: number})
    if make_jobs:
        jobs = make_jobs(request, recipe, material, slugs)
    else:
        jobs = _asked_for(request, recipe, material, slugs, tuned, (device, card))
    here = request.inline or own_cluster(request.address)  # a cluster's machines may see files that this one does not
    for job in jobs:
        if not job.branch:
            require_others(job.config, job.paths.root)
        if job.memory is None and (request.force or not is_finished(job.paths)):  # before --force removes what is there
            require_films(job.config, material.dataset.manifest["size"], here)
            if here and not job.branch:
                require_start(job.config)
    jobs = [_mended(job, material.dataset, planned.get(job.name)) for job in jobs]
    if not request.force:
        refuse_changes(
            [change for job in jobs if (change := _loss(job, job_payload(job, material.dataset), False, run))]
        )
    if not make_jobs and request.start == DECIDE or request.folds == DECIDE_FOLDS:
        tell(recipe.told)
    write_folds(run, material)
    jobs = [write_job(job, material, request.force, run) for job in jobs]
    write_plan(
        run,
        material.dataset,
        [job for job in jobs if not job.replace_earlier],
        recipe=recipe,
        anew=request.force,
    )
    return jobs


def _asked_for(
    request: TrainRequest,
    recipe: Recipe,
    material: Material,
    slugs: list[str],
    tuned: Mapping[str, Mapping[str, Any]],
    machine: tuple[str, str],
) -> list[Job]:
    """The shared networks, then each finding's own. `machine`: device and card, as in `plan_run`."""
    run, folds = request.workspace.driven(request.out), recipe.folds
    from_shared = recipe.start == SHARED_START
    findings = shared_findings(run, material, slugs) if from_shared else slugs
    shared, own = [], []
    for number in range(request.members * folds):
        member, index = divmod(number, folds)
        settings = {**request.settings, **request.member_settings.get(member, {})}
        fold = {"index": index, "of": folds} if folds > 1 else None
        base = None
        if request.shared or from_shared:
            base = _shared_job(run.shared(number), number, settings, recipe, material, findings, machine)
            shared.append(dataclasses.replace(base, fold=fold))
            base = shared[-1] if from_shared else None
        for slug in () if request.shared else slugs:
            job = _own_job(run.target(slug, number), number, slug, settings, tuned.get(slug), recipe, material, machine)
            job = dataclasses.replace(job, fold=fold, untuned=bool(tuned) and slug not in tuned)
            job = _branch(job, base, settings, material) if base else job
            own.append(dataclasses.replace(job, config=as_before(job.config, settings, job.paths)))
    return shared + sorted(own, key=lambda job: slugs.index(job.slug))


def _shared_job(
    paths: TargetPaths,
    number: int,
    settings: Mapping[str, Any],
    recipe: Recipe,
    material: Material,
    slugs: list[str],
    machine: tuple[str, str],
) -> Job:
    """Its configuration is the defaults and the user's; an empty policy in it means each finding's own."""
    usual = {} if recipe.is_old else LAST
    if recipe.start == SHARED_START:
        settings = shared_settings(settings, settings.get("epochs", TrainConfig.epochs))
    config = build_config({"recipe_version": RECIPE_VERSION}, usual, settings)
    require_backbone(config.backbone)
    config = as_before(definite(config, number, *machine), settings, paths)
    folds = [{"index": index, "of": recipe.folds} for index in range(recipe.folds)] if recipe.folds > 1 else [None]
    return Job(
        slug=SHARED, member=number, paths=paths, config=config, shared=shared_task(material, slugs, config, folds)
    )


def _own_job(
    paths: TargetPaths,
    number: int,
    slug: str,
    settings: Mapping[str, Any],
    tuned: Mapping[str, Any] | None,
    recipe: Recipe,
    material: Material,
    machine: tuple[str, str],
) -> Job:
    """A finding's own network, from scratch."""
    device, card = machine
    config = resolved_config(material.catalog[slug], settings, number, device, tuned, card)
    choosing = chooses_epochs(config)
    if choosing and recipe.folds > 1:
        raise InputError(
            f"{choosing} of {slug} ({'--tuned' if tuned else f'{slug}.toml'}) chooses epochs by part select, and folds "
            "leave no such part. Leave it out, or add --folds 1."
        )
    if not choosing and not recipe.is_old:
        config = dataclasses.replace(config, **LAST)
    return Job(slug=slug, member=number, paths=paths, config=config)


def _branch(job: Job, shared: Job, settings: Mapping[str, Any], material: Material) -> Job:
    """The job, to go on from the shared one; with a remark where it cannot."""
    reason = why_not(job.slug, job.config, shared.config, shared.shared)
    if reason:
        return dataclasses.replace(job, remark=f"from scratch: {reason}")
    before = {} if is_damaged(shared.paths) or not shared.paths.config.exists() else read_json(shared.paths.config)
    digest = payload_digest(job_payload(shared, material.dataset), before)
    own = {**material.catalog[job.slug].training, **settings}
    return dataclasses.replace(
        job,
        config=branched(job.config, shared.config, shared.name, own),
        branch=Branch(source=shared.name, task=shared.shared, digest=digest),
    )


def write_job(job: Job, material: Material, force: bool = False, run: DrivenRun | None = None) -> Job:
    """Write the folder that `models.process.job.run_job` trains from; returns the job, marked when it is finished
    already.

    Where something was learnt with other settings it is refused; with `force` it stays until `replace_earlier` is
    called, and `run` is the one whose plan then has the new settings.
    """
    paths, payload = job.paths, job_payload(job, material.dataset)
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


def _mended(job: Job, dataset: Dataset, planned: Mapping[str, Any] | None) -> Job:
    """The job; a damaged `config.json` is written again. `planned`: what `plan.json` says of the job."""
    if is_damaged(job.paths):
        job = dataclasses.replace(job, config=config_again(job.paths, job.config, planned))
        write_json(job.paths.config, job_payload(job, dataset))
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
    payload = job_payload(job, material.dataset)
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


def write_plan(
    run: RunPaths,
    dataset: Dataset,
    jobs: list[Job],
    gone: tuple[str, ...] = (),
    recipe: Recipe | None = None,
    anew: bool = False,
) -> None:
    """`plan.json` names all targets and members of the run, those of earlier commands too, except for `gone`.

    The recipe is that of the run's first training; another takes its place only `anew`.
    """
    stored = read_json(run.plan) if run.plan.exists() else {"jobs": {}}
    old = {name: entry for name, entry in stored["jobs"].items() if name not in gone}
    kept = {KEY: stored[KEY]} if KEY in stored else {}
    if recipe and (anew or not stored["jobs"]):
        kept = {} if recipe.is_old else {KEY: recipe.to_dict()}
    mine = {
        job.name: {"threads": job.config.threads, "precision": job.config.precision, "device": job.config.device,
                   "config": job.config.digest()}
        for job in jobs
    }  # fmt: skip
    manifest = dataset.manifest
    data = {name: manifest[name] for name in (*SAME_DATA, "size", "fold")}
    plan = {"format": "hilum-run/1", "dataset": address(dataset.paths.root), "data": data, "jobs": old | mine}
    write_json(run.plan, plan | kept)
