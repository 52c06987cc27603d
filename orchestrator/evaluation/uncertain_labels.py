"""What the uncertain labels could change: the figures with all of them absent, and with all of them present.

In: probabilities, and the truth of the same rows under the reference contract and under the two readings. Out: a frame
with a row per finding that has uncertain films; a table and sentences for the terminal. Called by evaluate.

The reference contract leaves a film out whose report hedges. So "calibrated" means: given a report that is certain;
where reports hedge often (CheXpert: 3.1 uncertain for each positive of pneumonia) the films that are left out are the
hard ones. Their truth is not known. The two readings, all absent and all present, are the U-Zeros and U-Ones of Irvin
et al. (CheXpert, AAAI 2019), here for scoring: the observed rate lies between theirs for certain, the AUC of a mixture
need not. The reported figures and their patient-clustered intervals stay those without the uncertain films.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from models.statistics import metrics, reliability
from orchestrator.formatting import number

READINGS = {"absent": "zeros", "present": "ones"}  # -> the uncertain policy that reads it so
LEFT_OUT = "left_out"
MEASURES = ("auc", "rate", "mean_probability", "ece")


def measure_uncertain(
    probability: pd.DataFrame, truth: pd.DataFrame, readings: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """A row per finding with uncertain rows: how many, then each of MEASURES for each reading; may be empty.

    `readings`: by the names of READINGS, the truth with uncertain labels read so. Rows correspond by position.
    """
    rows = []
    for slug in truth.columns:
        score, known = probability[slug].to_numpy(float), truth[slug].to_numpy(float)
        answers = {LEFT_OUT: known} | {name: frame[slug].to_numpy(float) for name, frame in readings.items()}
        uncertain = np.isnan(known) & ~np.isnan(answers["absent"])
        if not uncertain.any():
            continue
        row: dict[str, Any] = {"finding": slug, "uncertain": int(uncertain.sum()), "positives": int((known == 1).sum())}
        row["per_positive"] = metrics.divide(uncertain.sum(), row["positives"])
        row["uncertain_mean_probability"] = float(score[uncertain].mean())
        for name, answer in answers.items():
            row |= {f"{measure}_{name}": value for measure, value in _figures(score, answer).items()}
        rows.append(row)
    return pd.DataFrame(rows)


def _figures(score: np.ndarray, answer: np.ndarray) -> dict[str, float]:
    known = ~np.isnan(answer)
    score, answer = score[known], answer[known]
    return {
        "auc": metrics.auc(score, answer),
        "rate": metrics.divide(answer.sum(), len(answer)),
        "mean_probability": metrics.divide(score.sum(), len(score)),
        "ece": reliability.ece(score, answer),
    }


def uncertain_table(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """(titles, rows of text); in brackets with all uncertain labels read as 0, then as 1."""
    titles = ["uncertain labels", "number", "per positive", "AUC (as 0, as 1)", "rate (as 0, as 1)"]
    titles += ["mean probability (with them)", "ECE (as 0, as 1)"]
    rows = []
    for row in frame.to_dict("records"):
        mean = f"{number(row['mean_probability_left_out'])} ({number(row['mean_probability_absent'])})"
        cells = [str(row["uncertain"]), number(row["per_positive"], 2), _ends(row, "auc"), _ends(row, "rate"), mean]
        rows.append([row["finding"], *cells, _ends(row, "ece")])
    return titles, rows


def _ends(row: Mapping[str, Any], name: str) -> str:
    ends = ", ".join(number(row[f"{name}_{reading}"]) for reading in READINGS)
    return f"{number(row[f'{name}_{LEFT_OUT}'])} ({ends})"


def uncertain_notes(frame: pd.DataFrame) -> list[str]:
    """What the table says, in sentences."""
    if not len(frame):
        return []
    return [
        f"Uncertain labels are left out of all other figures, so a probability is that of a finding whose report is "
        f"certain. For {', '.join(frame['finding'])} the table also has the figures with all of them absent and with "
        "all of them present."
    ]
