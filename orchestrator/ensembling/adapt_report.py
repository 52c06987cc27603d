"""What an adaptation changed, as tables of text: before > after.

In: the changes by finding. Out: (titles, rows) for the terminal. Called by adapt.
"""

from collections.abc import Mapping
from typing import Any

from orchestrator.formatting import number, signed

Rows = tuple[list[str], list[list[str]]]


def film_table(changes: Mapping[str, Any]) -> Rows:
    """A row per finding that the local films label; of the others there is nothing to compare."""
    titles = ["before > after, on local films", "what", "films", "pos", "AUC", "prevalence", "Brier"]
    titles += ["change (95 % interval)", "ECE (chance)", "slope", "threshold", "sens", "spec"]
    rows = []
    for slug, change in changes.items():
        facts = change.facts
        if not facts:
            continue
        before, after, gap = facts["before"], facts["after"], facts["brier_change"]
        ece = f"{_pair(before['ece'], after['ece'])} ({number(after['ece_chance'])})"
        rows.append([
            slug, change.how, str(facts["films"]), str(facts["positives"]), number(facts["auc"]),
            _pair(facts["prevalence"]["before"], facts["prevalence"]["after"]), _pair(before["brier"], after["brier"]),
            signed(**gap) if gap else "-", ece, _pair(before["slope"], after["slope"], 2),
            _pair(facts["threshold"]["before"], facts["threshold"]["after"]),
            _pair(before.get("sensitivity"), after.get("sensitivity"), 2),
            _pair(before.get("specificity"), after.get("specificity"), 2),
        ])  # fmt: skip
    return titles, rows


def prevalence_table(findings: Mapping[str, Any], changes: Mapping[str, Any]) -> Rows:
    """A row per finding whose prevalence was given; `findings` are the entries as they were."""
    titles = ["before > after", "prevalence", "threshold", "sens", "spec", "precision (expected)"]
    rows = []
    for slug, change in changes.items():
        old = findings[slug]
        before, after = (entry["operating_points"][entry["operating_point"]] for entry in (old, change.entry))
        share = change.facts["prevalence"]
        rows.append([
            slug, _pair(share["before"], share["after"]), _pair(before["threshold"], after["threshold"]),
            number(after["sensitivity"], 2), number(after["specificity"], 2),
            _pair(before["precision"], after["precision"]),
        ])  # fmt: skip
    return titles, rows


def _pair(before: float | None, after: float | None, digits: int = 3) -> str:
    return f"{number(before, digits)} > {number(after, digits)}"
