"""Do the probabilities mean what they say? Calibration error and its chance level, reliability bins, calibration line.

In: probabilities in [0, 1], the truth (1, 0, NaN unknown) and optional weights. Out: floats and small arrays. Called by
`evaluate`, by the choice of a calibration and by the reliability picture. numpy only.
"""

from dataclasses import dataclass

import numpy as np

from models.statistics.metrics import divide, known_probabilities, known_rows, sigmoid

BINS = 10
LOGIT_LIMIT = 30.0  # probabilities of exactly 0 or 1 enter the calibration line at these log odds


@dataclass(frozen=True, kw_only=True)
class ReliabilityBins:
    """Per bin, lowest probabilities first: summed weight, mean probability, observed share of positives."""

    mass: np.ndarray
    probability: np.ndarray
    observed: np.ndarray


def bin_index(probability, weight, bins: int = BINS) -> np.ndarray:
    """Put each row into one of `bins` bins of equal mass; equal probabilities always share a bin.

    A row's bin follows from the middle of the mass that its value occupies, so a constant predictor fills one bin and
    the order of the rows plays no part. Heavy ties can leave bins empty.
    """
    _, group = np.unique(probability, return_inverse=True)
    mass = np.bincount(group, weight)
    if mass.size == 0:
        return np.zeros(0, dtype=np.intp)
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    return np.minimum((middle * bins).astype(np.intp), bins - 1)[group]


def reliability_bins(probability, truth, weight=None, bins: int = BINS) -> ReliabilityBins:
    """The points of a reliability curve, empty bins left out."""
    probability, truth, weight = known_probabilities(probability, truth, weight)
    index = bin_index(probability, weight, bins)
    mass = np.bincount(index, weight, minlength=bins)
    filled = mass > 0
    return ReliabilityBins(
        mass=mass[filled],
        probability=np.bincount(index, weight * probability, minlength=bins)[filled] / mass[filled],
        observed=np.bincount(index, weight * truth, minlength=bins)[filled] / mass[filled],
    )


def ece(probability, truth, weight=None, bins: int = BINS) -> float:
    """Expected calibration error: mean |observed - probability| over bins of equal mass; NaN without rows.

    Noise alone makes it positive; read it beside `ece_chance`.
    """
    points = reliability_bins(probability, truth, weight, bins)
    return divide(points.mass @ np.abs(points.observed - points.probability), points.mass.sum())


def ece_chance(probability, truth, weight=None, bins: int = BINS, *, draws: int = 200, seed: int = 0) -> float:
    """The mean calibration error that perfectly calibrated probabilities like these would show at this n.

    The truth is drawn anew `draws` times from the probabilities themselves, rows independent; films of one patient are
    not, so with many films per patient the real chance level lies somewhat higher.
    """
    probability, _, weight = known_probabilities(probability, truth, weight)
    if probability.size == 0:
        return float("nan")
    order = np.argsort(probability, kind="stable")
    probability, weight = probability[order], weight[order]
    index = bin_index(probability, weight, bins)
    starts = np.flatnonzero(np.diff(index, prepend=-1))
    generator = np.random.default_rng(seed)
    gaps = np.empty(draws)
    for draw in range(draws):
        excess = weight * ((generator.random(probability.size) < probability) - probability)
        gaps[draw] = np.abs(np.add.reduceat(excess, starts)).sum()
    return float(gaps.mean() / weight.sum())


def log_odds(probability) -> np.ndarray:
    """ln(p / (1 - p)), with 0 and 1 held at plus and minus LOGIT_LIMIT."""
    probability = np.asarray(probability, dtype=np.float64)
    with np.errstate(divide="ignore"):
        logit = np.log(probability) - np.log1p(-probability)
    return np.clip(logit, -LOGIT_LIMIT, LOGIT_LIMIT)


def logistic_fit(features, target, weight, *, ridge: float | np.ndarray = 0.0, iterations: int = 100) -> np.ndarray:
    """Maximum-likelihood coefficients of target ~ sigmoid(features @ coefficients), by Newton steps, halved as needed.

    features: n x k (with a column of ones for an intercept); target: in [0, 1]. `ridge` penalises large coefficients.
    """
    coefficients = np.zeros(features.shape[1])
    loss = _logistic_loss(features, target, weight, coefficients, ridge)
    for _ in range(iterations):
        probability = sigmoid(features @ coefficients)
        gradient = features.T @ (weight * (probability - target)) + ridge * coefficients
        curvature = (features * (weight * probability * (1 - probability))[:, None]).T @ features
        step = np.linalg.lstsq(curvature + ridge * np.eye(len(coefficients)), gradient, rcond=None)[0]
        scale = 1.0
        trial = _logistic_loss(features, target, weight, coefficients - step, ridge)
        while trial > loss and scale > 1e-6:
            scale /= 2
            trial = _logistic_loss(features, target, weight, coefficients - scale * step, ridge)
        if trial > loss:
            break
        coefficients, gain, loss = coefficients - scale * step, loss - trial, trial
        if np.max(np.abs(scale * step)) < 1e-10 or gain < 1e-15 * max(1.0, loss):
            break
    return coefficients


def _logistic_loss(features, target, weight, coefficients, ridge) -> float:
    logit = features @ coefficients
    return float(weight @ (np.logaddexp(0, logit) - target * logit) + ridge / 2 * coefficients @ coefficients)


def calibration_line(logit, truth, weight=None) -> tuple[float, float]:
    """(slope, intercept) of a logistic regression of the truth on the predicted log odds (Cox 1958); perfect is (1, 0).

    A slope under 1 means too sure of itself, over 1 too timid. (NaN, NaN) where it does not exist: one class only, a
    constant prediction, or classes that a threshold separates without error.
    """
    logit, truth, weight = known_rows(logit, truth, weight)
    logit = np.nan_to_num(logit, posinf=LOGIT_LIMIT, neginf=-LOGIT_LIMIT)
    positive, negative = logit[truth > 0], logit[truth < 1]
    if positive.size == 0 or negative.size == 0 or np.ptp(logit) == 0:
        return float("nan"), float("nan")
    if positive.min() >= negative.max() or negative.min() >= positive.max():
        return float("nan"), float("nan")
    slope, intercept = logistic_fit(np.column_stack([logit, np.ones_like(logit)]), truth, weight)
    return float(slope), float(intercept)
