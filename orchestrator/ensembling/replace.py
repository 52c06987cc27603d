"""One finding of a bundle replaced by newly trained networks, the others left as they are to the byte.

In: a BUNDLE, and a RUN on the same data set that has the new networks. Out: a new BUNDLE whose `replaced` says what
changed. Called by `hilum ensemble --replace`. Findings whose answer depends on the replaced one, by stacking or by
consistency, are named, and fitted again only if that is asked for.
"""

import dataclasses
import shutil
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.files.layout import BundlePaths, RunPaths, publishing, read_json
from models.statistics.blending import LEARNED, Blend
from models.statistics.bootstrap import PatientBootstrap, paired_difference
from orchestrator.datasets.dataset import ALIKE, differing, hash_file
from orchestrator.datasets.labelled import Material, usable_views
from orchestrator.ensembling import build
from orchestrator.ensembling.bundle_writing import check_goal, finish, new_bundle
from orchestrator.ensembling.calibration_fit import FitSettings, fit_findings
from orchestrator.ensembling.logit_tables import bundled_table
from orchestrator.ensembling.members import Trained
from orchestrator.ensembling.pipeline import CalibrationData
from orchestrator.formatting import number, signed
from orchestrator.inference.bundle import load_bundle
from orchestrator.inference.bundle_description import files_of, format_of
from orchestrator.storage.workspace import Workspace
from pathologies.errors import InputError
from pathologies.findings.catalog import descendants, find_pathology


@dataclass(frozen=True, kw_only=True)
class ReplaceRequest(build.NetworksRequest):
    """`targets`: what is replaced; `run` has the new networks."""

    bundle: Path
    refit_dependents: bool = False


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a replacement works on."""

    old: dict[str, Any]
    source: BundlePaths
    out: Path
    run: RunPaths
    material: Material
    trained: dict[str, list[Trained]]  # of the findings to replace
    dependants: list[str]
    workspace: Workspace

    @property
    def kept(self) -> list[str]:
        """Findings whose networks stay; the dependants among them are fitted again."""
        return [slug for slug in self.old["findings"] if slug not in self.trained]

    @property
    def changed(self) -> list[str]:
        return [*self.trained, *self.dependants]


def replace_findings(request: ReplaceRequest) -> dict[str, Any]:
    """Write the new bundle and return its description. After an error what was at `out` is as it was."""
    parts, left_out = _gather(request)
    with new_bundle(request.out) as out:
        for slug in parts.kept:
            for model in parts.old["findings"][slug]["models"]:
                for file in files_of(model):
                    _copy(parts.source.root / file, out.root / file)
        packed = {
            slug: build.pack_members(members, out, parts.material.dataset, request.tta)
            for slug, members in parts.trained.items()
        }
        fitted, calibration_data = _fit(parts, {slug: table for slug, (_, table) in packed.items()}, request.settings)
        findings = dict(sorted(parts.old["findings"].items(), key=lambda item: item[1]["position"]))
        for slug in parts.changed:
            findings[slug] = {name: findings[slug][name] for name in _LASTING if name in findings[slug]} | fitted[slug]
            if slug in parts.trained:
                facts = build.trained_facts(parts.trained[slug], fitted[slug])
                findings[slug] |= facts | {"models": packed[slug][0]}
        build.add_consumed(findings, _consistency(parts.old), parts.changed)
        report = _report(parts, findings, calibration_data)
        description = _describe(parts, findings, left_out) | {"replaced": report}
        return finish(description, out, _kept_answers(parts, report["unchanged"]))


_LASTING = ("position", "name", "parents", "models", "training_contract", "prior")


def dependants_of(description: Mapping[str, Any], slugs: list[str], kept: Set[str] = frozenset()) -> dict[str, str]:
    """The other findings that consume a model of `slugs`, each with the way in which it does.

    `kept`: SHA-256 of networks that stay with `slugs`. A shared network among them is the same for all its findings;
    one that `slugs` give up leaves the others with a network that was chosen together with them.
    """
    findings = description["findings"]
    lost = [model for slug in slugs for model in findings[slug]["models"] if model["sha256"] not in kept]
    files = {model["file"] for model in lost}
    found = {}
    for slug, entry in findings.items():
        own = {model["file"] for model in entry["models"]}
        if slug in slugs or not files & (set(entry.get("consumes", ())) | own):
            continue
        if files & own:
            found[slug] = "a shared network"
        else:
            found[slug] = "stacking" if set(entry["blend"].get("inputs", ())) & set(slugs) else "consistency"
    return found


def replacement_table(description: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(titles, rows of text): what changed, on part calibrate, cross-validated."""
    rows = []
    for slug, one in description["replaced"]["findings"].items():
        cells = [slug, one["role"]]
        for name in ("auc", "ece", "sensitivity", "specificity"):
            cells.append(" -> ".join(number(one[when].get(name)) for when in ("before", "after")))
        gain = one.get("auc_gain")
        rows.append([*cells, signed(**gain) if gain else ""])
    titles = ["on part calibrate", "", "AUC", "ECE", "sensitivity", "specificity", "AUC gain, same films"]
    return titles, rows


