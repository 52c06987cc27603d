"""Members into one multi-label predictor: combine, calibrate, choose operating points, pack the bundle.

In: a RUN with stored predictions, and the data set it was trained on. Out: a BUNDLE folder, `bundle.json` last. Works
on the logits of part `calibrate` alone; the networks run for the self-test, and over `calibrate` where test-time
augmentation is asked for. Called by `hilum ensemble`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.files.layout import BundlePaths, RunPaths, read_json
from orchestrator.datasets.dataset import Dataset, differing
from orchestrator.datasets.labelled import Material, read_material
from orchestrator.ensembling.bundle_writing import check_goal, finish, new_bundle
from orchestrator.ensembling.calibration_fit import FitSettings, fit_findings
from orchestrator.ensembling.logit_tables import asked_table, group_facts, held_out_films, mean_logits, member_table
from orchestrator.ensembling.members import Trained, columns_of, copy_weights, finished_targets, taught_prior
from orchestrator.ensembling.pipeline import CalibrationData
from orchestrator.inference.bundle_description import files_of, format_of
from orchestrator.storage.workspace import Workspace
from pathologies.errors import InputError
from pathologies.findings.catalog import CHEXPERT_TARGETS, descendants, find_pathology
from pathologies.findings.pathology import Pathology

__all__ = ["EnsembleRequest", "Trained", "build_bundle", "finished_targets", "mean_logits"]


@dataclass(frozen=True, kw_only=True)
class NetworksRequest:
    """Which networks of a run become part of a bundle."""

    run: Path
    out: Path
    dataset: Path | None = None  # none: the one that the run was planned on
    targets: tuple[str, ...] = ()
    findings: Path | None = None
    tta: bool = False  # test-time augmentation: every network is a second member that looks at copies of the film
    snapshots: bool = True  # further weights of each training, where it kept some, are members too
    use: str = "both"  # a finding's own networks, its columns of shared ones, or both, where both are there
    force: bool = False  # also in the place of an adapted bundle
    settings: FitSettings = FitSettings()
    workspace: Workspace = field(default_factory=Workspace, compare=False)  # in which the folders were opened


@dataclass(frozen=True, kw_only=True)
class EnsembleRequest(NetworksRequest):
    consistency: bool = False  # raise every parent to its likeliest child, as the last step


def build_bundle(request: EnsembleRequest) -> dict[str, Any]:
    """Write the bundle and return its description. Errors: no finished target; a data set that is not the run's.

    After an error, and until the new bundle is complete, what was at `out` is as it was.
    """
    run = RunPaths(request.run)
    check_goal(request.out, run.root, request.force)
    material = run_material(run, request.dataset, request.findings, request.workspace)
    trained, left_out = trained_members(run, request.targets, material.catalog, request.snapshots, request.use)
    order = [slug for slug in (*CHEXPERT_TARGETS, *material.catalog) if slug in trained]
    trained = {slug: trained[slug] for slug in dict.fromkeys(order)}
    with new_bundle(request.out) as out:
        models, tables = {}, {}
        for slug, members in trained.items():
            models[slug], tables[slug] = pack_members(members, out, material.dataset, request.tta)
        calibration_data = make_calibration_data(tables, material)
        parents = {slug: material.catalog[slug].parents for slug in trained}
        fitted = fit_findings(
            calibration_data, parents=parents if request.consistency else None, settings=request.settings
        )
        findings = {}
        for position, slug in enumerate(trained):
            entry = {"position": position, "name": material.catalog[slug].name, "parents": list(parents[slug])}
            findings[slug] = (
                entry | fitted[slug] | trained_facts(trained[slug], fitted[slug]) | {"models": models[slug]}
            )
        add_consumed(findings, request.consistency)
        description = _describe(material.dataset, findings, left_out)
        description["run"] = request.workspace.path_from(request.out, run.root)
        return finish(description | {"consistency": request.consistency}, out)


def run_material(
    run: RunPaths, dataset: Path | None = None, findings: Path | None = None, workspace: Workspace | None = None
) -> Material:
    """The run's data set, where it is now or at `dataset`. Errors: not a run; a data set that is not the run's."""
    plan = read_json(run.plan) if run.plan.exists() else None
    if plan is None:
        raise FileNotFoundError(f"{run.root} is not a run: it has no plan.json. Make one with `hilum train`.")
    folder = (workspace or Workspace()).read_dataset(dataset or plan["dataset"])
    if not folder.is_dir():
        raise FileNotFoundError(f"The run's data set is not at {folder} any more. Say where it is with --dataset.")
    material = read_material(folder, findings)
    changed = differing(plan["data"], material.dataset.manifest, plan["data"])
    if changed:
        raise InputError(f"{folder} is not the data set of {run.root}: {', '.join(changed)} differ.")
    return material


def trained_members(
    run: RunPaths,
    targets: tuple[str, ...],
    catalog: Mapping[str, Pathology],
    snapshots: bool = False,
    use: str = "both",
) -> tuple[dict[str, list[Trained]], dict[str, str]]:
    """`finished_targets` of the findings that are asked for by name. Errors: an unknown name; none finished."""
    wanted = tuple(find_pathology(name, catalog).slug for name in targets)
    trained, left_out = finished_targets(run, wanted, snapshots, use)
    unknown = [slug for slug in trained if slug not in catalog]
    if unknown:
        raise InputError(f"No pathology file describes {', '.join(unknown)}. Say where it lies with --findings.")
    return trained, left_out


def pack_members(
    members: list[Trained], out: BundlePaths, dataset: Dataset, tta: bool
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Copy the weights into the bundle; returns `models` and the table of their logits on `calibrate`."""
    columns, table = columns_of(members), member_table(members, "calibrate")
    models = [
        copy_weights(one, out) | group_facts(one, group) for group, column in enumerate(columns) for one in column
    ]
    if tta:
        again = [{"group": model["group"] + len(columns)} if "group" in model else {} for model in models]
        copies = [model | {"copies": True} | group for model, group in zip(models, again, strict=True)]
        held_out = [held_out_films(one) if one.fold else table.index for column in columns for one in column]
        table = pd.concat([table, asked_table(copies, out.root, dataset, table.index, held_out)], axis=1)
        models = models + copies
    return models, table


