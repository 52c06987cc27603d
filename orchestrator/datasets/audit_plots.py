"""The label audit as pictures: bars before and after the contract, and which findings come together.

Goes in: the report of `pathologies.labels.audit.audit_labels`. Comes out: PNG files in a folder, whole or absent.
Called by `hilum labels audit --pictures DIR`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from orchestrator.plotting import save_figure
from pathologies.errors import InputError

BEFORE = {
    "positive": "#b2182b",
    "uncertain": "#fdae61",
    "negative": "#2166ac",
    "blank": "#d9d9d9",
    "unknown": "#969696",
}
AFTER = {"positive": "#b2182b", "soft": "#fdae61", "negative": "#2166ac", "unknown": "#969696"}


def write_audit_pictures(report: Mapping, folder: Path) -> list[Path]:
    """Write labels.png and cooccurrence.png into `folder` and return their paths."""
    if not report["findings"]:
        raise InputError("The audit has no findings, so there is nothing to draw. Audit a file with label columns.")
    pictures = {"labels.png": _labels_figure, "cooccurrence.png": _cooccurrence_figure}
    return [save_figure(draw(report), Path(folder) / name) for name, draw in pictures.items()]


def _labels_figure(report: Mapping):
    """Two bars for each finding: the raw labels, and below what the contract makes of them, as shares of the rows."""
    from matplotlib.figure import Figure

    findings = report["findings"]
    figure = Figure(figsize=(9, 1.6 + 0.5 * len(findings)), layout="constrained")
    axes = figure.subplots()
    rows = max(report["rows"], 1)
    for place, finding in enumerate(findings.values()):
        _stack(axes, place - 0.2, finding, BEFORE, rows)
        _stack(axes, place + 0.2, finding["after"], AFTER, rows)
    axes.set_yticks(range(len(findings)), [finding["name"] for finding in findings.values()])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes.set_xlabel(f"share of {report['rows']:,} images; upper bar as labelled, lower bar under the contract")
    names = {
        "positive": "positive",
        "uncertain": "uncertain, then soft",
        "negative": "negative",
        "blank": "blank",
        "unknown": "unknown",
    }
    handles = [axes.barh(0, 0, color=BEFORE[key], label=label) for key, label in names.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False)
    return figure


def _stack(axes, place: float, counts: Mapping[str, int], colours: Mapping[str, str], rows: int) -> None:
    left = 0.0
    for key, colour in colours.items():
        width = counts[key] / rows
        axes.barh(place, width, height=0.36, left=left, color=colour)
        left += width


def _cooccurrence_figure(report: Mapping):
    """Of the images with the finding of the row, the share that also has the finding of the column."""
    from matplotlib.figure import Figure

    slugs = report["cooccurrence"]["findings"]
    names = [report["findings"][slug]["name"] for slug in slugs]
    together = np.array(report["cooccurrence"]["positive"], dtype=float).reshape(len(slugs), len(slugs))
    own = np.diag(together)[:, None]
    share = np.divide(together, own, out=np.zeros_like(together), where=own > 0)
    side = 2.6 + 0.55 * len(slugs)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(slugs)), names, rotation=60, ha="right")
    axes.set_yticks(
        range(len(slugs)), [f"{name} ({int(count):,})" for name, count in zip(names, own[:, 0], strict=True)]
    )
    for row, column in np.ndindex(share.shape):
        colour = "white" if share[row, column] > 0.6 else "black"
        axes.text(column, row, f"{100 * share[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_title("of images with the row's finding, % that have the column's", fontsize=10)
    figure.colorbar(image, shrink=0.7)
    return figure
