"""Prediction tables against one truth: each table's figures, their differences, their blends, human readers.

In: a TablesRequest. Out: a TableComparison, which `compare_tables_report` shows and writes. Called by `hilum evaluate
--predictions`. The same resamples of patients serve every table and finding, so that differences are paired.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from models.statistics import metrics, thresholds
from models.statistics.bootstrap import Interval, PatientBootstrap, holm, interval, p_value
from orchestrator.evaluation import scoring
from orchestrator.evaluation.alignment import AlignedTables, align
from orchestrator.evaluation.scoring import (
    EvaluationSettings,
    Operating,
    Report,
    evaluate_figures,
    judged,
    mean_figures,
)
from orchestrator.evaluation.table_blends import blend_tables, improper_tables
from orchestrator.inference.prediction_tables import Columns, read_table, read_truth, require_columns
from pathologies.errors import InputError
from pathologies.findings.catalog import find_pathology, load_catalog

AUTO = "auto"  # a table's own calls; else 0.5 for probabilities; else the F2 threshold of other patients' folds
MULTI_LABEL = ("subset_accuracy", "hamming_loss", "sample_f1")
ERRORS = ("brier", "log_loss", "ece")  # of probabilities only
NO_PROBABILITY = "not a probability"
MEANS = ("auc", "average_precision", "sensitivity", "specificity", "precision", "f1", "f2", "brier", "ece")


@dataclass(frozen=True, kw_only=True)
class TablesRequest:
    predictions: tuple[Path, ...]
    truth: Path
    readers: tuple[Path, ...] = ()  # tables of yes/no answers
    targets: tuple[str, ...] = ()  # none: every finding that the truth and at least one table have
    level: str | None = None  # image, study, patient; none: as the ids say
    blank_as_zero: bool = False  # a blank in the truth means absent; else unknown
    rule: str = AUTO  # or a rule of models.statistics.thresholds, then chosen for every table on other patients' folds
    columns: Columns = field(default_factory=Columns)
    settings: EvaluationSettings = field(default_factory=EvaluationSettings)


@dataclass(frozen=True, kw_only=True)
class TableComparison:
    """The answers, by table name; a blend is a table like any other."""

    reports: Mapping[str, Report]
    means: Mapping[str, Mapping[str, Interval]]  # table -> figure of MEANS, over the findings that have it
    multi_label: Mapping[str, Mapping[str, Interval]]  # table -> figure of MULTI_LABEL, on rows with a full truth
    differences: pd.DataFrame  # table, other, finding ("mean" too), auc difference with bounds
    scores: Mapping[str, pd.DataFrame]  # table -> what was judged, row by row
    truth: pd.DataFrame
    readers: pd.DataFrame  # reader, finding, sensitivity, specificity, and each table's sensitivity there
    rows: int
    patients: int
    level: str
    notes: tuple[str, ...]


def compare_tables(request: TablesRequest) -> TableComparison:
    """Read, align, judge, blend and compare. InputError / FileNotFoundError for files that do not fit."""
    if request.rule != AUTO:
        thresholds.parse_rule(request.rule)
    if not request.predictions:
        raise InputError("No prediction table given.")
    truth = read_truth(request.truth, request.columns, request.blank_as_zero)
    names = _names([*request.predictions, *request.readers])
    files = [read_table(path, request.columns, name) for path, name in names]
    require_columns(files, truth, request.columns)
    tables, readers = files[: len(request.predictions)], files[len(request.predictions) :]
    return compare_aligned(align(tables, truth, readers, request.level), request)


def _names(paths: list[Path]) -> list[tuple[Path, str]]:
    """What each table is called: its file's name, with the folder's where two files are called the same."""
    stems = [Path(path).stem for path in paths]
    return [
        (path, stem if stems.count(stem) == 1 else f"{Path(path).absolute().parent.name}/{stem}")
        for path, stem in zip(paths, stems, strict=True)
    ]


def compare_aligned(aligned: AlignedTables, request: TablesRequest) -> TableComparison:
    """`compare_tables` for tables that are read and aligned."""
    slugs = _slugs(aligned, request)
    truth, notes = aligned.truth[slugs], list(aligned.notes)
    scores = {name: table[[slug for slug in slugs if slug in table]] for name, table in aligned.scores.items()}
    empty = [name for name, table in scores.items() if not len(table.columns)]
    if empty:
        raise InputError(f"{empty[0]} has none of the findings to judge: {', '.join(slugs)}.")
    blended, said = blend_tables(scores, truth, aligned.patients)
    scores |= blended
    improper = improper_tables(scores)
    bootstrap = scoring.make_bootstrap(aligned.patients, request.settings)
    reports, means, summaries, areas = {}, {}, {}, {}
    for name, table in scores.items():
        proper = name not in improper
        calls, note = _called_by(table, proper, aligned.calls.get(name, pd.DataFrame()), aligned, request.rule)
        notes += [f"{name}: {note}"] if note and name not in blended else []
        reports[name], figures = evaluate_figures(table, truth, bootstrap, calls, request.settings)
        if not proper:
            reports[name], figures = _without_errors(reports[name], figures)
        means[name] = _mean_intervals(figures, bootstrap.level)
        areas[name] = {slug: one["auc"] for slug, one in figures.items()}
        summaries[name] = multi_label(table, truth, bootstrap, calls)
    strangers = [name for name in improper if name not in blended]
    if strangers:
        notes.append(f"Not a probability, so without Brier score and calibration error: {', '.join(strangers)}.")
    pairs = len(areas) * (len(areas) - 1) // 2
    notes += scoring.resamples_note(request.settings.resamples, pairs, bootstrap.level)
    return TableComparison(
        reports=reports,
        means=means,
        multi_label=summaries,
        differences=differences(areas, bootstrap),
        scores=scores,
        truth=truth,
        readers=reader_points(aligned.readers, scores, truth, bootstrap),
        rows=len(truth),
        patients=bootstrap.counts.shape[0],
        level=aligned.level,
        notes=(*notes, *said),
    )


def _without_errors(report: Report, figures: dict[str, dict[str, np.ndarray]]) -> tuple[Report, dict[str, dict]]:
    """A table that steps outside [0, 1] for one finding holds scores for all of them, whatever their range."""
    blank = dict.fromkeys(ERRORS, scoring.NOWHERE)
    nothing = {"ece_chance": float("nan"), "slope": float("nan"), "intercept": float("nan")}
    findings = {
        slug: replace(
            one,
            figures={**one.figures, **blank},
            problems=tuple(dict.fromkeys((*one.problems, NO_PROBABILITY))),
            **nothing,
        )
        for slug, one in report.findings.items()
    }
    kept = {slug: {name: row for name, row in one.items() if name not in ERRORS} for slug, one in figures.items()}
    return replace(report, findings=findings), kept


def _slugs(aligned: AlignedTables, request: TablesRequest) -> list[str]:
    """The findings to judge, in the order of the truth."""
    offered = {slug for table in aligned.scores.values() for slug in table.columns}
    there = [slug for slug in aligned.truth.columns if slug in offered]
    if not there:
        have = ", ".join(aligned.truth.columns) or "none"
        raise InputError(f"The tables and the truth have no finding in common. Findings of the truth: {have}.")
    if not request.targets:
        return there
    catalog = load_catalog(request.columns.findings)
    wanted = [name if name in there else find_pathology(name, catalog).slug for name in request.targets]
    missing = [slug for slug in wanted if slug not in there]
    if missing:
        raise InputError(f"No table together with the truth has {', '.join(missing)}. They have: {', '.join(there)}.")
    return wanted


def _called_by(table, proper: bool, own_calls, aligned: AlignedTables, rule: str) -> tuple[dict[str, Operating], str]:
    """Where each finding of a table says yes, see AUTO; and a note that names the findings with a chosen threshold."""
    found: dict[str, Operating] = {}
    chosen = []
    for slug in table.columns:
        score, truth = judged(table, aligned.truth, slug)
        if rule == AUTO and slug in own_calls:
            calls = own_calls[slug].to_numpy(dtype=np.float64)
            found[slug] = None if np.isnan(calls).any() else calls == 1
        elif rule == AUTO and proper:
            found[slug] = 0.5
        elif metrics.undefined_reason(truth):
            found[slug] = None
        else:
            wanted = thresholds.DEFAULT_RULE if rule == AUTO else rule
            found[slug] = thresholds.cross_validated_calls(np.nan_to_num(score), truth, aligned.patients, wanted)
            chosen.append(slug)
    wanted = thresholds.DEFAULT_RULE if rule == AUTO else rule
    named = "all findings" if len(chosen) == len(table.columns) else ", ".join(chosen)
    return found, f"threshold by rule {wanted}, chosen on other patients: {named}." if chosen else ""


def _mean_intervals(figures: Mapping[str, Mapping[str, np.ndarray]], level: float) -> dict[str, Interval]:
    """Each figure's mean over the findings that have it."""
    means = {}
    for name in MEANS:
        defined = [one[name] for one in figures.values() if name in one and not np.isnan(one[name][0])]
        means[name] = interval(mean_figures(defined), level)
    return means


