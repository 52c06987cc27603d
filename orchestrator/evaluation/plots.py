"""Pictures of an evaluation: four panels per finding, and one overview of all AUCs.

In: scores and truth of one finding, its rows of `history.jsonl`, or a Report. Out: PNG files, whole or absent. Called
by `hilum evaluate` and the report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from models.statistics import metrics, reliability
from orchestrator.evaluation.scoring import Report
from orchestrator.formatting import span
from orchestrator.plotting import BLUE, GREY, ORANGE, STYLE, pyplot, save_figure

NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class FindingCurves:
    """What the four panels of one finding show."""

    name: str
    probability: np.ndarray  # calibrated; any score will do, then the reliability panel says so
    truth: np.ndarray  # 1, 0, NaN unknown
    uncalibrated: np.ndarray | None = None  # sigmoid of the raw logit
    threshold: float | None = None
    histories: Mapping[str, Sequence[Mapping]] = field(default_factory=dict)  # member -> rows of history.jsonl
    auc: str = ""  # text beside the ROC curve, with its interval
    unit: str = "films"  # what is counted


def draw_finding(curves: FindingCurves, path: Path) -> Path:
    """Write the PNG of one finding: ROC, precision-recall, reliability, learning curves."""
    plt = pyplot()
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(11, 10), layout="constrained")
        grid = figure.add_gridspec(2, 2, wspace=0.06, hspace=0.06)
        known = ~np.isnan(np.asarray(curves.truth, dtype=np.float64)) & ~np.isnan(curves.probability)
        score, truth = np.asarray(curves.probability)[known], np.asarray(curves.truth)[known]
        positives = int((truth == 1).sum())
        figure.suptitle(
            f"{curves.name}: {positives:,} positive, {len(truth) - positives:,} negative {curves.unit}", fontsize=14
        )
        _draw_roc(figure.add_subplot(grid[0, 0]), curves, score, truth)
        _draw_precision_recall(figure.add_subplot(grid[0, 1]), curves, score, truth)
        _draw_reliability(figure.add_subplot(grid[1, 0]), curves, known)
        _draw_learning(figure, grid[1, 1], curves.histories)
        return save_figure(figure, path)


def draw_overview(report: Report, path: Path, names: Mapping[str, str] | None = None, unit: str = "films") -> Path:
    """Write one PNG with every finding's AUC, its interval and its counts, and the mean."""
    plt = pyplot()
    findings = list(report.findings.values())
    with plt.rc_context(STYLE):
        size = (12, 1.6 + 0.4 * (len(findings) + 1))
        figure, (axis, text) = plt.subplots(1, 2, figsize=size, width_ratios=(3, 2), layout="constrained", sharey=True)
        for row, finding in enumerate(findings):
            draw_interval(axis, row, finding.figures["auc"], BLUE, hollow=finding.underpowered)
        draw_interval(axis, len(findings), report.mean_auc, ORANGE, marker="D")
        axis.axhline(len(findings) - 0.5, color=GREY, linewidth=0.8)
        axis.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
        lowest = min([0.5, *[f.figures["auc"].low for f in findings if not np.isnan(f.figures["auc"].low)]])
        axis.set(
            xlim=(max(0.0, lowest - 0.04), 1.005), ylim=(len(findings) + 0.6, -0.6), xlabel=_overview_label(report)
        )
        labels = [(names or {}).get(finding.slug, finding.slug) for finding in findings]
        axis.set_yticks(range(len(findings) + 1), [*labels, f"mean of {len(findings) - len(report.left_out)}"])
        axis.grid(axis="y", visible=False)
        _write_counts(text, findings, report)
        figure.suptitle(f"AUC on {report.rows:,} {unit} of {report.patients:,} patients", fontsize=14)
        return save_figure(figure, path)


def roc_points(score, truth) -> tuple[np.ndarray, np.ndarray]:
    """(sensitivity, false positive rate) of the curve, from "never" to "always"; every label is known."""
    hits, alarms, _ = _curve(score, truth)
    return hits, alarms


def _say(axis, words: str) -> None:
    axis.text(0.5, 0.5, words, transform=axis.transAxes, ha="center", va="center", color=GREY, backgroundcolor="white")


def _draw_roc(axis, curves: FindingCurves, score, truth) -> None:
    axis.set(title="ROC", xlabel="False positive rate (1 - specificity)", ylabel="Sensitivity")
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axis.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="chance, AUC 0.5")
    reason = metrics.undefined_reason(truth)
    if reason:
        return _say(axis, f"undefined: {reason}")
    hits, alarms, _ = _curve(score, truth)
    label = f"AUC {curves.auc or format(metrics.auc(score, truth), '.3f')}"
    axis.plot(alarms, hits, color=BLUE, linewidth=2, label=label)
    _mark_threshold(
        axis, curves, score, truth, lambda counts: (1 - metrics.specificity(counts), metrics.recall(counts))
    )
    axis.legend(loc="lower right")
    return None


def _draw_precision_recall(axis, curves: FindingCurves, score, truth) -> None:
    axis.set(title="Precision and recall", xlabel="Recall (sensitivity)", ylabel="Precision")
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    if not np.any(truth == 1):
        return _say(axis, "undefined: no positives")
    prevalence = truth.mean()
    hits, _, precision = _curve(score, truth)
    label = f"average precision {metrics.average_precision(score, truth):.3f}"
    precision[0] = precision[1]  # before the first call there is none: the curve starts level
    axis.step(hits, precision, where="pre", color=BLUE, linewidth=2, label=label)
    axis.axhline(prevalence, color=GREY, linestyle="--", linewidth=1, label=f"prevalence {prevalence:.3f}")
    _mark_threshold(axis, curves, score, truth, lambda counts: (metrics.recall(counts), metrics.precision(counts)))
    axis.legend(loc="best")
    return None


