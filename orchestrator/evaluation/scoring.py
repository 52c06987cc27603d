"""The one evaluation: what the scores of every finding are worth, with intervals, counts and the simplest answers.

In: a table of probabilities (or any scores) and one of truth, a column per finding slug, with the patient of each row
and a threshold per finding. Out: a Report; `report_table` for the terminal, `report_frame` for CSV, `report_notes` in
sentences. Called by `hilum evaluate` for a bundle and for foreign tables alike. Opens no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from models.files.layout import to_plain
from models.statistics import metrics, reliability
from models.statistics.bootstrap import (
    Interval,
    PatientBootstrap,
    fewest_resamples,
    finding_figures,
    finding_intervals,
    interval,
)
from models.statistics.sample_size import MINIMUM_CASES, judge_sample_size
from orchestrator.formatting import beside, number, span
from orchestrator.inference.prediction_tables import ONE_PATIENT
from pathologies.errors import InputError

UNDERPOWERED = MINIMUM_CASES  # fewer positives or negatives than this: the figures say little
NAN = float("nan")
Operating = float | np.ndarray | None  # a threshold (score >= threshold), the calls themselves, or neither
NOWHERE = Interval(value=NAN, low=NAN, high=NAN, defined=0.0)
FIGURES = (
    "auc",
    "average_precision",
    "sensitivity",
    "specificity",
    "precision",
    "f1",
    "f2",
    "accuracy",
    "brier",
    "log_loss",
    "ece",
)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    resamples: int = 1000  # of the patients, for the intervals
    level: float = 0.95  # of the intervals
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class FindingReport:
    """One finding. A figure that does not exist is NaN, and `problems` says why."""

    slug: str
    rows: int  # with a known label
    positives: int
    negatives: int
    unknown: int
    prevalence: float
    threshold: float | None  # None: no useful threshold, so no calls to judge; or the calls were given themselves
    figures: Mapping[str, Interval]  # by the names in FIGURES
    ece_chance: float  # what perfectly calibrated probabilities would show at this n
    slope: float
    intercept: float
    simple: Mapping[str, Mapping[str, float]]  # never, always, prevalence
    problems: tuple[str, ...]

    @property
    def underpowered(self) -> bool:
        return min(self.positives, self.negatives) < UNDERPOWERED


@dataclass(frozen=True, kw_only=True)
class Report:
    findings: Mapping[str, FindingReport]
    mean_auc: Interval  # over the findings that have an AUC
    left_out: Mapping[str, str]  # finding -> why it has none
    rows: int
    patients: int
    settings: EvaluationSettings

    def to_dict(self) -> dict:
        """Plain data for JSON; NaN and infinity become None."""
        return to_plain(asdict(self))


def evaluate_predictions(
    scores: pd.DataFrame,
    truth: pd.DataFrame,
    patients: Sequence,
    thresholds: Mapping[str, Operating] | None = None,
    settings: EvaluationSettings | None = None,
) -> Report:
    """Judge every column of `scores` against the same column of `truth`; rows correspond by position.

    truth: 1, 0 or NaN (unknown; left out). thresholds: a threshold, the calls themselves, or None, and then the finding
    is judged without calls. Resamples are of patients and the same for every finding and for every table of the same
    patients. InputError for tables that do not fit together.
    """
    settings = settings or EvaluationSettings()
    check_tables(scores, truth, patients)
    bootstrap = make_bootstrap(patients, settings)
    return evaluate_figures(scores, truth, bootstrap, thresholds or {}, settings)[0]


def evaluate_figures(
    scores: pd.DataFrame,
    truth: pd.DataFrame,
    bootstrap: PatientBootstrap,
    thresholds: Mapping[str, Operating],
    settings: EvaluationSettings,
) -> tuple[Report, dict[str, dict[str, np.ndarray]]]:
    """`evaluate_predictions` with resamples at hand, and {finding: {figure: its value, then its resamples}}."""
    findings, figures = {}, {}
    for slug in scores.columns:
        findings[slug], figures[slug] = _judge(slug, scores, truth, bootstrap, thresholds.get(slug))
    left_out = {slug: report.problems[0] for slug, report in findings.items() if np.isnan(report.figures["auc"].value)}
    areas = mean_figures([figures[slug]["auc"] for slug in findings if slug not in left_out])
    report = Report(
        findings=findings,
        mean_auc=interval(areas, settings.level),
        left_out=left_out,
        rows=len(scores),
        patients=bootstrap.counts.shape[0],
        settings=settings,
    )
    return report, figures


def make_bootstrap(patients: Sequence, settings: EvaluationSettings) -> PatientBootstrap:
    """The resamples that one evaluation shares."""
    return PatientBootstrap(patients, resamples=settings.resamples, level=settings.level, seed=settings.seed)


def check_tables(scores: pd.DataFrame, truth: pd.DataFrame, patients: Sequence) -> None:
    """InputError unless rows and findings of the three fit together."""
    if not len(scores) == len(truth) == len(patients):
        raise InputError(f"{len(scores)} rows of scores, {len(truth)} of truth and {len(patients)} patient ids differ.")
    if pd.isna(pd.Series(np.asarray(patients))).any():
        raise InputError("A row has no patient id; the intervals need to know which films belong together.")
    missing = [slug for slug in scores.columns if slug not in truth.columns]
    if missing:
        raise InputError(f"No truth for {', '.join(missing)}. The truth has: {', '.join(truth.columns)}.")


def mean_figures(figures: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over findings of arrays as PatientBootstrap gives them.

    A resample that lacks a finding's positives averages the other findings.
    """
    if not len(figures):
        return np.array([NAN])
    there = ~np.isnan(figures)
    return metrics.divide(np.where(there, figures, 0.0).sum(axis=0), there.sum(axis=0))