def _gather(request: ReplaceRequest) -> tuple[Parts, dict[str, str]]:
    old = dict(load_bundle(request.bundle, "cpu").description)
    if not request.targets:
        raise InputError(f"Say with --targets what to replace. The bundle has: {', '.join(old['findings'])}.")
    if old.get("adapted"):
        raise InputError(
            f"{request.bundle} was adapted to local films, on which a new finding cannot be fitted here. "
            "Replace it in the bundle that was adapted, then adapt the result."
        )
    if request.out.resolve() == request.bundle.resolve():
        raise InputError("--out is the bundle itself. Give a folder of its own.")
    run = RunPaths(request.run)
    check_goal(request.out, run.root, request.force)
    material = build.run_material(run, request.dataset, request.findings, request.workspace)
    slugs = list(dict.fromkeys(find_pathology(name, material.catalog).slug for name in request.targets))
    absent = [slug for slug in slugs if slug not in old["findings"]]
    if absent:
        raise InputError(f"The bundle has no {', '.join(absent)} to replace. It has: {', '.join(old['findings'])}.")
    _require_same_data(old, material)
    trained, left_out = build.trained_members(run, tuple(slugs), material.catalog, request.snapshots, request.use)
    kept = {hash_file(one.weights) for slug in slugs for one in trained[slug] if one.outputs}
    dependants = dependants_of(old, slugs, kept)
    if dependants and not request.refit_dependents:
        ways = ", ".join(f"{slug} (by {way})" for slug, way in dependants.items())
        raise InputError(
            f"The answers of other findings depend on {', '.join(slugs)}: {ways}. "
            "Give --refit-dependents to fit these again, or name them in --targets too."
        )
    parts = Parts(
        old=old,
        source=BundlePaths(request.bundle),
        out=request.out,
        run=run,
        material=material,
        trained={slug: trained[slug] for slug in slugs},
        dependants=list(dependants),
        workspace=request.workspace,
    )
    return parts, left_out


def _require_same_data(old: Mapping[str, Any], material: Material) -> None:
    manifest = material.dataset.manifest
    changed = differing(old["data"], manifest, old["data"]) + differing(old, manifest, ("reference_contract",))
    changed += differing(old["input"], manifest, ALIKE)
    if changed:
        raise InputError(
            f"The run's data set is not the one that the bundle was made on: {', '.join(changed)} differ. "
            "Train the new networks on that one, or make a bundle of the run alone."
        )


def _fit(
    parts: Parts, tables: dict[str, pd.DataFrame], settings: FitSettings
) -> tuple[dict[str, dict], dict[str, CalibrationData]]:
    """Fit the changed findings; the others enter, with what was chosen for them, where an answer depends on them."""
    consistency = _consistency(parts.old)
    parents = {slug: entry["parents"] for slug, entry in parts.old["findings"].items()}
    entangled = parts.dependants or (consistency and any(descendants(slug, parents) for slug in parts.trained))
    known = {}
    for slug in parts.old["findings"]:
        if slug in tables:
            known[slug] = tables[slug]
        elif entangled:
            known[slug] = _old_table(parts, slug)
    calibration_data = build.make_calibration_data(known, parts.material)
    for slug, data in calibration_data.items():
        entry = parts.old["findings"][slug]
        if slug in parts.trained or (slug in parts.dependants and not entry["blend"].get("inputs")):
            data = dataclasses.replace(data, inputs=())  # it stands on its own, and stays so
        elif slug not in parts.dependants:
            chosen = (entry["calibration"]["method"],)
            # "prior" is what a fit fell back to for want of cases, and will fall back to again
            chosen = ("platt",) if chosen == ("prior",) else chosen
            data = dataclasses.replace(data, offered=(entry["combine"],), calibrations=chosen)
        calibration_data[slug] = data
    fitted = fit_findings(
        calibration_data, parents=parents if consistency else None, wanted=parts.changed, settings=settings
    )
    return fitted, calibration_data


