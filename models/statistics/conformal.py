"""The third answer: "uncertain", where a film is typical of neither class, or of both.

In: calibrated probabilities, reference labels and patients of part `calibrate`. Out: a zone, plain data that goes into
a bundle as JSON, and answers 1 (present), 0 (absent) or -1 (uncertain) as CheXpert's own labels have them. Called by
the ensembler, `predict` and `evaluate`. numpy only.

Split conformal prediction, each class on its own (Mondrian: Vovk, Machine Learning 2013;92:349-376): a film with the
finding is answered "absent" with a chance of at most 1 - coverage, and one without it "present" likewise. Films of one
patient resemble each other, so patients, not films, are what is exchangeable: every patient of a class weighs the same,
shared by their films, and one more patient is counted at the far end (Lee, Barber and Willett, Distribution-free
inference with hierarchical data, arXiv 2306.06342). The promise is about a film of a new patient.

The bounds are places in the ranking of the films, which no strictly increasing calibration changes; so the calibration
may have been fitted on the same films. So may one with plateaus (isotonic): it never falls, hence a bound on the
probabilities is the calibration's value at the bound on the scores, and whoever lies beyond the one lies beyond the
other. Plateaus only add uncertain answers, those of the films that share the bound's plateau: coverage rises.
"""

from collections.abc import Mapping

import numpy as np

from models.statistics.metrics import known_probabilities
from pathologies.errors import InputError

COVERAGE = 0.9


def fit(probability, truth, patients, coverage: float = COVERAGE) -> dict:
    """The zone {coverage, low, high, positive_patients, negative_patients, reason}; rows of unknown truth are left out.

    Below `low` the answer is 0, above `high` it is 1, else -1. With too few patients of a class for the coverage
    (under coverage / (1 - coverage), so 9 for 0.9) that class is never excluded, and `reason` says so.
    """
    if not 0 < coverage < 1:
        raise InputError(f"The coverage is {coverage}. Allowed: between 0 and 1, for example {COVERAGE}.")
    known = ~np.isnan(np.asarray(truth, dtype=np.float64))
    patients = np.asarray(patients)[known]
    probability, truth, _ = known_probabilities(np.asarray(probability)[known], np.asarray(truth)[known])
    positive = truth >= 0.5
    low, ill = _bound(-probability[positive], patients[positive], coverage)
    high, well = _bound(probability[~positive], patients[~positive], coverage)
    low, high = (0.0 if low is None else -low), (1.0 if high is None else high)
    if low > high:  # a gap in which neither answer is typical: one cut through it only adds to what is covered
        low = high = (low + high) / 2
    counts = (("positive", ill), ("negative", well))
    few = " and ".join(f"{count} {name} patients" for name, count in counts if _few(count, coverage))
    return {
        "coverage": coverage,
        "low": float(low),
        "high": float(high),
        "positive_patients": ill,
        "negative_patients": well,
        "reason": f"{few} are too few to exclude that answer at {coverage:g}" if few else "",
    }


def answer(probability, zone: Mapping) -> np.ndarray:
    """1 present, 0 absent, -1 uncertain for each probability; int8."""
    probability = np.asarray(probability, dtype=np.float64)
    return np.where(probability > zone["high"], 1, np.where(probability < zone["low"], 0, -1)).astype(np.int8)


def coverages(answers, truth) -> dict[str, float]:
    """Share of the positives not called absent, of the negatives not called present, and of uncertain answers."""
    answers, truth = np.asarray(answers), np.asarray(truth, dtype=np.float64)
    positive, negative = truth >= 0.5, truth < 0.5  # both False where unknown
    known = positive | negative
    return {
        "positives_covered": _share(answers[positive] != 0),
        "negatives_covered": _share(answers[negative] != 1),
        "uncertain": _share(answers[known] == -1),
    }


def _bound(oddness: np.ndarray, patients: np.ndarray, coverage: float) -> tuple[float | None, int]:
    """The oddness that at most 1 - coverage of new patients' films exceed, None: no such; and how many patients."""
    _, patient, films = np.unique(patients, return_inverse=True, return_counts=True)
    order = np.argsort(oddness, kind="stable")
    share = np.cumsum(1 / films[patient[order]]) / (len(films) + 1)
    reached = np.flatnonzero(share >= coverage - 1e-12)
    return (float(oddness[order[reached[0]]]) if reached.size else None), len(films)


def _few(patients: int, coverage: float) -> bool:
    return patients / (patients + 1) < coverage - 1e-12


def _share(mask: np.ndarray) -> float:
    return float(mask.mean()) if mask.size else float("nan")
