"""Losses on logits. In: TrainConfig and the training part's values. Out: a function (logits, targets) -> scalar."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from models.config import TrainConfig

Loss = Callable[..., Tensor]


def make_loss(config: TrainConfig, value: np.ndarray, own: int = -1) -> Loss:
    """The mean loss of a batch; targets may be soft. `value`: the training part's targets, for `balanced`.

    For films x targets, NaN where unknown: the mean over each target's known films, then `reduction` over the targets
    that have any in the batch. Given as a third argument the targets of a whole group of batches, of which this is one,
    the function counts those of the group instead: its values add up to the loss of the group as one batch.

    `own`: the column that the network is for. It counts 1 and each other one `others_weight`, and a mean is that of
    these weights: with 0 the own target's loss alone, with 1 that of a shared network, and of one size in between.
    """
    each = _film_loss(config, value)
    if np.ndim(value) == 1:
        return lambda logit, truth: each(logit, truth).mean()
    share = None if own < 0 else _shares(config, value.shape[1], own)

    def shared(logit: Tensor, truth: Tensor, group: Tensor | None = None) -> Tensor:
        known = ~torch.isnan(truth)
        films = (known if group is None else ~torch.isnan(group)).sum(dim=0)
        # a multiplication would keep a NaN, and send it back through the network
        losses = torch.where(known, each(logit, torch.where(known, truth, 0.5)), 0.0).sum(dim=0) / films.clamp(min=1)
        if share is not None:
            total, counted = (losses * share).sum(), (share * (films > 0)).sum()
            return total if config.reduction == "sum" else total / counted.clamp(min=1)
        total = losses.sum()
        return total if config.reduction == "sum" else total / (films > 0).sum().clamp(min=1)

    return shared


def _shares(config: TrainConfig, columns: int, own: int) -> Tensor:
    share = torch.full((columns,), config.others_weight, device=config.device)
    share[own] = 1.0
    return share


def _film_loss(config: TrainConfig, value: np.ndarray) -> Loss:
    """The loss of every film, and of every target, on its own."""
    weight = torch.tensor(positive_weight(config, value), dtype=torch.float32, device=config.device)
    smoothing = config.label_smoothing

    def loss(logit: Tensor, truth: Tensor) -> Tensor:
        truth = truth * (1 - smoothing) + 0.5 * smoothing
        if config.loss == "focal":  # Lin et al. 2017, with gamma 2 and without alpha: the weight is a field of its own
            return sigmoid_focal_loss(logit, truth, alpha=-1, gamma=2.0) * (1 + (weight - 1) * truth)
        if config.loss == "asymmetric":
            return _asymmetric(logit, truth) * (1 + (weight - 1) * truth)
        return functional.binary_cross_entropy_with_logits(logit, truth, pos_weight=weight, reduction="none")

    return loss


def _asymmetric(logit: Tensor, truth: Tensor) -> Tensor:
    """Ridnik et al. 2021, equations 4 to 7: easy negatives count less (gamma 4) and, below p = 0.05, not at all.

    timm's AsymmetricLossMultiLabel has the same formula, summed, and for targets of 1 and 0 only.
    """
    probability = torch.sigmoid(logit)
    shifted = (probability - 0.05).clamp(min=0)
    positive = -(1 - probability) * functional.logsigmoid(logit)
    negative = -(shifted**4) * torch.log1p(-shifted.clamp(max=1 - 1e-7))
    return truth * positive + (1 - truth) * negative


def positive_weight(config: TrainConfig, value: np.ndarray) -> float | np.ndarray:
    """`none` is 1, `balanced` is negatives / positives of the training part, else the number itself.

    For films x targets, NaN where unknown, `balanced` is a weight for each target.
    """
    if config.positive_weight == "none":
        return 1.0
    if config.positive_weight == "balanced":
        if np.ndim(value) == 2:
            return np.array([positive_weight(config, column[~np.isnan(column)]) for column in np.transpose(value)])
        positives = float(value.sum())
        return (len(value) - positives) / max(positives, 1.0)
    return float(config.positive_weight)
