"""A bundle fitted to a hospital: calibration, thresholds and zones anew, every network as it was, to the byte.

In: a BUNDLE and either labelled films of the hospital or its prevalences. Out: a new BUNDLE whose `adapted` tells what
was done and keeps the old values, and a table of before and after. Called by `hilum adapt`. With films each figure of
"after" is of films whose patients had no share in the fit that they judge; with fewer than ENOUGH positives or
negatives only the prevalence is moved. Findings without local labels stay as they are, save for the thresholds of
parents whose children moved.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.statistics import conformal, metrics, reliability
from models.statistics.bootstrap import PatientBootstrap, interval, patient_folds
from models.statistics.calibration import ENOUGH, Calibration
from models.statistics.thresholds import ESTIMATE
from orchestrator.datasets.dataset import hash_file
from orchestrator.ensembling.adapt_report import Rows, film_table, prevalence_table
from orchestrator.ensembling.adapted_bundle import check_source, write_adapted
from orchestrator.ensembling.calibration_fit import FitSettings, fit_findings
from orchestrator.ensembling.pipeline import CalibrationData, fit_pipeline
from orchestrator.ensembling.prior_shift import (
    estimate_prevalence,
    off_scale,
    prevalence_of,
    shift_calibration,
    shift_entry,
    withdraw_points,
)
from orchestrator.ensembling.site_data import SiteFilms, SiteRequest, read_site_films
from orchestrator.inference.bundle import Bundle, load_bundle
from orchestrator.inference.decisions import parse_assignments, thresholds_of
from orchestrator.inference.prediction_tables import read_frame
from orchestrator.storage.workspace import Workspace
from pathologies.errors import InputError
from pathologies.findings.catalog import descendants

REFITTED, SHIFTED, WITHDRAWN = "refitted", "prevalence moved", "thresholds withdrawn"
CALLS = ("sensitivity", "specificity")
VISIBLE = 0.0005  # of a Brier score: less is no change worth a warning
FITTED_KEYS = (
    "calibration",
    "operating_points",
    "conformal",
    "counts",
    "cross_validated",
    "reliability",
    "consistency",
    "notes",
)


@dataclass(frozen=True, kw_only=True)
class AdaptRequest(SiteRequest):
    bundle: Path
    out: Path
    prevalence: tuple[str, ...] = ()  # finding=share, or CSV files with the columns finding and prevalence
    device: str = "auto"
    resamples: int = 1000  # of the patients, for the intervals
    workspace: Workspace = field(default_factory=Workspace, compare=False)  # in which the folders were opened


@dataclass(frozen=True, kw_only=True)
class Change:
    """What becomes of one finding."""

    how: str  # REFITTED, SHIFTED, WITHDRAWN
    entry: dict[str, Any]  # the new one, as in bundle.json
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)  # films, positives, before, after


@dataclass(frozen=True, kw_only=True)
class AdaptResult:
    table: Rows
    notes: list[str]
    description: dict[str, Any]  # the new bundle.json
    changes: Mapping[str, Change]


def adapt(request: AdaptRequest, on_progress: Callable[[int, int], None] | None = None) -> AdaptResult:
    """Write the new bundle. InputError / FileNotFoundError before anything is written."""
    if (request.labelled is None) == (not request.prevalence):
        raise InputError("Give either --labelled local.csv --images DIR, or --prevalence finding=share.")
    if request.labelled is None and request.images is not None:
        raise InputError("--images goes with --labelled.")
    check_source(request.bundle, request.out)
    bundle = load_bundle(request.bundle, request.device)
    films = None
    if request.labelled is None:
        changes, notes, source = _by_prevalence(bundle, request)
        table = prevalence_table(bundle.description["findings"], changes)
    else:
        films = read_site_films(bundle, request, on_progress or (lambda done, total: None))
        changes, notes = _by_films(bundle, films, request)
        source = {"labels": request.labelled.name, "labels_sha256": hash_file(request.labelled)}
        source |= {"films": len(films.truth), "patients": len(np.unique(films.patients))}
        table = film_table(changes)
    kept = [slug for slug in bundle.slugs if slug not in changes]
    if kept:
        notes.append(f"Kept as they were: {', '.join(kept)}.")
    record = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **source, "kept": kept, "notes": notes}
    listing = None if films is None else films.listing
    carry = partial(request.workspace.path_carried_over, source=bundle.paths.root, there=request.out)
    description = write_adapted(bundle, request.out, changes, record, listing, carry)
    return AdaptResult(table=table, notes=notes, description=description, changes=changes)


def _by_prevalence(bundle: Bundle, request: AdaptRequest) -> tuple[dict[str, Change], list[str], dict[str, Any]]:
    given, hashes = _read_prevalences(request.prevalence, bundle.slugs)
    changes = {}
    for slug, share in given.items():
        if not 0 < share < 1:
            raise InputError(f"--prevalence {slug}={share:g}: a prevalence lies between 0 and 1, both excluded.")
        old = bundle.description["findings"][slug]
        facts = {"prevalence": {"before": prevalence_of(old), "after": share}}
        changes[slug] = Change(how=SHIFTED, entry=old | shift_entry(old, share), facts=facts)
    notes = ["Only the prevalence was moved: nothing here is measured. Precision is what sensitivity and specificity"]
    notes[0] += " give at the new share, if films with and without the finding look as before."
    if bundle.consistency:
        _check_families(bundle, changes)
        withdrawn = _withdrawn(bundle, changes)
        notes += _told_withdrawn(withdrawn)
        changes |= {
            slug: replace(
                one, facts=one.facts or {"prevalence": dict.fromkeys(("before", "after"), prevalence_of(one.entry))}
            )
            for slug, one in withdrawn.items()
        }
    return changes, notes, {"prevalence": given, "prevalence_sha256": hashes}


def _check_families(bundle: Bundle, changes: Mapping[str, Change]) -> None:
    """InputError for shares that would make a finding rarer than one that it comes with."""
    old = bundle.description["findings"]
    share = {slug: prevalence_of(changes[slug].entry if slug in changes else old[slug]) for slug in old}
    for slug in bundle.slugs:
        for child in descendants(slug, bundle.parents):
            if share[child] > share[slug] and prevalence_of(old[child]) <= prevalence_of(old[slug]):
                raise InputError(
                    f"--prevalence: {child} at {share[child]:.3g} would be more common than {slug} at "
                    f"{share[slug]:.3g}, but who has {child} has {slug}. "
                    f"Give {slug}=SHARE of at least {share[child]:.3g} too."
                )


def _withdrawn(bundle: Bundle, changes: Mapping[str, Change]) -> dict[str, Change]:
    """Parents whose thresholds no longer fit the probabilities that they are raised to; see `shifting`.

    A parent that was fitted anew was so together with its children as they now are.
    """
    old = bundle.description["findings"]
    new = {slug: changes[slug].entry if slug in changes else old[slug] for slug in bundle.slugs}
    refitted = {slug for slug, change in changes.items() if change.how == REFITTED}
    moved = off_scale(old, new, bundle.parents)
    found = {}
    for slug in bundle.slugs:
        children = descendants(slug, bundle.parents)
        if slug in refitted or not (slug in moved or refitted.intersection(children)):
            continue
        entry = withdraw_points(new[slug], children)
        before = changes.get(slug)
        found[slug] = replace(before, entry=entry) if before else Change(how=WITHDRAWN, entry=entry)
    return found


def _told_withdrawn(withdrawn: Mapping[str, Change]) -> list[str]:
    if not withdrawn:
        return []
    return [
        f"No yes/no answers any more, cost rules apart: {', '.join(withdrawn)}. Each is raised to findings that moved "
        "otherwise than it did, so that its thresholds call other films than before. Give local films of it "
        "(--labelled), a threshold by hand (hilum predict --threshold), or a bundle made without --consistency."
    ]


def _read_prevalences(words: tuple[str, ...], slugs: list[str]) -> tuple[dict[str, float], dict[str, str]]:
    """({finding: share}, {file: its hash})."""
    pairs, hashes = [], {}
    for word in words:
        if "=" in word:
            pairs.append(word)
            continue
        frame = read_frame(Path(word))
        missing = [name for name in ("finding", "prevalence") if name not in frame.columns]
        if missing:
            raise InputError(f"{word} has no column {missing[0]!r}. Wanted: finding, prevalence.")
        hashes[Path(word).name] = hash_file(Path(word))
        pairs += [f"{row.finding}={row.prevalence}" for row in frame.itertuples()]
    return parse_assignments(pairs, slugs, "--prevalence"), hashes


def _by_films(bundle: Bundle, films: SiteFilms, request: AdaptRequest) -> tuple[dict[str, Change], list[str]]:
    findings, notes = bundle.description["findings"], list(films.notes)
    enough, few = [], {}
    for slug in films.truth.columns:
        positives, negatives = int((films.truth[slug] == 1).sum()), int((films.truth[slug] == 0).sum())
        if min(positives, negatives) >= ENOUGH:
            enough.append(slug)
        else:
            few[slug] = f"{positives} positives and {negatives} negatives; a fit needs {ENOUGH} of each"
    changes = {}
    for slug, reason in few.items():
        old = findings[slug]
        share = estimate_prevalence(films.truth[slug].to_numpy(float), prevalence_of(old))
        changes[slug] = Change(how=SHIFTED, entry=old | shift_entry(old, share), reason=reason)
    fixed = {}
    for column, slug in enumerate(bundle.slugs):
        if slug not in enough:
            entry = changes[slug].entry if slug in changes else findings[slug]
            fixed[slug] = Calibration.from_dict(entry["calibration"]).apply(films.logits[:, column])
    entries = _refit(bundle, films, enough, fixed, notes, request)
    notes += _renewed_promises(findings, entries)
    changes |= {slug: Change(how=REFITTED, entry=findings[slug] | entries[slug]) for slug in enough}
    withdrawn = _withdrawn(bundle, changes) if bundle.consistency else {}
    notes += _told_withdrawn(withdrawn)
    changes |= withdrawn
    if few:
        notes.append("Too few local films to fit, so only the prevalence was moved: " + _reasons(few) + ".")
    before = bundle.calibrate(films.logits)
    judged = {}
    for slug in films.truth.columns:
        column = bundle.slugs.index(slug)
        facts = _judge(
            findings[slug], changes[slug], films, (before[:, column], films.logits[:, column], slug), request
        )
        judged[slug] = Change(**{**vars(changes[slug]), "facts": facts})
    notes.append("After: every film is judged by what other patients' films gave; before: by the bundle as it was.")
    worse = [slug for slug, one in judged.items() if (one.facts["brier_change"] or {"low": 0})["low"] > VISIBLE]
    if worse:
        notes.append(f"Worse than before, interval and all: {', '.join(worse)}. Think twice before using it for these.")
    return {**changes, **judged}, notes


def _renewed_promises(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A sentence on rules that were an estimate in the old bundle and are a lower bound in the entries fitted anew."""
    rules = {
        rule: point["promise"]
        for slug, entry in new.items()
        for rule, point in entry["operating_points"].items()
        if point.get("promise") and not old[slug]["operating_points"][rule].get("promise")
    }
    return [f"{rule}: {promise}; in the bundle before: {ESTIMATE}." for rule, promise in rules.items()]


