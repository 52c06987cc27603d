"""A finding's entry of a bundle carried over to another prevalence, without a film.

In: an entry of bundle.json and a share of positives. Out: the entry's calibration, operating points and conformal zone
at that share. Called by adapt. All of it rests on one assumption, label shift: films with the finding look as they did,
and so do films without it; there are only more or fewer of them (Saerens, Latinne and Decaestecker, Neural Computation
2002;14:21-41). Then the same films keep their order, and a threshold moved along keeps its sensitivity and specificity.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models import metrics, operating
from models.calibration import Calibration, with_prevalence
from models.metrics import Confusion, sigmoid
from models.reliability import log_odds

PRIOR_FILMS = 2  # the old prevalence counts as so many films when a new one is estimated: never 0, never 1


def estimate_prevalence(truth: np.ndarray, old: float) -> float:
    """The share of positives among known labels, a little pulled to the old one; the old one without labels."""
    truth = np.asarray(truth, dtype=np.float64)
    truth = truth[~np.isnan(truth)]
    return float((truth.sum() + PRIOR_FILMS * old) / (len(truth) + PRIOR_FILMS))


def prevalence_of(entry: Mapping[str, Any]) -> float:
    """The share of positives that the entry's calibration knows; strictly between 0 and 1."""
    known = entry["calibration"].get("prevalence")
    if known is not None and 0 < known < 1:
        return float(known)
    counts = entry["counts"]
    return (counts["positives"] + 1) / (counts["films"] + 2)


def shift_calibration(entry: Mapping[str, Any], prevalence: float) -> Calibration:
    return with_prevalence(Calibration.from_dict(entry["calibration"]), prevalence, prevalence_of(entry))


def shift_entry(entry: Mapping[str, Any], prevalence: float) -> dict[str, Any]:
    """`calibration`, `operating_points` and, where there is one, `conformal` at another prevalence."""
    step = float(log_odds(prevalence) - log_odds(prevalence_of(entry)))
    points = {rule: _shift_point(rule, point, step, prevalence) for rule, point in entry["operating_points"].items()}
    found = {"calibration": shift_calibration(entry, prevalence).to_dict(), "operating_points": points}
    zone = entry.get("conformal")
    if zone:
        found["conformal"] = {**zone, "low": _moved(zone["low"], step), "high": _moved(zone["high"], step)}
    return found


def _moved(probability: float, step: float) -> float:
    """A probability moved by a step of the log odds; "always" and "never" stay what they are."""
    if not 0 < probability < 1:
        return probability
    return float(sigmoid(log_odds(probability) + step))


def _shift_point(rule: str, point: Mapping[str, Any], step: float, prevalence: float) -> dict[str, Any]:
    """The same films are called; precision and F follow from the new share. A cost rule keeps its probability instead:
    what a false alarm may cost does not depend on how common a finding is.
    """
    name, arguments = operating.parse_rule(rule)
    shifted = {name: value for name, value in point.items() if name != "cross_validated"}
    if name == "cost":
        unknown = dict.fromkeys(("sensitivity", "specificity", "precision", "f1", "f2"))
        return shifted | unknown | {"shifted": True, "cross_validated": {}}
    shifted["threshold"] = _moved(point["threshold"], step)
    shifted |= _expected(point, prevalence) | {"shifted": True}
    judged = point.get("cross_validated", {})
    if judged:
        kept = {name: judged[name] for name in ("sensitivity", "specificity") if name in judged}
        values = {name: one["value"] for name, one in kept.items()}
        precision = _expected(values, prevalence).get("precision")
        shifted["cross_validated"] = kept | {"precision": {"value": precision, "low": None, "high": None}}
    precision = shifted.get("precision")
    if name == "precision" and point["useful"] and precision is not None and precision < arguments[0]:
        reason = f"no useful threshold: at a prevalence of {prevalence:.3g} its precision is about {precision:.3f}"
        shifted |= {"useful": False, "reason": reason}
    return shifted


def _expected(point: Mapping[str, Any], prevalence: float) -> dict[str, float]:
    """Precision and F that a sensitivity and a specificity give at a share of positives."""
    hit, spared = point.get("sensitivity"), point.get("specificity")
    if hit is None or spared is None:
        return {}
    counts = Confusion(
        true_positive=prevalence * hit,
        false_negative=prevalence * (1 - hit),
        true_negative=(1 - prevalence) * spared,
        false_positive=(1 - prevalence) * (1 - spared),
    )
    return {
        "precision": metrics.precision(counts),
        "f1": metrics.f_beta(counts, 1),
        "f2": metrics.f_beta(counts, 2),
    }
