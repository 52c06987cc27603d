"""Operating points: from which probability on a finding is called present, and what that costs.

In: probabilities (or any scores), reference labels and patients of part `calibrate`. Out: an OperatingPoint, plain data
that goes into a bundle as JSON. A call is score >= threshold. Called by the ensembler, by `adapt` and by `evaluate` for
tables that bring no threshold.

A threshold at which .9 of the films at hand are found finds .9 of new ones half of the time: so `sensitivity>=0.9` and
`specificity>=0.9` ask that the lower 95 % confidence bound reach it (models.statistics.rate_bounds), and `estimated
sensitivity>=0.9` that the films' own figure does. Points made before that carry no `promise`: theirs is the latter.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from models.statistics import metrics
from models.statistics.bootstrap import patient_folds
from models.statistics.metrics import Confusion
from models.statistics.rate_bounds import CONFIDENCE, effective_films, fewest_patients, lower_bounds
from pathologies.errors import InputError

DEFAULT_RULE = "f2"
SPECIFICITY_FLOOR = 0.5  # of the rules f1 and f2: below it, more than half of the healthy would be called ill
RULES = ("f1", "f2", "youden", "sensitivity>=S", "specificity>=S", "precision>=P", "cost(FN,FP)")
RULES += ("estimated sensitivity>=S", "estimated specificity>=S")
PROMISED = ("sensitivity", "specificity")  # rules whose rate is a lower confidence bound
PROMISE = f"one-sided {CONFIDENCE:.0%} lower confidence bound, films clustered by patient".replace("%", " %")
ESTIMATED = "estimated "
ESTIMATE = "estimate on the films it was chosen on"


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold, whether it is of any use, and its figures on the films it was chosen on (NaN: undefined)."""

    rule: str
    threshold: float
    useful: bool
    reason: str = ""  # why it is not useful
    positives: int = 0
    negatives: int = 0
    sensitivity: float = float("nan")
    specificity: float = float("nan")
    precision: float = float("nan")
    f1: float = float("nan")
    f2: float = float("nan")
    promise: str = ""  # of a rule that names a rate: what is said to reach it, PROMISE or ESTIMATE
    lower_bound: float = float("nan")  # of that rate, where it is promised

    def to_dict(self) -> dict:
        """Plain data for JSON; NaN becomes None. What only promises have is left out of other points."""
        data = {name: None if value != value else value for name, value in asdict(self).items()}
        return data if self.promise else {name: data[name] for name in data if name not in ("promise", "lower_bound")}

    @classmethod
    def from_dict(cls, data: Mapping) -> "OperatingPoint":
        """The inverse of to_dict."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise InputError(f"Unknown operating point key {unknown[0]!r}. Known: {', '.join(known)}.")
        return cls(**{name: float("nan") if value is None else value for name, value in data.items()})


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Every threshold that tells the films apart, ascending, from "always" to "never", with its outcomes."""

    thresholds: np.ndarray
    counts: Confusion


def candidates(score, truth, weight=None) -> Candidates:
    """One threshold midway between each two neighbouring scores, and one at either end."""
    score, truth, weight = metrics.known_rows(score, truth, weight)
    if not np.isfinite(score).all():
        raise InputError(f"{np.sum(~np.isfinite(score))} of {len(score)} scores are infinite; leave those rows out.")
    values, group = np.unique(score, return_inverse=True)
    positive = np.concatenate([[0.0], np.cumsum(np.bincount(group, weight * truth))])
    negative = np.concatenate([[0.0], np.cumsum(np.bincount(group, weight * (1 - truth)))])
    counts = Confusion(
        true_positive=positive[-1] - positive,
        false_positive=negative[-1] - negative,
        true_negative=negative,
        false_negative=positive,
    )
    return Candidates(thresholds=_thresholds(values), counts=counts)


def _thresholds(values: np.ndarray) -> np.ndarray:
    """Ends: 0 and 1 for probabilities, so that "always" and "never" hold for new films too; else past the scores."""
    between = values[:-1] / 2 + values[1:] / 2
    between = np.where(between > values[:-1], between, values[1:])  # neighbouring doubles have no midpoint
    if metrics.is_probability(values):
        never = 1.0 if values[-1] < 1 else np.nextafter(1.0, 2.0)
        return np.concatenate([[0.0], between, [never]])
    return np.concatenate([values[:1], between, [np.nextafter(values[-1], np.inf)]])