def _reasons(few: Mapping[str, str]) -> str:
    return ", ".join(f"{slug} ({reason.partition(';')[0]})" for slug, reason in few.items())


def _refit(
    bundle: Bundle, films: SiteFilms, slugs: list[str], fixed: Mapping[str, np.ndarray], notes: list[str],
    request: AdaptRequest,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """The fitted part of each finding's entry; what the blend is stays the bundle's. `fixed`: the others' answers."""
    if not slugs:
        return {}
    findings = bundle.description["findings"]
    calibration_data = {slug: _calibration_data(films, bundle.slugs.index(slug), slug) for slug in slugs}
    parents = None
    if bundle.consistency:
        parents = bundle.parents
        notes.append(
            "Thresholds of parents heed all of their children; Brier score, ECE and slope are those of the findings "
            "before parents are raised."
        )
    fitted = {}
    for settings, group in _same_settings(findings, slugs, request).items():
        found = fit_findings(
            calibration_data, parents=parents, wanted=group, settings=settings, fixed=fixed if parents else None
        )
        fitted |= {slug: {name: found[slug][name] for name in FITTED_KEYS if name in found[slug]} for slug in group}
    return fitted


def _calibration_data(films: SiteFilms, column: int, slug: str) -> CalibrationData:
    return CalibrationData.of_score(films.logits[:, column], films.truth[slug].to_numpy(float), films.patients)


def _same_settings(
    findings: Mapping[str, Any], slugs: list[str], request: AdaptRequest
) -> dict[FitSettings, list[str]]:
    """The findings by what the bundle asked for when it was made: rules, default rule, coverage."""
    groups: dict[FitSettings, list[str]] = {}
    for slug in slugs:
        entry = findings[slug]
        settings = FitSettings(
            rules=tuple(entry["operating_points"]),
            default_rule=entry["operating_point"],
            coverage=(entry.get("conformal") or {}).get("coverage", conformal.COVERAGE),
            resamples=request.resamples,
        )
        groups.setdefault(settings, []).append(slug)
    return groups


def _judge(
    old: Mapping[str, Any], change: Change, films: SiteFilms, columns: tuple[np.ndarray, np.ndarray, str],
    request: AdaptRequest,
) -> dict[str, Any]:  # fmt: skip
    """Before and after on the local films of known truth; "after" by patient-grouped cross-validation."""
    before, logits, slug = columns
    truth = films.truth[slug].to_numpy(float)
    known = ~np.isnan(truth)
    truth, patients, before, logits = truth[known], films.patients[known], before[known], logits[known]
    threshold = thresholds_of({slug: old})[slug]
    threshold_after = thresholds_of({slug: change.entry})[slug]
    call = {} if threshold is None else _calls(before >= threshold, truth)
    plain = Calibration.from_dict(old["calibration"]).apply(logits)  # `before` without the raising of parents
    after, call_after = _after(old, change, logits, truth, patients)
    facts = {
        "films": len(truth),
        "patients": len(np.unique(patients)),
        "positives": int(truth.sum()),
        "prevalence": {"before": prevalence_of(old), "after": prevalence_of(change.entry)},
        "auc": metrics.auc(logits, truth),
        "before": _errors(plain, truth) | call,
        "after": _errors(after, truth)
        | (call_after if call_after is not None else call if threshold_after is not None else {}),
        "brier_change": None,
        "threshold": {"before": threshold, "after": threshold_after},
    }
    if len(truth) > 1:
        bootstrap = PatientBootstrap(patients, resamples=request.resamples)
        gap = interval(bootstrap.mean_scores((after - truth) ** 2 - (plain - truth) ** 2))
        facts["brier_change"] = gap.bounds
    return facts


def _after(
    old: Mapping[str, Any], change: Change, logits: np.ndarray, truth: np.ndarray, patients: np.ndarray
) -> tuple[np.ndarray, dict[str, float] | None]:
    """(probabilities, figures of the calls; None: the calls stay as they were), each film by other patients' films."""
    if change.how == SHIFTED:
        return _shifted_out_of_fold(old, logits, truth, patients), None
    fitted = fit_pipeline(CalibrationData.of_score(logits, truth, patients))
    useful = thresholds_of({"finding": change.entry})["finding"] is not None
    figures = change.entry["cross_validated"]
    call = {name: figures.get(name) for name in CALLS} if useful else {}
    return fitted.out_of_fold[np.arange(len(truth)), fitted.fold], call


def _calls(call: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    counts = metrics.confusion(call, truth)
    return dict(zip(CALLS, (metrics.sensitivity(counts), metrics.specificity(counts)), strict=True))


def _errors(probability: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    return {
        "brier": metrics.brier(probability, truth),
        "ece": reliability.ece(probability, truth),
        "ece_chance": reliability.ece_chance(probability, truth),
        "slope": reliability.calibration_line(reliability.log_odds(probability), truth)[0],
    }


def _shifted_out_of_fold(old: Mapping[str, Any], logits, truth, patients) -> np.ndarray:
    """Every film under the prevalence of the other patients' films."""
    answer, known = np.empty(len(truth)), prevalence_of(old)
    fold = patient_folds(patients, truth)
    for one in np.unique(fold):
        share = estimate_prevalence(truth[fold != one], known)
        answer[fold == one] = shift_calibration(old, share).apply(logits[fold == one])
    return answer
