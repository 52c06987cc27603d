"""Oversampling: how often a row comes in an epoch, never a duplicated row.

Goes in: the resolved labels of the films that a training draws from, after the split. Comes out: a float64 weight for
each row (it is drawn in proportion to it), or the rows of an epoch. Called by the driver of `train`, which stores the
weights, and by the training loop, which draws the epoch. Needs numpy alone.
"""

import numpy as np

from pathologies.errors import InputError


def vector_weights(labels: np.ndarray, minimum: int) -> np.ndarray:
    """How often each row comes, on average, in an epoch in which every combination of findings comes `minimum` times.

    `labels` is [rows, findings]; 1 is positive and everything else (0, soft, unknown) is not. A row of a combination
    with c rows weighs max(1, minimum / c): frequent combinations stay as they are. `vector_epoch` draws that epoch.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2:
        raise ValueError(f"Labels have shape {labels.shape}. Allowed: rows x findings.")
    _check_minimum(minimum)
    group = combination_of(labels == 1)
    return np.maximum(1.0, minimum / np.bincount(group))[group] if len(group) else np.zeros(0)


def vector_epoch(combination: np.ndarray, minimum: int, draws: np.random.Generator) -> np.ndarray:
    """The rows of an epoch in random order: each of them, and those of a rare combination so often that it has
    exactly `minimum`, as evenly as can be; which of its rows come once more than the others is drawn.

    `combination`: a number for each row, as `combination_of` gives it; they need not be consecutive.
    """
    _check_minimum(minimum)
    group, rows = np.unique(combination, return_inverse=True, return_counts=True)[1:]
    order = draws.permutation(len(group))
    order = order[np.argsort(group[order], kind="stable")]  # rows of a combination side by side, in random order
    here, first = rows[group[order]], (np.cumsum(rows) - rows)[group[order]]
    wanted = np.maximum(here, minimum)
    times = wanted // here + (np.arange(len(order)) - first < wanted % here)
    return draws.permutation(np.repeat(order, times))


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


def combination_of(positive: np.ndarray) -> np.ndarray:
    """The number of each row's combination of findings; equal rows of the boolean matrix have equal numbers."""
    codes = np.zeros(len(positive), np.int64)
    for byte in np.packbits(positive, axis=1).T:  # renumbered after every byte, so that any number of findings fits
        codes = np.unique(codes * 256 + byte, return_inverse=True)[1]
    return codes


def _check_minimum(minimum: int) -> None:
    if minimum < 1:
        raise InputError(f"The minimum is {minimum}. Allowed: 1 or more.")