def choose(score, truth, rule: str = DEFAULT_RULE, *, weight=None, patients=None) -> OperatingPoint:
    """Choose a threshold by a rule; see RULES.

    f1, f2: the best F among thresholds with specificity >= SPECIFICITY_FLOOR; useful if it beats "always positive".
    youden: the largest sensitivity + specificity; useful if above 1. sensitivity>=S: the highest threshold whose lower
    confidence bound reaches it, and specificity>=S the lowest; "estimated" before either: whose estimate does, as that
    of precision>=P. Useful if reached, and better than guessing (sensitivity + specificity above 1). cost(FN,FP): the
    least cost of a missed finding and of a false alarm; useful if cheaper than "always" and than "never". Among equals
    the lowest threshold stands: missing a finding is the worse error.

    `patients` of each row make the bounds honest (none: every film is a patient's only one).
    """
    name, arguments = parse_rule(rule)
    rate = name.removeprefix(ESTIMATED)
    promise = "" if rate not in PROMISED else PROMISE if name in PROMISED else ESTIMATE
    blank = OperatingPoint(rule=rule, threshold=0.5, useful=False, promise=promise)
    reason = metrics.undefined_reason(truth, weight)
    if reason:
        return replace(blank, reason=f"no useful threshold: {reason}")
    found = candidates(score, truth, weight)
    if name in PROMISED:
        if weight is not None:
            raise ValueError(f"{rule}: a confidence bound is of films that weigh the same; leave `weight` out.")
        index, problem, bound = _promised(found, _Cases.of(score, truth, patients, rate), *arguments)
    else:
        (index, problem), bound = _CHOOSERS[name](found.counts, *arguments), float("nan")
    problem = f"no useful threshold: {problem}" if problem else ""
    return _point(found, int(index), replace(blank, useful=not problem, reason=problem, lower_bound=bound))


def parse_rule(rule: str) -> tuple[str, tuple[float, ...]]:
    """Split "precision>=0.8" into ("precision", (0.8,)); InputError naming the rules if it is none of them."""
    text = rule.replace(" ", "").lower()
    if text in ("f1", "f2"):
        return "f", (float(text[1]),)
    if text == "youden":
        return text, ()
    number = r"(\d+(?:\.\d*)?|\.\d+)"
    level = re.fullmatch(rf"(sensitivity|specificity|precision|estimated(?:sensitivity|specificity))>={number}", text)
    if level and 0 < float(level[2]) <= 1:
        return level[1].replace("estimated", ESTIMATED), (float(level[2]),)
    cost = re.fullmatch(rf"cost\({number},{number}\)", text)
    if cost and float(cost[1]) > 0 and float(cost[2]) > 0:
        return "cost", (float(cost[1]), float(cost[2]))
    raise InputError(
        f"Unknown operating point rule {rule!r}. Known: {', '.join(RULES)}; S and P in (0, 1], costs above 0."
    )


def _point(found: Candidates, index: int, blank: OperatingPoint) -> OperatingPoint:
    counts = at(found.counts, index)
    return replace(
        blank,
        threshold=float(found.thresholds[index]),
        positives=round(counts.true_positive + counts.false_negative),
        negatives=round(counts.true_negative + counts.false_positive),
        **figures(counts),
    )


def at(counts: Confusion, index: int) -> Confusion:
    """One entry of a Confusion of arrays."""
    return Confusion(**{field.name: float(getattr(counts, field.name)[index]) for field in fields(Confusion)})


def figures(counts: Confusion) -> dict[str, float]:
    """The figures that an OperatingPoint shows."""
    return {
        "sensitivity": metrics.sensitivity(counts),
        "specificity": metrics.specificity(counts),
        "precision": metrics.precision(counts),
        "f1": metrics.f_beta(counts, 1),
        "f2": metrics.f_beta(counts, 2),
    }


def _youden(counts: Confusion) -> np.ndarray:
    return metrics.sensitivity(counts) + metrics.specificity(counts) - 1


def _best_f(counts: Confusion, beta: float) -> tuple[int, str]:
    score = metrics.f_beta(counts, beta)
    allowed = metrics.specificity(counts) >= SPECIFICITY_FLOOR
    index = int(np.argmax(np.where(allowed, score, -1.0)))
    if score[index] > score[0]:
        return index, ""
    return index, f"the best F{beta:g} with specificity >= {SPECIFICITY_FLOOR:g}, {score[index]:.3f}, " + (
        f'does not beat "always positive", {score[0]:.3f}'
    )


def _best_youden(counts: Confusion) -> tuple[int, str]:
    index = int(np.argmax(_youden(counts)))
    return index, _guess_problem(counts, index)


def _guess_problem(counts: Confusion, index: int) -> str:
    better = _youden(counts)[index] > 1e-12  # rounding of two fractions that add up to 1
    return "" if better else "no better than guessing (sensitivity + specificity do not exceed 1)"


def _reach_sensitivity(counts: Confusion, wanted: float) -> tuple[int, str]:
    index = int(np.flatnonzero(metrics.sensitivity(counts) >= wanted - 1e-12)[-1])
    return index, _guess_problem(counts, index)


def _reach_specificity(counts: Confusion, wanted: float) -> tuple[int, str]:
    index = int(np.flatnonzero(metrics.specificity(counts) >= wanted - 1e-12)[0])
    return index, _guess_problem(counts, index)


