"""Scores of one finding, all of the POSITIVE class.

In: scores or probabilities, the truth (1 present, 0 absent, NaN unknown; a soft value in between counts as that much
of a positive) and optional weights. Rows of weight 0 or of unknown truth are left out. Out: plain floats; a figure that
does not exist is NaN, never 0 or 0.5, and `undefined_reason` says why. Called by the trainer, by the calibration and by
`evaluate`. numpy only.
"""

from dataclasses import dataclass

import numpy as np

from pathologies.errors import InputError

PROBABILITY_FLOOR = float(np.finfo(np.float64).eps)  # scikit-learn's clip of log_loss for 64-bit input


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Summed weights of the four outcomes; each a float, or an array with one entry per resample or threshold."""

    true_positive: float | np.ndarray
    false_positive: float | np.ndarray
    true_negative: float | np.ndarray
    false_negative: float | np.ndarray


def known_rows(values, truth, weight=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (values, truth, weight) as float64 without the rows of unknown truth or zero weight.

    Raises InputError on unequal lengths, on a truth outside [0, 1], on negative weights and on a NaN score.
    """
    values, truth = np.asarray(values, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    weight = np.ones_like(truth) if weight is None else np.asarray(weight, dtype=np.float64)
    if values.ndim != 1 or not values.shape == truth.shape == weight.shape:
        raise ValueError(f"Expected three vectors of one length, got {values.shape}, {truth.shape}, {weight.shape}.")
    if not np.all(weight >= 0):
        raise InputError("A weight is negative or NaN; give 0 to leave a row out.")
    kept = ~np.isnan(truth) & (weight > 0)
    values, truth, weight = values[kept], truth[kept], weight[kept]
    if np.any((truth < 0) | (truth > 1)):
        wrong = truth[(truth < 0) | (truth > 1)][0]
        raise InputError(f"Truth must be 1, 0 or NaN, got {wrong:g}. Apply a label contract first.")
    if np.isnan(values).any():
        raise InputError(f"{np.isnan(values).sum()} of {values.size} scores are NaN; leave those rows out.")
    return values, truth, weight


def undefined_reason(truth, weight=None) -> str | None:
    """Say why a comparison of positives with negatives is impossible here; None where it is possible."""
    _, truth, weight = known_rows(np.zeros(np.shape(truth)), truth, weight)
    if truth.size == 0:
        return "no known labels"
    if not np.any(truth > 0):
        return "no positives"
    return None if np.any(truth < 1) else "no negatives"


def auc(score, truth, weight=None) -> float:
    """Area under the ROC curve as the rank statistic, ties counted half; NaN if only one class is there."""
    score, truth, weight = known_rows(score, truth, weight)
    _, group = np.unique(score, return_inverse=True)
    positive, negative = np.bincount(group, weight * truth), np.bincount(group, weight * (1 - truth))
    return divide(positive @ (np.cumsum(negative) - negative / 2), positive.sum() * negative.sum())


def average_precision(score, truth, weight=None) -> float:
    """Mean precision over the recall steps, not interpolated (as scikit-learn defines it); NaN without positives."""
    score, truth, weight = known_rows(score, truth, weight)
    _, group = np.unique(-score, return_inverse=True)
    positive, everyone = np.bincount(group, weight * truth), np.bincount(group, weight)
    return divide(positive @ divide(np.cumsum(positive), np.cumsum(everyone)), positive.sum())


def divide(numerator, denominator):
    """numerator / denominator, NaN where the denominator is 0; a float for floats, else an array."""
    numerator, denominator = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    ratio = np.divide(numerator, denominator, out=np.full(shape, np.nan), where=denominator != 0)
    return ratio if shape else float(ratio)


def confusion(positive_call, truth, weight=None) -> Confusion:
    """Count the four outcomes of yes/no calls (True or 1 means "present")."""
    call, truth, weight = known_rows(positive_call, truth, weight)
    if not np.isin(call, (0, 1)).all():
        raise ValueError(
            f"Calls must be True or False, got {call[~np.isin(call, (0, 1))][0]:g}. Apply a threshold first."
        )
    present, absent = weight * truth, weight * (1 - truth)
    return Confusion(
        true_positive=float(call @ present),
        false_positive=float(call @ absent),
        true_negative=float((1 - call) @ absent),
        false_negative=float((1 - call) @ present),
    )


def sensitivity(counts: Confusion):
    """Share of the positives that were called positive; NaN without positives."""
    return divide(counts.true_positive, counts.true_positive + counts.false_negative)


recall = sensitivity  # the same figure under the name that precision comes with


def specificity(counts: Confusion):
    """Share of the negatives that were called negative; NaN without negatives."""
    return divide(counts.true_negative, counts.true_negative + counts.false_positive)


def precision(counts: Confusion):
    """Share of the positive calls that are right; NaN where nothing was called positive."""
    return divide(counts.true_positive, counts.true_positive + counts.false_positive)


def f_beta(counts: Confusion, beta: float = 1.0):
    """Weighted harmonic mean of recall and precision; NaN without positives, 0 where none of them is found."""
    gain = (1 + beta**2) * np.asarray(counts.true_positive, dtype=np.float64)
    score = divide(gain, gain + beta**2 * counts.false_negative + counts.false_positive)
    without_positives = np.asarray(counts.true_positive + counts.false_negative) == 0
    score = np.where(without_positives, np.nan, score)
    return score if score.ndim else float(score)


def accuracy(counts: Confusion):
    """Share of right calls. Says little where a finding is rare: "never" is accurate there."""
    right = counts.true_positive + counts.true_negative
    return divide(right, right + counts.false_positive + counts.false_negative)


def is_probability(values) -> bool:
    """Tell whether every value lies in [0, 1]."""
    values = np.asarray(values, dtype=np.float64)
    return bool(np.all((values >= 0) & (values <= 1)))


def known_probabilities(probability, truth, weight=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """known_rows for probabilities; InputError if a value lies outside [0, 1]."""
    probability, truth, weight = known_rows(probability, truth, weight)
    if not is_probability(probability):
        low, high = probability.min(), probability.max()
        raise InputError(f"Not a probability: values from {low:g} to {high:g}. Apply a calibration to logits first.")
    return probability, truth, weight


def brier(probability, truth, weight=None) -> float:
    """Mean squared error of the probability; lower is better, NaN without rows."""
    probability, truth, weight = known_probabilities(probability, truth, weight)
    error = truth * (1 - probability) ** 2 + (1 - truth) * probability**2
    return divide(weight @ error, weight.sum())


def log_loss(probability, truth, weight=None) -> float:
    """Mean negative log likelihood in nats; probabilities are clipped as scikit-learn does it."""
    probability, truth, weight = known_probabilities(probability, truth, weight)
    probability = np.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    loss = -(truth * np.log(probability) + (1 - truth) * np.log1p(-probability))
    return divide(weight @ loss, weight.sum())


def sigmoid(logit) -> np.ndarray:
    """The logistic function without overflow."""
    logit = np.asarray(logit, dtype=np.float64)
    small = np.exp(-np.abs(logit))
    return np.where(logit >= 0, 1 / (1 + small), small / (1 + small))


def simple_answers(truth, weight=None) -> dict[str, dict[str, float]]:
    """What the three answers that need no film would score: never, always, and the prevalence for everyone.

    "prevalence" gives everyone the probability p of the finding; its calls are a coin that says yes with probability p,
    so that recall, precision and F are all p on average. The log loss of a wrong certainty is infinite, and shown so.
    """
    _, truth, weight = known_rows(np.zeros(np.shape(truth)), truth, weight)
    rate = divide(weight @ truth, weight.sum())
    answers = {}
    for name, probability in (("never", 0.0), ("always", 1.0), ("prevalence", rate)):
        counts = Confusion(
            true_positive=probability * rate,
            false_positive=probability * (1 - rate),
            true_negative=(1 - probability) * (1 - rate),
            false_negative=(1 - probability) * rate,
        )
        answers[name] = {
            "recall": recall(counts),
            "precision": precision(counts),
            "f1": f_beta(counts, 1),
            "f2": f_beta(counts, 2),
            "brier": rate * (1 - probability) ** 2 + (1 - rate) * probability**2,
            "log_loss": _constant_log_loss(probability, rate),
            "accuracy": accuracy(counts),
        }
    return answers


def _constant_log_loss(probability: float, rate: float) -> float:
    if np.isnan(rate):
        return float("nan")
    shares = ((rate, probability), (1 - rate, 1 - probability))
    return float(sum(share * (np.inf if said == 0 else -np.log(said)) for share, said in shares if share > 0))
