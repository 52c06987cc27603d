"""Does the third answer keep its promise? The coverage of conformal zones, measured on films they were not fitted on.

In: probabilities, truth, patients and the bundle's zones. Out: a frame, a row per finding; a table and sentences for
the terminal. Called by evaluate. The promise: of the films with a finding at most 1 - coverage are answered "absent",
of those without it at most 1 - coverage "present".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from models.statistics import conformal
from models.statistics.bootstrap import Interval, PatientBootstrap, rate_interval
from orchestrator.evaluation.scoring import EvaluationSettings, make_bootstrap
from orchestrator.formatting import number, span

MEASURES = ("positives_covered", "negatives_covered", "uncertain")


def measure_coverage(
    probability: pd.DataFrame,
    truth: pd.DataFrame,
    patients: Sequence,
    findings: Mapping[str, Any],
    settings: EvaluationSettings,
) -> pd.DataFrame:
    """A row per finding that has a zone: nominal coverage, measured figures with bounds, and counts; may be empty."""
    bootstrap = make_bootstrap(patients, settings)
    rows = []
    for slug in truth.columns:
        zone = findings[slug].get("conformal")
        if not zone:
            continue
        answer, label = conformal.answer(probability[slug], zone), truth[slug].to_numpy(float)
        row = {"finding": slug, "nominal": zone["coverage"], "low": zone["low"], "high": zone["high"]}
        row |= {"positives": int((label == 1).sum()), "negatives": int((label == 0).sum())}
        for name, found in _figures(bootstrap, answer, label).items():
            row |= found.columns(name)
        rows.append(row | {"reason": zone.get("reason", "")})
    return pd.DataFrame(rows)


def _figures(bootstrap: PatientBootstrap, answer: np.ndarray, label: np.ndarray) -> dict:
    known = ~np.isnan(label)
    rows = {"positives_covered": label == 1, "negatives_covered": label == 0, "uncertain": known}
    hits = {"positives_covered": answer != 0, "negatives_covered": answer != 1, "uncertain": answer == -1}
    found = {}
    for name in MEASURES:
        figures = bootstrap.mean_scores(np.where(rows[name], hits[name], np.nan))
        found[name] = rate_interval(figures, bootstrap.patients_with(rows[name]), bootstrap.level)
    return found


def coverage_table(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """(titles, rows of text)."""
    titles = ["third answer", "promised", "pos", "covered (95 % interval)", "neg", "covered (95 % interval)"]
    titles += ["uncertain", "from", "to", "notes"]
    rows = []
    for row in frame.to_dict("records"):
        covered = [
            span(Interval(value=row[name], low=row[f"{name}_low"], high=row[f"{name}_high"]), 2)
            for name in MEASURES[:2]
        ]
        counts = [str(row["positives"]), str(row["negatives"])]
        cells = [counts[0], covered[0], counts[1], covered[1], number(row["uncertain"], 2)]
        rows.append(
            [row["finding"], f"{row['nominal']:g}", *cells, number(row["low"]), number(row["high"]), row["reason"]]
        )
    return titles, rows


def coverage_notes(frame: pd.DataFrame) -> list[str]:
    """What the table says, in sentences."""
    if not len(frame):
        return []
    short = [
        row["finding"]
        for row in frame.to_dict("records")
        if any(row[f"{name}_high"] < row["nominal"] for name in MEASURES[:2])
    ]
    share = number(frame["uncertain"].mean(), 2)
    notes = [f"The third answer, uncertain, is given to {share} of the films on average over {len(frame)} findings."]
    if short:
        notes.append(f"Its coverage falls short of what was promised, interval and all: {', '.join(short)}.")
    return notes
