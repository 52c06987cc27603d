"""A finding's entry of a bundle carried over to another prevalence, without a film.

In: an entry of bundle.json and a share of positives. Out: the entry's calibration, operating points and conformal zone
at that share. Called by adapt. All of it rests on one assumption, label shift: films with the finding look as they did,
and so do films without it; there are only more or fewer of them (Saerens, Latinne and Decaestecker, Neural Computation
2002;14:21-41). Then the same films keep their order, and a threshold moved along keeps its sensitivity and specificity.

Where a bundle raises parents to their children, a parent's thresholds and zone lie on the scale of the largest of
several probabilities. Moved by unlike steps these change places, so no threshold calls the same films as before, and
what was measured of it says nothing: `withdraw_points` takes such a finding's yes/no answers back. A cost rule stays:
it asks for a probability, which is still one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.statistics import metrics
from models.statistics.calibration import Calibration, with_prevalence
from models.statistics.metrics import Confusion, sigmoid
from models.statistics.reliability import log_odds
from models.statistics.thresholds import parse_rule
from pathologies.findings.catalog import descendants

UNKNOWN_FIGURES = dict.fromkeys(("sensitivity", "specificity", "precision", "f1", "f2"))
SAME_STEP = 1e-9  # of log odds
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


def off_scale(
    before: Mapping[str, Mapping[str, Any]],
    after: Mapping[str, Mapping[str, Any]],
    parents: Mapping[str, Sequence[str]],
) -> dict[str, list[str]]:
    """{parent: its family} for every finding that is raised to others which moved by another step than its own.

    before, after: all entries of a bundle that raises parents, none of those of `after` fitted anew.
    """
    step = {
        slug: log_odds(prevalence_of(entry)) - log_odds(prevalence_of(before[slug])) for slug, entry in after.items()
    }
    families = {slug: [slug, *descendants(slug, parents)] for slug in after}
    return {slug: family for slug, family in families.items() if np.ptp([step[one] for one in family]) > SAME_STEP}


def withdraw_points(entry: Mapping[str, Any], children: Sequence[str]) -> dict[str, Any]:
    """The entry of a parent without the thresholds and the zone that its children's unlike steps make meaningless."""
    why = f"it is raised to {', '.join(children)}, whose prevalence did not move with its own"
    points = {}
    for rule, point in entry["operating_points"].items():
        if parse_rule(rule)[0] == "cost":
            points[rule] = dict(point) | UNKNOWN_FIGURES | {"shifted": True, "cross_validated": {}}
            continue
        gone = {"useful": False, "reason": f"no useful threshold: {why}", "shifted": True, "cross_validated": {}}
        points[rule] = dict(point) | UNKNOWN_FIGURES | gone | ({"lower_bound": None} if point.get("promise") else {})
    found = dict(entry) | {"operating_points": points}
    if entry.get("conformal"):
        open_zone = {"low": 0.0, "high": 1.0, "reason": f"no answer is excluded: {why}"}
        found["conformal"] = {name: value for name, value in entry["conformal"].items() if name != "cross_validated"}
        found["conformal"] |= open_zone
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
    name, arguments = parse_rule(rule)
    shifted = {name: value for name, value in point.items() if name != "cross_validated"}
    if name == "cost":
        return shifted | UNKNOWN_FIGURES | {"shifted": True, "cross_validated": {}}
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
