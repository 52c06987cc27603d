"""Pictures of a comparison: who is better at what, and the ROC curves with the human readers' points.

In: a TableComparison. Out: PNG files, whole or absent. Called by orchestrator.evaluation.compare_tables_report.
"""

from pathlib import Path

import numpy as np

from models.statistics import metrics
from orchestrator.evaluation.compare_tables import TableComparison
from orchestrator.evaluation.plots import draw_interval, roc_points
from orchestrator.evaluation.scoring import judged
from orchestrator.evaluation.table_blends import BLENDS
from orchestrator.formatting import number, span
from orchestrator.plotting import BLUE, GREY, ORANGE, STYLE, pyplot, save_figure

GREEN = "#009E73"
COLUMNS = 4  # panels of ROC curves beside each other


def draw_comparison(comparison: TableComparison, path: Path) -> Path:
    """Left the mean AUC of every table with its interval, right the AUC of every table and finding."""
    plt, names = pyplot(), list(comparison.reports)
    slugs = list(dict.fromkeys(slug for report in comparison.reports.values() for slug in report.findings))
    order = sorted(names, key=lambda name: -np.nan_to_num(comparison.means[name]["auc"].value, nan=-1))
    with plt.rc_context(STYLE):
        size = (7.5 + 0.62 * len(slugs), 2.4 + 0.36 * len(names))
        figure, (left, right) = plt.subplots(
            1, 2, figsize=size, width_ratios=(4.5, 0.62 * len(slugs) + 1), layout="constrained", sharey=True
        )
        for row, name in enumerate(order):
            blend = name in BLENDS
            draw_interval(
                left, row, comparison.means[name]["auc"], ORANGE if blend else BLUE, marker="D" if blend else "o"
            )
        left.set_yticks(range(len(order)), order)
        left.set(ylim=(len(order) - 0.4, -0.6), xlabel="Mean AUC, 95 % interval (diamonds: blends)")
        left.grid(axis="y", visible=False)
        _draw_grid(right, comparison, order, slugs)
        unit = {"image": "films", "study": "studies", "patient": "patients"}[comparison.level]
        figure.suptitle(f"AUC on {comparison.rows:,} {unit} of {comparison.patients:,} patients", fontsize=14)
        return save_figure(figure, path)


def _draw_grid(axis, comparison: TableComparison, order: list[str], slugs: list[str]) -> None:
    """The AUC of each table (row) for each finding (column); the darker the better, the best of a column in bold."""
    values = np.full((len(order), len(slugs)), np.nan)
    for row, name in enumerate(order):
        for column, slug in enumerate(slugs):
            report = comparison.reports[name].findings.get(slug)
            values[row, column] = np.nan if report is None else report.figures["auc"].value
    axis.grid(visible=False)
    axis.imshow(np.ma.masked_invalid(values), cmap="Blues", vmin=0.45, vmax=1.15, aspect="auto")
    best = np.nanmax(np.where(np.isnan(values), -1.0, values), axis=0)
    for (row, column), value in np.ndenumerate(values):
        weight = "bold" if value == best[column] else "normal"
        axis.text(column, row, number(value, 2), ha="center", va="center", fontsize=8.5, fontweight=weight)
    axis.set_xticks(range(len(slugs)), slugs, rotation=45, ha="left", rotation_mode="anchor")
    axis.xaxis.tick_top()
    axis.tick_params(axis="both", length=0)


def draw_roc_curves(comparison: TableComparison, path: Path) -> Path:
    """A panel per finding: every table's ROC curve thin, the best blend's strong, the readers' points."""
    plt, slugs = pyplot(), [slug for slug in comparison.truth.columns if _drawable(comparison, slug)]
    columns = min(COLUMNS, max(1, len(slugs)))
    lines = max(1, -(-len(slugs) // columns))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            lines, columns, figsize=(3.7 * columns, 4.0 * lines + 0.6), layout="constrained", squeeze=False
        )
        for axis in axes.flat[len(slugs) :]:
            axis.set_axis_off()
        for axis, slug in zip(axes.flat, slugs, strict=False):
            _draw_panel(axis, comparison, slug)
        if not slugs:
            axes.flat[0].text(0.5, 0.5, "no finding has both classes", ha="center", color=GREY)
        else:
            handles, labels = axes.flat[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))
        figure.suptitle("ROC curves" + (" and human readers" if len(comparison.readers) else ""), fontsize=14)
        return save_figure(figure, path)


def _drawable(comparison: TableComparison, slug: str) -> bool:
    return metrics.undefined_reason(comparison.truth[slug].to_numpy(float)) is None


def _draw_panel(axis, comparison: TableComparison, slug: str) -> None:
    strong = _strongest(comparison)
    axis.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=0.8)
    single = [name for name in comparison.reports if name not in BLENDS and name != strong]
    for name in [*single, strong]:
        table = comparison.scores[name]
        score, truth = judged(table, comparison.truth, slug) if slug in table else (np.zeros(0), np.zeros(0))
        known = ~np.isnan(truth)
        if metrics.undefined_reason(truth[known]):
            continue
        hits, alarms = roc_points(score[known], truth[known])
        style = {"color": ORANGE, "linewidth": 2} if name == strong else {"color": BLUE, "linewidth": 0.8, "alpha": 0.6}
        label = name if name == strong else "single tables" if name == single[0] else None
        axis.plot(alarms, hits, label=label, **style)
    readers = comparison.readers
    for position, row in enumerate(readers[readers["finding"] == slug].itertuples() if len(readers) else ()):
        axis.plot(1 - row.specificity, row.sensitivity, "^", color=GREEN, markersize=7, markeredgecolor="white",
                  label="readers" if position == 0 else None, zorder=5)  # fmt: skip
    area = comparison.reports[strong].findings.get(slug)
    title = slug if area is None else f"{slug}\nAUC {span(area.figures['auc'])}"
    axis.set_title(title, fontsize=10)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel="False positive rate", ylabel="Sensitivity")


def _strongest(comparison: TableComparison) -> str:
    """The blend of the best mean AUC, else the best table."""
    blends = [name for name in comparison.reports if name in BLENDS]
    return max(blends or comparison.reports, key=lambda name: np.nan_to_num(comparison.means[name]["auc"].value))