def multi_label(table, truth, bootstrap: PatientBootstrap, calls) -> dict[str, Interval]:
    """Figures of a row's answers taken together, on the rows whose truth and scores are known for every finding.

    A row without any finding and without any call has a sample F1 of 1 (scikit-learn's zero_division=1).
    """
    slugs = [slug for slug in table.columns if calls.get(slug) is not None and truth[slug].notna().any()]
    if not slugs:
        return dict.fromkeys(MULTI_LABEL, scoring.NOWHERE)
    score, answer = table[slugs].to_numpy(dtype=np.float64), truth[slugs].to_numpy(dtype=np.float64)
    columns = [calls[slug] if isinstance(calls[slug], np.ndarray) else table[slug] >= calls[slug] for slug in slugs]
    called = np.column_stack(columns).astype(bool)
    full = ~np.isnan(answer).any(axis=1) & ~np.isnan(score).any(axis=1)
    wrong = (called != (answer == 1)).sum(axis=1)
    marks = called.sum(axis=1) + (answer == 1).sum(axis=1)
    agreed = 2 * (called & (answer == 1)).sum(axis=1)
    rows = (wrong == 0, wrong / len(slugs), np.where(marks == 0, 1.0, agreed / np.maximum(marks, 1)))
    figures = [bootstrap.mean_scores(np.where(full, row, np.nan)) for row in rows]
    return {name: interval(one, bootstrap.level) for name, one in zip(MULTI_LABEL, figures, strict=True)}


