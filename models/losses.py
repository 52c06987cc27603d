"""Losses on logits. In: TrainConfig and the training part's values. Out: a function (logits, targets) -> scalar."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from models.config import TrainConfig


def make_loss(config: TrainConfig, value: np.ndarray) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean loss of a batch; targets may be soft. `value`: the training part's targets, for `balanced`."""
    weight = torch.tensor(positive_weight(config, value), device=config.device)
    smoothing = config.label_smoothing

    def loss(logit: Tensor, truth: Tensor) -> Tensor:
        truth = truth * (1 - smoothing) + 0.5 * smoothing
        if config.loss == "focal":  # Lin et al. 2017, with gamma 2 and without alpha: the weight is a field of its own
            each = sigmoid_focal_loss(logit, truth, alpha=-1, gamma=2.0)
            return (each * (1 + (weight - 1) * truth)).mean()
        if config.loss == "asymmetric":
            each = _asymmetric(logit, truth)
            return (each * (1 + (weight - 1) * truth)).mean()
        return functional.binary_cross_entropy_with_logits(logit, truth, pos_weight=weight)

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


def positive_weight(config: TrainConfig, value: np.ndarray) -> float:
    """`none` is 1, `balanced` is negatives / positives of the training part, else the number itself."""
    if config.positive_weight == "none":
        return 1.0
    if config.positive_weight == "balanced":
        positives = float(value.sum())
        return (len(value) - positives) / max(positives, 1.0)
    return float(config.positive_weight)