def judged(scores: pd.DataFrame, truth: pd.DataFrame, slug: str) -> tuple[np.ndarray, np.ndarray]:
    """(scores, truth) of a finding; the truth is NaN where a film has no score, for it cannot be judged."""
    score, answer = scores[slug].to_numpy(dtype=np.float64), truth[slug].to_numpy(dtype=np.float64)
    return score, np.where(np.isnan(score), np.nan, answer)


def _judge(slug: str, scores, truth, bootstrap: PatientBootstrap, called_by: Operating):
    score, answer = judged(scores, truth, slug)
    known = ~np.isnan(answer)
    threshold = None if isinstance(called_by, np.ndarray) else called_by
    call = called_by if threshold is None else score >= threshold
    figures = finding_figures(bootstrap, score, answer, call)
    intervals = dict.fromkeys(FIGURES, NOWHERE) | finding_intervals(bootstrap, figures, answer, call)
    score, answer = score[known], answer[known]
    probability = metrics.is_probability(score)
    line = reliability.calibration_line(reliability.log_odds(score), answer) if probability else (NAN, NAN)
    report = FindingReport(
        slug=slug,
        rows=len(answer),
        positives=int((answer == 1).sum()),
        negatives=int((answer == 0).sum()),
        unknown=int((~known).sum()),
        prevalence=float(answer.mean()) if len(answer) else NAN,
        threshold=threshold,
        figures=intervals,
        ece_chance=reliability.ece_chance(score, answer) if probability else NAN,
        slope=line[0],
        intercept=line[1],
        simple=metrics.simple_answers(answer),
        problems=_problems(answer, probability, call is not None),
    )
    return report, figures


def _problems(answer: np.ndarray, probability: bool, called: bool) -> tuple[str, ...]:
    problems = [metrics.undefined_reason(answer)]
    if problems[0] is None and min((answer == 1).sum(), (answer == 0).sum()) < UNDERPOWERED:
        problems.append("underpowered")
    problems.append(None if called else "no useful threshold")
    problems.append(None if probability else "not a probability")
    return tuple(problem for problem in problems if problem)


