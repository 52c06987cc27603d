"""Score a bundle on a part of a prepared data set: the table, as text and CSV, and a picture per finding.

In: BUNDLE, DATASET, a part. Out: `metrics.csv`, `table.txt`, `report.json`, `predictions.csv`, `overview.png`, one PNG
per finding, `conformal.csv` where the bundle has zones, and `uncertain.csv` where labels are uncertain. Called by
`hilum evaluate`. Every reading of the test part's labels is logged in `test_reads.jsonl` of the run, or of the bundle
where the run is not at hand.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.files.layout import BundlePaths, RunPaths, read_json_lines, to_plain, write_json, write_text
from models.statistics.metrics import sigmoid
from orchestrator.datasets.dataset import ALIKE, Dataset, differing, hash_file
from orchestrator.datasets.labelled import Material, read_material, usable_views
from orchestrator.evaluation.conformal_coverage import coverage_notes, coverage_table, measure_coverage
from orchestrator.evaluation.plots import FindingCurves, draw_finding, draw_overview
from orchestrator.evaluation.scoring import (
    EvaluationSettings,
    Report,
    evaluate_predictions,
    report_frame,
    report_notes,
    report_table,
)
from orchestrator.evaluation.uncertain_labels import READINGS, measure_uncertain, uncertain_notes, uncertain_table
from orchestrator.formatting import aligned, span, write_csv
from orchestrator.inference.aggregation import aggregate_ids, aggregate_scores, aggregate_truth
from orchestrator.inference.bundle import Bundle, load_bundle
from orchestrator.inference.decisions import find_slug, prediction_frame, threshold_notes, thresholds_of
from orchestrator.inference.films import BATCH
from orchestrator.inference.identity import LEVELS
from orchestrator.storage.object_store import is_remote, join
from orchestrator.storage.staging import address
from orchestrator.storage.workspace import append_line
from pathologies.errors import InputError
from pathologies.labels.contract import LabelContract
from pathologies.sources.registry import read_labels
from pathologies.splits.assignment import PARTS

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    bundle: Path
    dataset: Path
    part: str = "test"
    truth: Path | None = None  # a label file of the data set's source, scored against instead of its own labels
    out: Path | None = None
    level: str = "image"  # study, patient: one answer for all films of one
    operating_point: str | None = None  # a rule that the bundle stores; none: each finding's own
    targets: tuple[str, ...] = ()  # none: all findings of the bundle that are labelled
    resamples: int = 1000  # of the patients, for the intervals
    device: str = "auto"
    findings: Path | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    report: Report
    table: tuple[list[str], list[list[str]]]
    notes: list[str]
    folder: Path
    conformal: tuple[list[str], list[list[str]]] | None = None  # the coverage of the zones, where there are any
    uncertain: tuple[list[str], list[list[str]]] | None = None  # what such labels could change
    data: Mapping[str, Any] = field(default_factory=dict)  # all of it, as in report.json


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The films of a part: what the bundle says and what the labels say, row by row."""

    frame: pd.DataFrame
    logits: np.ndarray  # films x findings
    probability: np.ndarray
    truth: pd.DataFrame  # a column per finding that is labelled; 1, 0, NaN
    readings: Mapping[str, pd.DataFrame]  # the same with uncertain labels read as absent, as present
    unit: str = "films"  # or studies, patients
    notes: list[str] = field(default_factory=list)


