"""What a trainer tells of an epoch, and the rule by which it calls one epoch the best.

In: logits and targets of a part, a column per target for a shared network. Out: history figures, all of the positive
class, and a score that is better when higher. Called by models.training.loop.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.statistics.metrics import auc, average_precision
from pathologies.errors import InputError

FEWEST = 20  # below so many positives or negatives an AUC is mostly chance


class NeverPositive(InputError):
    """The training part has only one class."""


@dataclass(frozen=True, kw_only=True)
class SelectionRule:
    name: str  # auc, log_loss, last_epoch; of a shared network mean_auc, mean_log_loss
    reason: str
    columns: tuple[int, ...] = ()  # of a shared network: the targets whose mean is the score

    def score(self, logit: np.ndarray, truth: np.ndarray, epoch: int) -> float:
        """Of part `select` after an epoch; better when higher."""
        if self.columns:
            figure = auc if self.name == "mean_auc" else lambda *known: -log_loss(*known)
            return float(np.mean([figure(*known_of(logit, truth, column)) for column in self.columns]))
        if self.name == "auc":
            return float(auc(logit, truth))
        if self.name == "log_loss":
            return -log_loss(logit, truth)
        return float(epoch + 1)


def selection_rule(truth: np.ndarray, choice: str = "best") -> SelectionRule:
    """AUC where `select` has enough of both classes, else the log-loss, with no positives the last epoch.

    For films x targets, NaN where unknown: the same for the mean over the targets of which it can be said. `choice`:
    TrainConfig's epoch_choice; with `last` nothing is chosen, and `select` may be empty.
    """
    if choice == "last":
        return SelectionRule(name="last_epoch", reason="epoch_choice=last: the weights at the end of the schedule")
    if np.ndim(truth) == 2:
        return _shared_rule(truth)
    positives, negatives = int((truth == 1).sum()), int((truth == 0).sum())
    counts = f"{positives} positives and {negatives} negatives in select"
    if positives == 0:
        return SelectionRule(name="last_epoch", reason=f"{counts}: nothing to choose by, the last epoch is taken")
    if min(positives, negatives) < FEWEST:
        return SelectionRule(name="log_loss", reason=f"{counts}: fewer than {FEWEST} of one class, chosen by log-loss")
    return SelectionRule(name="auc", reason=f"{counts}: chosen by AUC")


def _shared_rule(truth: np.ndarray) -> SelectionRule:
    positives, negatives = (truth == 1).sum(axis=0), (truth == 0).sum(axis=0)
    of = f"of {truth.shape[1]} targets"
    enough = tuple(np.flatnonzero(np.minimum(positives, negatives) >= FEWEST).tolist())
    if enough:
        reason = f"{len(enough)} {of} have {FEWEST} of each class in select: chosen by their mean AUC"
        return SelectionRule(name="mean_auc", reason=reason, columns=enough)
    some = tuple(np.flatnonzero(positives > 0).tolist())
    if some:
        reason = f"no target has {FEWEST} of each class in select, {len(some)} {of} a positive: chosen by mean log-loss"
        return SelectionRule(name="mean_log_loss", reason=reason, columns=some)
    return SelectionRule(name="last_epoch", reason="no positives in select: the last epoch is taken")


def known_of(logit: np.ndarray, truth: np.ndarray, column: int) -> tuple[np.ndarray, np.ndarray]:
    """(logits, truth) of one target of a shared network, on the films where its truth is known."""
    known = ~np.isnan(truth[:, column])
    return logit[known, column], truth[known, column]


def log_loss(logit: np.ndarray, truth: np.ndarray) -> float:
    """Mean of -log p(truth); NaN for an empty part. An infinite logit costs nothing where it is right, else all."""
    if not len(truth):
        return math.nan
    logit, truth = np.asarray(logit, float), np.asarray(truth, float)
    with np.errstate(invalid="ignore"):  # infinity times 0, or less infinity
        losses = np.logaddexp(0, logit) - truth * logit
    losses = np.where(np.isinf(logit), np.where(truth == (logit > 0), 0.0, np.inf), losses)
    return float(np.mean(losses))


def summary(part: str, logit: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """AUC, average precision, and recall, precision and F1 at a predicted probability of 0.5; NaN where undefined.

    Soft targets count as positive from 0.5 on. `train` figures are of augmented films, each before its own step.
    """
    positive, call = np.asarray(truth) >= 0.5, np.asarray(logit) >= 0
    hits, calls, cases = int((positive & call).sum()), int(call.sum()), int(positive.sum())
    figures = {
        "auc": float(auc(logit, positive.astype(float))),
        "average_precision": float(average_precision(logit, positive.astype(float))),
        "recall": hits / cases if cases else math.nan,
        "precision": hits / calls if calls else math.nan,
        "f1": 2 * hits / (calls + cases) if cases else math.nan,
    }
    if part != "train":  # train's loss is the training loss, with its weights and smoothing
        figures["loss"] = log_loss(logit, truth)
    named = {f"{part}_{name}": value for name, value in figures.items()}
    return named | {f"{part}_positives": cases, f"{part}_negatives": int(len(positive) - cases)}


def shared_summary(part: str, logit: np.ndarray, truth: np.ndarray, slugs: Sequence[str]) -> dict[str, Any]:
    """`summary` of a shared network: the means over the targets that have a figure, counts added up.

    Under `targets` those of every target.
    """
    each = {slug: summary(part, *known_of(logit, truth, column)) for column, slug in enumerate(slugs)}
    row: dict[str, Any] = {}
    for name in next(iter(each.values())):
        values = [figures[name] for figures in each.values() if not math.isnan(figures[name])]
        counted = name.endswith(("_positives", "_negatives"))
        row[name] = sum(values) if counted else float(np.mean(values)) if values else math.nan
    return row | {"targets": each}
