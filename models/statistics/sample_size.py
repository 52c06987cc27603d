"""How many cases a figure needs: the underpowered guard.

Goes in: the numbers of positive and negative cases of a finding in a part. Comes out: whether figures from it are
marked "underpowered", how wide an interval to expect, and how many cases an interval of +-0.05 needs. Called by
`evaluate` and the report. Needs no package beside Python's own.

Cases are independent: count patients, not images, where patients have several. Images of one patient agree with each
other, so by images the numbers below are too small.

- AUC: Hanley and McNeil, Radiology 1982;143:29-36. With AUC A, p positives and n negatives, Q1 = A / (2 - A) and
  Q2 = 2 A^2 / (1 + A), the standard error is sqrt((A(1 - A) + (p - 1)(Q1 - A^2) + (n - 1)(Q2 - A^2)) / (p n)), and the
  95 % interval is A +- 1.96 standard errors.
- Sensitivity and specificity: the normal interval of a proportion, s +- 1.96 sqrt(s(1 - s) / cases); solved for the
  cases it is Buderer's rule, Acad Emerg Med 1996;3:895-900. Only the positives count for sensitivity, only the
  negatives for specificity.
"""

import math
from dataclasses import dataclass

from pathologies.errors import InputError

MINIMUM_CASES = 20  # fewer positives or negatives than this, and a figure is marked
HALF_WIDTH = 0.05
Z_95 = 1.959964  # 97.5th percentile of the normal distribution
PLANNED_AUC = 0.85  # what is expected when nothing is measured yet
PLANNED_SENSITIVITY = 0.80


@dataclass(frozen=True, kw_only=True)
class SampleSize:
    """What the cases of a part are good for."""

    positives: int
    negatives: int
    minimum: int
    underpowered: bool
    auc_half_width: float  # of the 95 % interval to expect at the planned AUC; NaN with one class only
    positives_needed_for_auc: int  # for +-0.05, with as many negatives to a positive as the part has
    negatives_needed_for_auc: int  # that go with them
    cases_needed_for_sensitivity: int  # positives (for the specificity: negatives) for +-0.05
    note: str  # "" or the sentence that stands beside the figures


def judge_sample_size(
    positives: int,
    negatives: int,
    *,
    minimum: int = MINIMUM_CASES,
    auc: float = PLANNED_AUC,
    sensitivity: float = PLANNED_SENSITIVITY,
) -> SampleSize:
    """Judge a part by its cases, at the AUC and sensitivity that are planned for or were measured."""
    if positives < 0 or negatives < 0:
        raise InputError(f"A part has {positives} positives and {negatives} negatives. Allowed: 0 or more.")
    both = positives > 0 and negatives > 0
    ratio = negatives / positives if both else 1.0
    needed_auc = positives_needed_for_auc(auc, ratio=ratio)
    needed = (needed_auc, max(1, math.ceil(ratio * needed_auc)), cases_needed_for_proportion(sensitivity))
    underpowered = min(positives, negatives) < minimum
    return SampleSize(
        positives=positives,
        negatives=negatives,
        minimum=minimum,
        underpowered=underpowered,
        auc_half_width=Z_95 * auc_standard_error(auc, positives, negatives) if both else math.nan,
        positives_needed_for_auc=needed[0],
        negatives_needed_for_auc=needed[1],
        cases_needed_for_sensitivity=needed[2],
        note=_note(positives, negatives, minimum, needed) if underpowered else "",
    )


def auc_standard_error(auc: float, positives: int, negatives: int) -> float:
    """Standard error of an area under the ROC curve after Hanley and McNeil."""
    _check_share("AUC", auc)
    if positives < 1 or negatives < 1:
        raise InputError(f"An AUC needs both classes; got {positives} positives and {negatives} negatives.")
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return math.sqrt(max(variance, 0.0) / (positives * negatives))


def positives_needed_for_auc(auc: float, *, ratio: float = 1.0, half_width: float = HALF_WIDTH) -> int:
    """The fewest positives, with `ratio` negatives to each, whose 95 % interval is at most +-`half_width`."""
    _check_share("AUC", auc)
    if not (ratio > 0 and half_width > 0):
        raise InputError(f"Negatives to a positive are {ratio}, the half width is {half_width}. Allowed: above 0.")

    def wide_enough(positives: int) -> bool:
        negatives = max(1, math.ceil(ratio * positives))
        return Z_95 * auc_standard_error(auc, positives, negatives) <= half_width

    high = 1
    while not wide_enough(high):
        high *= 2
    low = high // 2 + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if wide_enough(middle) else (middle + 1, high)
    return high


def cases_needed_for_proportion(share: float, *, half_width: float = HALF_WIDTH) -> int:
    """The fewest cases whose 95 % interval of a sensitivity or specificity of `share` is at most +-`half_width`."""
    _check_share("sensitivity", share)
    if half_width <= 0:
        raise InputError(f"The half width is {half_width}. Allowed: above 0.")
    return max(1, math.ceil(Z_95**2 * share * (1 - share) / half_width**2))


def _note(positives: int, negatives: int, minimum: int, needed: tuple[int, int, int]) -> str:
    """The sentence on the scarcer class: how many there are and how many an interval needs."""
    for_positives, for_negatives, for_share = needed
    count, word, rate, for_auc = positives, "positives", "sensitivity", for_positives
    if negatives < positives:
        count, word, rate, for_auc = negatives, "negatives", "specificity", for_negatives
    return (
        f"underpowered: {count} {word} (fewer than {minimum}); a 95 % interval of +-{HALF_WIDTH:g} needs about "
        f"{for_auc:,} {word} for the AUC and {for_share:,} for the {rate}"
    )


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"The {name} is {value}. Allowed: 0 to 1.")