def make_calibration_data(tables: Mapping[str, pd.DataFrame], material: Material) -> dict[str, CalibrationData]:
    """The data of every finding; stacking is offered over the findings whose networks take the same films."""
    means = {slug: table.mean(axis=1) for slug, table in tables.items()}
    calibration_data = {}
    for slug, table in tables.items():
        films = table.index
        inputs = (slug, *[other for other in tables if other != slug and tables[other].index.equals(films)])
        calibration_data[slug] = CalibrationData(
            columns=table.to_numpy(float),
            truth=material.truth(slug).reindex(films).to_numpy(float),
            patients=material.patients.reindex(films).to_numpy(str),
            findings=np.column_stack([means[one].to_numpy() for one in inputs]),
            inputs=inputs,
        )
    return calibration_data


def trained_facts(members: list[Trained], fitted: Mapping[str, Any]) -> dict[str, Any]:
    """What the entry says of how the networks were taught."""
    counts, config = fitted["counts"], members[0].config
    share = counts["positives"] / counts["films"] if counts["films"] else float("nan")
    return {
        "training_contract": {"uncertain": config["uncertain"], "blank": config["blank"]},
        "prior": [
            {"member": one.member} | ({"shared": True} if one.outputs else {}) | taught_prior(one, share)
            for one in members
            if not one.snapshot
        ],
    }


def add_consumed(findings: dict[str, dict[str, Any]], consistency: bool, only: Sequence[str] | None = None) -> None:
    """Write into each entry (of `only`; none: all) which weight files its answer depends on."""
    own = {slug: {file for model in entry["models"] for file in files_of(model)} for slug, entry in findings.items()}
    blended = {
        slug: set().union(*[own[one] for one in (entry["blend"].get("inputs") or [slug])])
        for slug, entry in findings.items()
    }
    parents = {slug: entry["parents"] for slug, entry in findings.items()}
    for slug in findings if only is None else only:
        below = descendants(slug, parents) if consistency else []
        findings[slug]["consumes"] = sorted(set().union(*[blended[one] for one in (slug, *below)]))


def _describe(dataset: Dataset, findings: dict[str, Any], left_out: dict[str, str]) -> dict[str, Any]:
    manifest = dataset.manifest
    views = sorted({model["views"] for entry in findings.values() for model in entry["models"]})
    return {
        "format": format_of(findings),
        "input": {
            "size": manifest["size"],
            "letterbox": manifest["letterbox"],
            "intensity": manifest["intensity"],
            "pixel_mean": manifest["pixel_mean"],
            "pixel_std": manifest["pixel_std"],
            "views": views,
        },
        "reference_contract": manifest["reference_contract"],
        "data": {name: manifest[name] for name in ("images_sha256", "labels_sha256", "split_hash", "source", "fold")},
        "made_with": made_with(),
        "findings": findings,
        "left_out": left_out,
    }


def made_with() -> dict[str, str]:
    return {name: _version(name) for name in ("hilum", "torch", "timm", "numpy")}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # hilum as a plain checkout, which a Ray job's working_dir is
        return "not installed"