def _curve(score, truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(recall, false positive rate, precision) as the threshold falls; the first point calls nothing."""
    values, group = np.unique(-score, return_inverse=True)
    positive = np.concatenate([[0.0], np.cumsum(np.bincount(group, truth, minlength=len(values)))])
    negative = np.concatenate([[0.0], np.cumsum(np.bincount(group, 1 - truth, minlength=len(values)))])
    precision = metrics.divide(positive, positive + negative)
    return metrics.divide(positive, positive[-1]), metrics.divide(negative, negative[-1]), precision


def _mark_threshold(axis, curves: FindingCurves, score, truth, place) -> None:
    if curves.threshold is None:
        axis.plot([], [], " ", label="no useful threshold")
        return
    x, y = place(metrics.confusion(score >= curves.threshold, truth))
    label = f"operating point, threshold {curves.threshold:.3f}"
    axis.plot([x], [y], "o", color=ORANGE, markersize=9, markeredgecolor="white", label=label, zorder=5)


def _draw_reliability(axis, curves: FindingCurves, known) -> None:
    axis.set(title="Reliability (10 bins of equal mass)", ylabel="Observed share of positives")
    axis.set(xlabel="Predicted probability (mean of the bin)", aspect="equal")
    truth = np.asarray(curves.truth, dtype=np.float64)[known]
    after = np.asarray(curves.probability, dtype=np.float64)[known]
    if not len(truth) or not metrics.is_probability(after):
        return _say(axis, "the scores are not probabilities" if len(truth) else "undefined: no known labels")
    series = [("calibrated", after, BLUE, "o-")]
    if curves.uncalibrated is not None:
        series.insert(0, ("before calibration", np.asarray(curves.uncalibrated)[known], ORANGE, "s--"))
    top = 0.0
    for label, probability, colour, style in series:
        points = reliability.reliability_bins(probability, truth)
        error = reliability.ece(probability, truth)
        axis.plot(points.probability, points.observed, style, color=colour, label=f"{label}, ECE {error:.3f}")
        top = max(top, points.probability.max(), points.observed.max())
    chance = reliability.ece_chance(after, truth)
    top = min(1.02, max(0.05, top * 1.08))  # a rare finding lives in the corner: show the corner
    axis.plot(
        [0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2, label=f"perfect; chance alone: ECE {chance:.3f}"
    )
    axis.set(xlim=(-top / 80, top), ylim=(-top / 80, top))
    axis.legend(loc="upper left")
    return None


def _draw_learning(figure, place, histories: Mapping[str, Sequence[Mapping]]) -> None:
    rows = [list(history) for history in histories.values() if history]
    if not rows:
        axis = figure.add_subplot(place)
        axis.set_title("Learning curves")
        axis.set_axis_off()
        return _say(axis, "no history of training at hand")
    above, below = place.subgridspec(2, 1).subplots(sharex=True)
    members = f" ({len(rows)} members)" if len(rows) > 1 else ""
    above.set(title=f"Learning curves{members}", ylabel="Loss (nats per film)")
    below.set(xlabel="Epoch", ylabel="AUC")
    for position, history in enumerate(rows):
        epochs = [row["epoch"] for row in history]
        for part, colour, style in (("train", ORANGE, "--"), ("select", BLUE, "-")):
            for axis, name in ((above, "loss"), (below, "auc")):
                values = [NAN if row.get(f"{part}_{name}") is None else row[f"{part}_{name}"] for row in history]
                label = part if position == 0 else None
                axis.plot(epochs, values, style, color=colour, marker=".", linewidth=1.5, alpha=0.85, label=label)
    epochs = [row["epoch"] for history in rows for row in history]
    below.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    below.xaxis.get_major_locator().set_params(integer=True)
    above.legend(loc="upper right")
    return None


def draw_interval(axis, row: int, figure, colour: str, hollow: bool = False, marker: str = "o") -> None:
    """A figure and its interval as a dot on a bar, in row `row`; nothing where it does not exist."""
    if np.isnan(figure.value):
        return
    if not np.isnan(figure.low):
        axis.plot([figure.low, figure.high], [row, row], color=colour, linewidth=2.2, solid_capstyle="butt")
    face = "white" if hollow else colour
    axis.plot([figure.value], [row], marker, color=colour, markerfacecolor=face, markersize=8, markeredgewidth=1.8)


def _overview_label(report: Report) -> str:
    level = f"{report.settings.level:.0%}".replace("%", " %")
    return f"Area under the ROC curve, {level} interval over patients (hollow: under 20 of one class; dashed: chance)"


def _write_counts(axis, findings, report: Report) -> None:
    """The figures as text beside the plot: positives, negatives, AUC with its interval."""
    axis.set_axis_off()
    place, columns = axis.get_yaxis_transform(), ((0.2, "positive"), (0.45, "negative"), (0.98, "AUC (interval)"))
    for x, title in columns:
        axis.text(x, 1.0, title, transform=axis.transAxes, ha="right", va="bottom", color=GREY)
    for row, finding in enumerate(findings):
        text = span(finding.figures["auc"])
        text = report.left_out.get(finding.slug, "undefined") if text == "-" else text
        for (x, _), cell in zip(columns, (f"{finding.positives:,}", f"{finding.negatives:,}", text), strict=True):
            axis.text(x, row, cell, transform=place, ha="right", va="center")
    axis.text(columns[-1][0], len(findings), span(report.mean_auc), transform=place, ha="right", va="center")
