"""A TableComparison shown and stored: tables for the terminal, CSV and JSON files, two pictures.

In: a TableComparison. Out: (titles, rows) of text, sentences, plain data, and the files of a folder. Called by
`hilum evaluate --predictions`.
"""

from pathlib import Path

import pandas as pd

from models.files.layout import to_plain, write_json, write_text
from orchestrator.evaluation.compare_tables import MULTI_LABEL, TableComparison
from orchestrator.evaluation.compare_tables_plots import draw_comparison, draw_roc_curves
from orchestrator.evaluation.scoring import UNDERPOWERED, report_frame
from orchestrator.formatting import aligned, beside, number, span, write_csv

Rows = tuple[list[str], list[list[str]]]
SHOWN = ("average_precision", "sensitivity", "specificity", "f1", "f2", "brier", "ece")


def comparison_frame(comparison: TableComparison) -> pd.DataFrame:
    """A row per table and finding with every figure, and the mean of each table."""
    frames = []
    for name, report in comparison.reports.items():
        frame = report_frame(report)
        last = frame.index[-1]
        together = comparison.means[name] | comparison.multi_label[name]
        for figure, found in together.items():
            for column, value in found.columns(figure).items():
                frame.loc[last, column] = value
        frame.insert(0, "table", name)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def comparison_table(comparison: TableComparison) -> Rows:
    """A row per table: the means over findings, then the multi-label summaries."""
    titles = ["table", "findings", "mean AUC (95 % interval)", "AP", "sens", "spec", "F1", "F2", "Brier", "ECE"]
    titles += ["all right", "Hamming loss", "sample F1"]
    rows = []
    for name, means in comparison.means.items():
        cells = [number(means[figure].value) for figure in SHOWN]
        cells += [number(comparison.multi_label[name][figure].value) for figure in MULTI_LABEL]
        rows.append([name, str(len(comparison.reports[name].findings)), span(means["auc"]), *cells])
    return titles, rows


def finding_table(comparison: TableComparison) -> Rows:
    """A row per table and finding: counts, AUC, the figures of its calls, and its calibration."""
    titles = ["finding", "table", "pos", "neg", "AUC (95 % interval)", "AP", "sens", "spec", "F1", "F2", "Brier"]
    titles += ["ECE (chance)", "notes"]
    slugs = dict.fromkeys(slug for report in comparison.reports.values() for slug in report.findings)
    rows = []
    for slug in slugs:
        for name, report in comparison.reports.items():
            if slug not in report.findings:
                continue
            one = report.findings[slug]
            cells = [number(one.figures[figure].value) for figure in SHOWN]
            cells[-1] = beside(cells[-1], one.ece_chance)
            area = span(one.figures["auc"])
            notes = "; ".join(one.problems)
            rows.append([slug, name, str(one.positives), str(one.negatives), area, *cells, notes])
    return titles, rows


def difference_table(comparison: TableComparison) -> Rows:
    """The mean AUC of the best table minus that of each other one, paired; `*` where p, adjusted after Holm over all
    pairs of tables, is below 0.05."""
    best = max(comparison.means, key=lambda name: comparison.means[name]["auc"].value)
    rows = []
    for row in comparison.differences.query("finding == 'mean'").itertuples():
        if best not in (row.table, row.other):
            continue
        sign, other = (1, row.other) if row.table == best else (-1, row.table)
        low, high = sorted((sign * row.low, sign * row.high))
        star = "*" if row.differs else ""
        rows.append(
            [
                f"{best} minus {other}",
                f"{sign * row.auc_difference:+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                number(row.p_holm) + star,
            ]
        )
    return ["mean AUC, paired", "difference", "95 % interval", "p (Holm over all pairs)"], rows


def reader_table(comparison: TableComparison) -> Rows:
    """A row per reader and finding; for each table its sensitivity at the reader's specificity."""
    ends = " at this specificity"
    tables = [column.removesuffix(ends) for column in comparison.readers.columns if column.endswith(ends)]
    rows = []
    for _, row in comparison.readers.iterrows():
        cells = [number(row["sensitivity"]), number(row["specificity"])]
        cells += [number(row[name + ends]) for name in tables]
        rows.append([row["finding"], row["reader"], str(row["positives"]), *cells])
    return ["sensitivity at the reader's specificity", "reader", "pos", "reader's", "specificity", *tables], rows


def shown_tables(comparison: TableComparison) -> list[Rows]:
    """The tables that have anything to say."""
    shown = [comparison_table(comparison), finding_table(comparison)]
    if len(comparison.reports) > 1:
        shown.append(difference_table(comparison))
    if len(comparison.readers):
        shown.append(reader_table(comparison))
    return shown


def comparison_notes(comparison: TableComparison) -> list[str]:
    """What a reader must know beside the tables, in sentences."""
    first = next(iter(comparison.reports.values()))
    unit = {"image": "films", "study": "studies", "patient": "patients"}[comparison.level]
    notes = [
        f"{comparison.rows} {unit} of {comparison.patients} patients; {first.settings.level:.0%} intervals from "
        f"{first.settings.resamples} resamples of patients, the same for all tables."
    ]
    weak = {slug: one for report in comparison.reports.values() for slug, one in report.findings.items()}
    weak = {slug: one for slug, one in weak.items() if one.underpowered}
    if weak:
        counts = ", ".join(f"{slug} ({one.positives} positive, {one.negatives} negative)" for slug, one in weak.items())
        notes.append(f"Fewer than {UNDERPOWERED} of a class, so read with care: {counts}.")
    return [*notes, *comparison.notes]


def comparison_data(comparison: TableComparison) -> dict:
    """Plain data for JSON: every figure of every table, the means, differences, readers and notes."""
    return to_plain({
        "level": comparison.level,
        "rows": comparison.rows,
        "patients": comparison.patients,
        "tables": {name: report.to_dict() for name, report in comparison.reports.items()},
        "means": {name: _intervals(one) for name, one in comparison.means.items()},
        "multi_label": {name: _intervals(one) for name, one in comparison.multi_label.items()},
        "differences": comparison.differences.to_dict("records"),
        "readers": comparison.readers.to_dict("records"),
        "notes": comparison_notes(comparison),
    })  # fmt: skip


def _intervals(figures) -> dict:
    return {name: one.bounds for name, one in figures.items()}


def write_comparison(comparison: TableComparison, folder: Path) -> None:
    """figures.csv, differences.csv, readers.csv, comparison.txt, comparison.json, overview.png and roc.png."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [aligned(*table) for table in shown_tables(comparison)]
    write_text(folder / "comparison.txt", "\n\n".join([*parts, "\n".join(comparison_notes(comparison))]) + "\n")
    write_json(folder / "comparison.json", comparison_data(comparison))
    frames = {"figures": comparison_frame(comparison), "differences": comparison.differences}
    if len(comparison.readers):
        frames["readers"] = comparison.readers
    for name, frame in frames.items():
        write_csv(frame, folder / f"{name}.csv")
    draw_comparison(comparison, folder / "overview.png")
    draw_roc_curves(comparison, folder / "roc.png")