def evaluate(request: EvaluateRequest) -> EvaluateResult:
    """Score, write and return. Errors: InputError / FileNotFoundError before anything is written."""
    if request.part not in PARTS:
        raise InputError(f"Unknown part {request.part!r}. Parts: {', '.join(PARTS)}.")
    if request.level not in LEVELS:
        raise InputError(f"Unknown level {request.level!r}. Known: {', '.join(LEVELS)}.")
    bundle = load_bundle(request.bundle, request.device)
    findings = bundle.description["findings"]
    thresholds = thresholds_of(findings, request.operating_point)
    wanted = [find_slug(name, bundle.slugs) for name in request.targets]
    scored = score_part(bundle, read_material(request.dataset, request.findings), request)
    if wanted:
        readings = {name: _only(truth, wanted) for name, truth in scored.readings.items()}
        scored = replace(scored, truth=_only(scored.truth, wanted), readings=readings)
    if request.level != "image":
        scored = _aggregate(scored, request.level)
    probability = pd.DataFrame(scored.probability, columns=bundle.slugs)[list(scored.truth.columns)]
    patients, settings = scored.frame["patient_id"], EvaluationSettings(resamples=request.resamples)
    report = evaluate_predictions(probability, scored.truth, patients, thresholds, settings)
    covered = measure_coverage(probability, scored.truth, patients, findings, settings)
    table = report_table(report)
    doubted = measure_uncertain(probability, scored.truth, scored.readings)
    notes = [*scored.notes, *report_notes(report), *uncertain_notes(doubted), *coverage_notes(covered)]
    notes.append(bundle.identity_note)
    notes += threshold_notes(findings, list(scored.truth.columns), request.operating_point)
    folder = request.out or bundle.paths.root.with_name(f"{bundle.paths.root.name}-{request.part}")
    conformal = coverage_table(covered) if len(covered) else None
    uncertain = uncertain_table(doubted) if len(doubted) else None
    asked = {"part": request.part, "level": request.level, "operating_point": request.operating_point}
    further = {"conformal": covered.to_dict("records"), "uncertain": to_plain(doubted.to_dict("records"))}
    data = report.to_dict() | bundle.identity | asked | further | {"notes": notes}
    _write(folder, report, data, [table, *[one for one in (uncertain, conformal) if one]])
    predictions = prediction_frame(bundle.slugs, scored.frame["image_id"].tolist(), scored.probability, thresholds)
    for name, frame in {"predictions": predictions, "conformal": covered, "uncertain": doubted}.items():
        if len(frame):
            write_csv(frame, folder / f"{name}.csv")
    _draw(folder, bundle, scored, report, thresholds)
    return EvaluateResult(
        report=report, table=table, notes=notes, folder=folder, conformal=conformal, uncertain=uncertain, data=data
    )


def _only(truth: pd.DataFrame, wanted: list[str]) -> pd.DataFrame:
    missing = [slug for slug in wanted if slug not in truth]
    if missing:
        raise InputError(f"The labels do not have {', '.join(missing)}. They have: {', '.join(truth.columns)}.")
    return truth[wanted]


def _aggregate(scored: Scored, level: str) -> Scored:
    """One row per study or patient: the mean log odds of its films; present if any film is labelled so."""
    groups = scored.frame[f"{level}_id"].to_numpy()
    patients = aggregate_ids(scored.frame["patient_id"], groups)
    logits = pd.DataFrame(scored.logits).groupby(groups, sort=True).mean()
    return Scored(
        frame=pd.DataFrame({"image_id": patients.index.to_numpy(), "patient_id": patients.to_numpy()}),
        logits=logits.to_numpy(float),
        probability=aggregate_scores(pd.DataFrame(scored.probability), groups).to_numpy(float),
        truth=aggregate_truth(scored.truth, groups).reset_index(drop=True),
        readings={
            name: aggregate_truth(truth, groups).reset_index(drop=True) for name, truth in scored.readings.items()
        },
        unit={"study": "studies", "patient": "patients"}[level],
        notes=[
            *scored.notes,
            f"A row is a {level}: the mean log odds of its films, {len(groups)} in all; thresholds and zones are those "
            "of films.",
        ],
    )


def score_part(bundle: Bundle, material: Material, request: EvaluateRequest) -> Scored:
    """Run the networks on the part's films and look up its labels."""
    dataset, frame = material.dataset, material.frame
    notes = _check_fit(bundle, dataset, request.part)
    chosen = material.parts == request.part
    views = bundle.description["input"]["views"]
    chosen &= np.any([usable_views(frame, view) for view in views], axis=0)
    if not chosen.any():
        raise InputError(f"The part {request.part!r} has no film of the bundle's views ({', '.join(views)}).")
    rows = np.flatnonzero(chosen)
    images = dataset.images()
    logits = np.concatenate([bundle.logits(images[rows[at : at + BATCH]]) for at in range(0, len(rows), BATCH)])
    if request.part == "test":
        _log_reading(bundle, dataset, request)
    frame = frame.iloc[rows].reset_index(drop=True)
    truth, readings, absent = _truth(bundle, material, frame, request)
    if absent:
        notes.append(f"Not labelled by this data set, so not scored: {', '.join(absent)}.")
    probability = bundle.calibrate(logits)
    return Scored(frame=frame, logits=logits, probability=probability, truth=truth, readings=readings, notes=notes)


def _check_fit(bundle: Bundle, dataset: Dataset, part: str) -> list[str]:
    contract, manifest = bundle.description["input"], dataset.manifest
    for name in differing(contract, manifest, ALIKE):
        taken, given = contract[name], manifest[name]
        if name == "intensity":
            name, taken, given = "intensity contract", taken.get("version"), given.get("version")
        raise InputError(
            f"The bundle takes films with {name} {taken}, the data set has {given}. "
            f"Prepare it again with --size {contract['size']} --intensity {contract['intensity']['version']}."
        )
    same = not differing(manifest, bundle.description["data"], ("images_sha256", "split_hash"))
    if same and part != "test":
        return [f"The part {part!r} had a share in making this bundle: these figures flatter it."]
    return [] if same else ["These are films of another data set than the bundle was made on."]


