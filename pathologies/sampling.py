"""Oversampling as sampler weights: how often a row is drawn, never a duplicated row.

Goes in: the resolved labels of part `train`, after the split. Comes out: a float64 weight for each row; how often it is
drawn in an epoch of n draws with replacement is, on average, n times its share of the weights. Called by the driver of
`train` and by the training loop. Needs numpy alone.
"""

import numpy as np

from pathologies.errors import InputError


def vector_weights(labels: np.ndarray, minimum: int, *, most: float | None = None) -> np.ndarray:
    """Weights under which every observed combination of findings is drawn `minimum` times an epoch, or more.

    `labels` is [rows, findings]; 1 is positive and everything else (0, soft, unknown) is not. A row of a combination
    with c rows weighs max(1, minimum / c), so frequent combinations stay as they are, and the epoch that the minimum
    holds for has `epoch_draws(weights)` draws. `most` bounds how often one row is drawn in it, at the minimum's cost.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2:
        raise ValueError(f"Labels have shape {labels.shape}. Allowed: rows x findings.")
    if minimum < 1 or (most is not None and most < 1):
        raise InputError(f"The minimum is {minimum}, the most is {most}. Allowed: 1 or more.")
    group = combination_of(labels == 1)
    weights = np.maximum(1.0, minimum / np.bincount(group))[group] if len(group) else np.zeros(0)
    return weights if most is None else np.minimum(weights, most)


def target_weights(values: np.ndarray, positive_share: float = 0.5) -> np.ndarray:
    """Weights under which positives are `positive_share` of what is drawn for one finding.

    `values` are resolved labels: 1, 0, a soft value (a row of 0.3 is three tenths of a positive) or NaN (never drawn).
    With one class only, every known row is drawn alike.
    """
    values = np.asarray(values, dtype=np.float64)
    if not 0 < positive_share < 1:
        raise InputError(f"The share of positives is {positive_share}. Allowed: between 0 and 1.")
    known = ~np.isnan(values)
    positive = np.where(known, values, 0.0)
    negative = np.where(known, 1.0 - values, 0.0)
    if positive.sum() == 0 or negative.sum() == 0:
        return known.astype(np.float64)
    share = positive_share * positive / positive.sum() + (1 - positive_share) * negative / negative.sum()
    return share * known.sum()


def epoch_draws(weights: np.ndarray) -> int:
    """Draws in an epoch in which a row of weight 1 is drawn once on average."""
    return int(np.ceil(np.sum(weights)))


def combination_of(positive: np.ndarray) -> np.ndarray:
    """The number of each row's combination of findings; equal rows of the boolean matrix have equal numbers."""
    codes = np.zeros(len(positive), np.int64)
    for byte in np.packbits(positive, axis=1).T:  # renumbered after every byte, so that any number of findings fits
        codes = np.unique(codes * 256 + byte, return_inverse=True)[1]
    return codes