def report_frame(report: Report) -> pd.DataFrame:
    """A row per finding with every figure, its bounds and what the simplest answers score; the last row is the mean."""
    rows = []
    for slug, finding in report.findings.items():
        row = {"finding": slug, **{name: getattr(finding, name) for name in _COUNTS}, "threshold": finding.threshold}
        for name in FIGURES:
            row |= finding.figures[name].columns(name)
        row |= {name: getattr(finding, name) for name in ("ece_chance", "slope", "intercept", "underpowered")}
        for answer, scores in finding.simple.items():
            row |= {f"{answer}_{name}": value for name, value in scores.items()}
        rows.append(row | {"notes": "; ".join(finding.problems)})
    note = f"over {len(report.findings) - len(report.left_out)} of {len(report.findings)} findings"
    rows.append({"finding": "mean", **report.mean_auc.columns("auc"), "notes": note})
    return pd.DataFrame(rows).astype(dict.fromkeys(("rows", "positives", "negatives", "unknown"), "Int64"))


_COUNTS = ("rows", "positives", "negatives", "unknown", "prevalence")


def report_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """(column titles, rows of text) for a terminal; in brackets what the simplest answer or chance would show."""
    level = f"{report.settings.level:.0%}".replace("%", " %")
    titles = ["finding", "pos", "neg", f"AUC ({level} interval)", "AP (prevalence)", "sens", "spec", "prec", "F1"]
    titles += ["F2 (always)", "Brier (prevalence)", "ECE (chance)", "slope", "notes"]
    rows = [_table_row(finding) for finding in report.findings.values()]
    used = len(report.findings) - len(report.left_out)
    mean = [f"mean of {used}", "", "", span(report.mean_auc), *[""] * (len(titles) - 4)]
    return titles, [*rows, mean]


def _table_row(finding: FindingReport) -> list[str]:
    values = {name: number(figure.value) for name, figure in finding.figures.items()}
    simple = finding.simple
    return [
        finding.slug,
        str(finding.positives),
        str(finding.negatives),
        span(finding.figures["auc"]),
        beside(values["average_precision"], finding.prevalence),
        values["sensitivity"],
        values["specificity"],
        values["precision"],
        values["f1"],
        beside(values["f2"], simple["always"]["f2"]),
        beside(values["brier"], simple["prevalence"]["brier"]),
        beside(values["ece"], finding.ece_chance),
        number(finding.slope, 2),
        "; ".join(finding.problems),
    ]


def report_notes(report: Report) -> list[str]:
    """What a reader must know beside the table, in sentences."""
    used = len(report.findings) - len(report.left_out)
    notes = [
        f"{report.rows} rows of {report.patients} patients; intervals from {report.settings.resamples} resamples of "
        f"patients. Mean AUC over {used} of {len(report.findings)} findings: {span(report.mean_auc)}."
    ]
    if report.patients == 1 < report.rows:
        notes.append(ONE_PATIENT)
    if report.left_out:
        reasons = ", ".join(f"{slug} ({reason})" for slug, reason in report.left_out.items())
        notes.append(f"Left out of the mean: {reasons}.")
    weak = [slug for slug, one in report.findings.items() if one.underpowered and slug not in report.left_out]
    if weak:
        needed = {
            slug: judge_sample_size(report.findings[slug].positives, report.findings[slug].negatives) for slug in weak
        }
        notes += [f"{slug} is {power.note}." for slug, power in needed.items()]
    for problem, sentence in (
        ("no useful threshold", "No useful threshold, so no yes/no calls are judged"),
        ("not a probability", "Not a probability, so without Brier score and calibration error"),
    ):
        slugs = [slug for slug, one in report.findings.items() if problem in one.problems]
        if slugs:
            notes.append(f"{sentence}: {', '.join(slugs)}.")
    return notes


def resamples_note(resamples: int, tests: int, level: float = 0.95) -> list[str]:
    """A sentence where p values of so many resamples cannot fall low enough for any of so many tests."""
    needed = fewest_resamples(tests, level)
    if resamples >= needed:
        return []
    return [f"{resamples} resamples are too few to call any of {tests} differences real; give --resamples {needed}."]