def _truth(
    bundle: Bundle, material: Material, frame: pd.DataFrame, request: EvaluateRequest
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame], list[str]]:
    """Labels under the data set's reference contract, the same under READINGS, and the findings that have none."""
    if request.truth is not None:
        other = read_labels(
            material.dataset.manifest["source"], request.truth, catalog=material.catalog
        ).frame.set_index("image_id")
        missing = [name for name in frame["image_id"] if name not in other.index]
        if missing:
            raise InputError(
                f"{request.truth} has no row for {len(missing)} of {len(frame)} films, first {missing[0]!r}. "
                "Is it the truth of this data set?"
            )
        frame = other.loc[frame["image_id"]].reset_index()
    labelled = [slug for slug in bundle.slugs if slug in frame.columns]
    if not labelled:
        raise InputError(f"The labels know none of the bundle's findings ({', '.join(bundle.slugs)}).")

    def resolved(under: LabelContract) -> pd.DataFrame:
        return pd.DataFrame({slug: material.truth(slug, under, frame).to_numpy() for slug in labelled})

    contract = material.reference_contract
    readings = {name: resolved(_read_as(contract, policy)) for name, policy in READINGS.items()}
    return resolved(contract), readings, [slug for slug in bundle.slugs if slug not in labelled]


def _read_as(contract: LabelContract, uncertain: str) -> LabelContract:
    """The contract with every uncertain label read alike."""
    policies = {slug: replace(policy, uncertain=uncertain) for slug, policy in contract.policies.items()}
    return replace(contract, policies=policies)


def _log_reading(bundle: Bundle, dataset: Dataset, request: EvaluateRequest) -> None:
    """Before the labels are looked at: a reading that crashes has been a reading."""
    append_line(
        _log_of(bundle),
        {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": "evaluate",
            "bundle": Path(address(bundle.paths.root)).name,
            "bundle_sha256": hash_file(bundle.paths.bundle),
            "split_hash": dataset.manifest["split_hash"],
            "truth": request.truth.name if request.truth else None,
        },
    )


def _log_of(bundle: Bundle) -> Path | str:
    run = run_of(bundle.paths, bundle.description)
    if run:
        return run.test_reads
    recorded = bundle.description["run"]
    place = recorded if is_remote(recorded) else address(bundle.paths.root)
    return join(place, RunPaths(Path()).test_reads.name)


def run_of(paths: BundlePaths, description: Mapping[str, Any], slug: str = "") -> RunPaths | None:
    """The run that a bundle, or one replaced finding of it, was made of, while it is still where it was."""
    run = RunPaths(paths.root / description.get("runs", {}).get(slug, description["run"]))
    return run if run.plan.exists() else None


def _write(folder: Path, report: Report, data: dict[str, Any], tables: list) -> None:
    notes = data["notes"]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", data)
    write_text(folder / "table.txt", "\n\n".join([*[aligned(*table) for table in tables], "\n".join(notes)]) + "\n")
    write_csv(report_frame(report), folder / "metrics.csv")


def _draw(folder: Path, bundle: Bundle, scored: Scored, report: Report, thresholds: Mapping[str, float | None]) -> None:
    names = {slug: entry["name"] for slug, entry in bundle.description["findings"].items()}
    draw_overview(report, folder / "overview.png", names, scored.unit)
    for slug in scored.truth.columns:
        column = bundle.slugs.index(slug)
        curves = FindingCurves(
            name=names[slug],
            probability=scored.probability[:, column],
            truth=scored.truth[slug].to_numpy(float),
            uncalibrated=sigmoid(scored.logits[:, column]),
            threshold=thresholds[slug],
            histories=_histories(bundle, slug),
            auc=span(report.findings[slug].figures["auc"]),
            unit=scored.unit,
        )
        draw_finding(curves, folder / f"{slug}.png")


def _histories(bundle: Bundle, slug: str) -> dict[str, list[dict[str, Any]]]:
    run = run_of(bundle.paths, bundle.description, slug)
    if run is None:
        return {}
    histories = {}
    for model in bundle.description["findings"][slug]["models"]:
        shared, member = bool(model.get("outputs")), model["member"]
        attempt = (run.shared(member) if shared else run.target(slug, member)).newest_attempt()
        if attempt:
            rows = [row | row.get("targets", {}).get(slug, {}) for row in read_json_lines(attempt.history)]
            histories[f"{'shared ' if shared else ''}member {member}"] = rows
    return histories