def differences(areas: Mapping[str, Mapping[str, np.ndarray]], bootstrap: PatientBootstrap) -> pd.DataFrame:
    """AUC of each table minus that of each later one, paired; `mean` is over the findings that both tables have.

    Bounds are of each difference for itself. `differs` rests on p adjusted after Holm: of the means over all pairs of
    tables, of the findings over those of their pair.
    """
    rows = []
    names = list(areas)
    for position, name in enumerate(names):
        for other in names[position + 1 :]:
            shared = [slug for slug in areas[name] if slug in areas[other]]
            defined = [slug for slug in shared if not np.isnan(areas[name][slug][0] + areas[other][slug][0])]
            gaps = {slug: areas[name][slug] - areas[other][slug] for slug in defined}
            if gaps:
                gaps["mean"] = mean_figures(list(gaps.values()))
            for slug, figures in gaps.items():
                gap = interval(figures, bootstrap.level)
                row = {"table": name, "other": other, "finding": slug, "auc_difference": gap.value}
                rows.append(row | {"low": gap.low, "high": gap.high, "p": p_value(figures)})
    found = pd.DataFrame(rows, columns=["table", "other", "finding", "auc_difference", "low", "high", "p"])
    means = found["finding"] == "mean"
    pair = (found["table"] + "\n" + found["other"]).where(~means, "")
    found["p_holm"] = found.groupby(pair)["p"].transform(holm)
    return found.assign(differs=found["p_holm"] < 1 - bootstrap.level)


def reader_points(readers, scores, truth, bootstrap: PatientBootstrap) -> pd.DataFrame:
    """Each reader's sensitivity and specificity, and the sensitivity of each table at that specificity."""
    rows = []
    for reader, answers in readers.items():
        for slug in [slug for slug in truth.columns if slug in answers]:
            call, answer = judged(answers, truth, slug)
            if metrics.undefined_reason(answer):
                continue
            if not np.isin(call[~np.isnan(answer)], (0, 1)).all():
                raise InputError(f"Reader {reader}: the answers to {slug} are not all 0 or 1.")
            figures = bootstrap.call_scores(call == 1, answer)
            row = {"reader": reader, "finding": slug, "positives": int((answer == 1).sum())}
            for name in ("sensitivity", "specificity"):
                row |= interval(figures[name], bootstrap.level).columns(name)
            for name, table in scores.items():
                if slug in table:
                    row[f"{name} at this specificity"] = sensitivity_at(*judged(table, truth, slug), row["specificity"])
            rows.append(row)
    return pd.DataFrame(rows)


def sensitivity_at(score, truth, specificity: float) -> float:
    """Height of the ROC curve at a specificity, straight between its points; NaN if one class is missing."""
    if metrics.undefined_reason(truth):
        return float("nan")
    known = ~np.isnan(truth)
    counts = thresholds.candidates(score[known], truth[known]).counts
    reached, height = metrics.specificity(counts), metrics.sensitivity(counts)
    best = pd.Series(height).groupby(reached).max()  # a vertical step of the curve: its top
    return float(np.interp(specificity, best.index.to_numpy(), best.to_numpy()))
