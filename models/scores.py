"""What a trainer tells of an epoch, and the rule by which it calls one epoch the best.

In: logits and targets of a part. Out: history figures, all of the positive class, and a score that is better when
higher. Called by models.train.
"""

import math
from dataclasses import dataclass

import numpy as np

from models.metrics import auc, average_precision

FEWEST = 20  # below so many positives or negatives an AUC is mostly chance


class NeverPositive(ValueError):
    """The training part has only one class."""


@dataclass(frozen=True, kw_only=True)
class SelectionRule:
    name: str  # auc, log_loss, last_epoch
    reason: str

    def score(self, logit: np.ndarray, truth: np.ndarray, epoch: int) -> float:
        """Of part `select` after an epoch; better when higher."""
        if self.name == "auc":
            return float(auc(logit, truth))
        if self.name == "log_loss":
            return -log_loss(logit, truth)
        return float(epoch + 1)


def selection_rule(truth: np.ndarray) -> SelectionRule:
    """AUC where `select` has enough of both classes, else the log-loss, with no positives the last epoch."""
    positives, negatives = int((truth == 1).sum()), int((truth == 0).sum())
    counts = f"{positives} positives and {negatives} negatives in select"
    if positives == 0:
        return SelectionRule(name="last_epoch", reason=f"{counts}: nothing to choose by, the last epoch is taken")
    if min(positives, negatives) < FEWEST:
        return SelectionRule(name="log_loss", reason=f"{counts}: fewer than {FEWEST} of one class, chosen by log-loss")
    return SelectionRule(name="auc", reason=f"{counts}: chosen by AUC")


def log_loss(logit: np.ndarray, truth: np.ndarray) -> float:
    """Mean of -log p(truth); NaN for an empty part."""
    if not len(truth):
        return math.nan
    logit, truth = np.asarray(logit, float), np.asarray(truth, float)
    return float(np.mean(np.logaddexp(0, logit) - truth * logit))


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