def _old_table(parts: Parts, slug: str) -> pd.DataFrame:
    """The old networks' logits on the films that they were fitted on: of the finding's views, of part `calibrate`.

    Networks of folds were fitted on all parts but test.
    """
    entry, dataset, frame = parts.old["findings"][slug], parts.material.dataset, parts.material.frame
    where, model = dataset.parts(), entry["models"][0]
    fitted = (where != "test") if "group" in model else (where == "calibrate")
    chosen = fitted & usable_views(frame, model["views"])
    films = pd.Index(frame["image_id"][chosen], name="image_id").sort_values()
    return bundled_table(entry, parts.source, RunPaths(_run_of(parts, slug)), dataset, films)


def _run_of(parts: Parts, slug: str) -> Path:
    return parts.source.root / parts.old.get("runs", {}).get(slug, parts.old["run"])


def _describe(parts: Parts, findings: dict[str, Any], left_out: dict[str, str]) -> dict[str, Any]:
    """The old description with the new entries; paths of runs are those from the new folder."""

    def from_here(run: str) -> str:
        return parts.workspace.path_carried_over(run, parts.source.root, parts.out)

    runs = {slug: from_here(run) for slug, run in parts.old.get("runs", {}).items()}
    runs |= dict.fromkeys(parts.trained, parts.workspace.path_from(parts.out, parts.run.root))
    views = sorted({model["views"] for entry in findings.values() for model in entry["models"]})
    kept = {name: why for name, why in parts.old["left_out"].items() if name.partition("/")[0] not in parts.trained}
    return parts.old | {
        "format": format_of(findings),
        "findings": findings,
        "input": parts.old["input"] | {"views": views},
        "run": from_here(parts.old["run"]),
        "runs": runs,  # of the findings that are not of `run`
        "left_out": kept | left_out,
        "made_with": build.made_with(),
    }


def _report(
    parts: Parts, findings: Mapping[str, Any], calibration_data: Mapping[str, CalibrationData]
) -> dict[str, Any]:
    changed = {}
    for slug in parts.changed:
        before, after = parts.old["findings"][slug], findings[slug]
        changed[slug] = {
            "role": "replaced" if slug in parts.trained else "fitted again",
            "before": before["cross_validated"],
            "after": after["cross_validated"],
            "auc_gain": _gain(parts, slug, calibration_data[slug], after) if slug in parts.trained else None,
        }
    return {
        "findings": changed,
        "unchanged": [slug for slug in findings if slug not in parts.changed],
        "bundle_sha256": hash_file(parts.source.bundle),
    }


def _gain(parts: Parts, slug: str, data: CalibrationData, after: Mapping[str, Any]) -> dict[str, float] | None:
    """AUC of the new score minus that of the old one, paired; None where a blend was fitted on these very films."""
    before = parts.old["findings"][slug]
    blends = [Blend.from_dict(entry.get("blend") or {"method": entry["combine"]}) for entry in (before, after)]
    if any(blend.method in LEARNED for blend in blends):
        return None
    table = _old_table(parts, slug)
    known = ~np.isnan(data.truth)
    if len(table) != len(known) or len(np.unique(data.truth[known])) < 2:
        return None
    bootstrap = PatientBootstrap(data.patients[known])
    new, old = data.score(blends[1])[known], blends[0].apply(table)[known]
    return paired_difference(bootstrap, new, old, data.truth[known]).bounds


def _kept_answers(parts: Parts, unchanged: list[str]) -> dict[str, dict[str, Any]]:
    """The expected answers of unchanged findings are taken over as they were."""
    stored = read_json(parts.source.selftest / "expected.json")
    return {name: {slug: stored[name][slug] for slug in unchanged} for name in ("logits", "probabilities")}


def _copy(source: Path, goal: Path) -> None:
    if goal.exists():  # two findings may share a file
        return
    with publishing(goal) as temporary:
        shutil.copyfile(source, temporary)


def _consistency(description: Mapping[str, Any]) -> bool:
    return bool(description.get("consistency", False))