def _reach_precision(counts: Confusion, wanted: float) -> tuple[int, str]:
    values = np.nan_to_num(metrics.precision(counts), nan=-1.0)
    reached = np.flatnonzero(values >= wanted - 1e-12)
    if reached.size == 0:
        return len(values) - 1, f"no threshold has a precision of {wanted:g}; the best is {values.max():.3f}"
    return int(reached[0]), _guess_problem(counts, int(reached[0]))


@dataclass(frozen=True, kw_only=True)
class _Cases:
    """The films of the class that a rate is of, in the order in which a moving threshold reaches them."""

    rate: str
    score: np.ndarray  # of a sensitivity the highest first, of a specificity the lowest
    patients: np.ndarray

    @classmethod
    def of(cls, score, truth, patients, rate: str) -> "_Cases":
        score, truth = np.asarray(score, dtype=np.float64), np.asarray(truth, dtype=np.float64)
        patients = np.arange(len(score)) if patients is None else np.asarray(patients)
        chosen = np.flatnonzero(truth >= 0.5 if rate == "sensitivity" else truth < 0.5)
        sign = -1 if rate == "sensitivity" else 1
        order = chosen[np.argsort(sign * score[chosen], kind="stable")]
        return cls(rate=rate, score=score[order], patients=patients[order])

    def reached(self, thresholds: np.ndarray) -> np.ndarray:
        """By each threshold: how many films are called present (of a specificity: absent)."""
        if self.rate == "sensitivity":
            return len(self.score) - np.searchsorted(self.score[::-1], thresholds, side="left")
        return np.searchsorted(self.score, thresholds, side="left")


def _promised(found: Candidates, cases: _Cases, wanted: float) -> tuple[int, str, float]:
    """(threshold, problem, bound): from the threshold that reaches every film on while the bound stays high enough.

    That is a test of each in a fixed order, which ends at the first failure, so trying many costs nothing (Westfall and
    Krishen, J Stat Plan Inference 2001;99:25-40). Where the bound never is high enough, the last threshold that reaches
    every film stands, of no use.
    """
    reached = cases.reached(found.thresholds)
    bounds = lower_bounds(cases.patients)[reached]
    order = np.arange(len(bounds)) if cases.rate == "sensitivity" else np.arange(len(bounds))[::-1]
    failed = np.flatnonzero(bounds[order] < wanted - 1e-12)
    steps, problem = (failed[0] if failed.size else len(order)), ""
    if not steps:
        steps = np.count_nonzero(reached == len(cases.score))
        problem = f"no threshold can promise a {cases.rate} of {wanted:g}: {_too_few(cases, wanted)}"
    index = int(order[steps - 1])
    return index, problem or _guess_problem(found.counts, index), float(bounds[index])


def _too_few(cases: _Cases, wanted: float) -> str:
    if wanted >= 1:
        return "films can show that few are missed, never that none is"
    kind, least = ("positive" if cases.rate == "sensitivity" else "negative"), fewest_patients(wanted)
    owners, worth = len(np.unique(cases.patients)), effective_films(cases.patients)[-1]
    alike = f" count as {worth:.1f}, their films being unequally many, and" if worth < owners - 0.05 else ","
    return f"{owners} {kind} patients{alike} at least {least} are needed"


def _least_cost(counts: Confusion, missed: float, alarm: float) -> tuple[int, str]:
    cost = missed * counts.false_negative + alarm * counts.false_positive
    index = int(np.argmin(cost))
    simple = "always" if cost[0] <= cost[-1] else "never"
    return index, "" if cost[index] < min(cost[0], cost[-1]) else f'nothing is cheaper than "{simple} positive"'


_CHOOSERS: dict[str, Callable[..., tuple[int, str]]] = {
    "f": _best_f,
    "youden": _best_youden,
    "estimated sensitivity": _reach_sensitivity,
    "estimated specificity": _reach_specificity,
    "precision": _reach_precision,
    "cost": _least_cost,
}


def cross_validated_calls(
    score, truth, patients, rule: str = DEFAULT_RULE, folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Yes/no calls for every row, each at the threshold chosen on the other patients' folds.

    A strictly increasing calibration changes no such call, so logits give the same calls as calibrated probabilities.
    """
    score, truth = np.asarray(score, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    fold = patient_folds(patients, truth, folds, seed)
    call = np.zeros(len(score), dtype=bool)
    for one in np.unique(fold):
        held_out = fold == one
        others = ~held_out
        point = choose(score[others], truth[others], rule, patients=np.asarray(patients)[others])
        call[held_out] = score[held_out] >= point.threshold
    return call


def cross_validated_figures(score, truth, patients, rule: str = DEFAULT_RULE, **folding) -> dict[str, float]:
    """Sensitivity, specificity, precision, F1 and F2 of cross_validated_calls, pooled over the folds."""
    call = cross_validated_calls(score, truth, patients, rule, **folding)
    return figures(metrics.confusion(call, truth))
