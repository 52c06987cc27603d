"""Networks: one input channel, one logit. Any timm backbone by name; weights from timm, a file or a trained target.

In: TrainConfig. Out: a torch module that maps N x 1 x H x W floats to N logits, or to N x T where one network answers
for T targets. Used by the trainer and the classifier.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.config import CHOICES, TrainConfig
from models.files.layout import start_file
from models.network.architecture import Architecture, architecture
from models.network.normalisation import standardised
from models.network.pretrained import load_file, load_own
from pathologies.errors import InputError


class SingleLogit(nn.Module):
    """A backbone with one output; forward returns N logits (not N x 1). `standardise`: as in TrainConfig."""

    def __init__(self, backbone: nn.Module, standardise: str = "dataset") -> None:
        super().__init__()
        self.backbone = backbone
        self.standardise = standardise
        self.initial_weights = ""  # a sentence on the weights that it starts from

    def forward(self, pixels: Tensor) -> Tensor:
        return self.outputs(pixels)[:, 0]

    def outputs(self, pixels: Tensor) -> Tensor:
        return self.backbone(standardised(pixels, self.standardise))


class SharedLogits(SingleLogit):
    """A backbone with an output per target; forward returns N x T logits, also where T is 1."""

    def forward(self, pixels: Tensor) -> Tensor:
        return self.outputs(pixels)


def build_network(
    backbone: str,
    dropout: float = 0.0,
    outputs: int | None = None,
    standardise: str = "dataset",
    args: Mapping[str, Any] | None = None,
) -> SingleLogit:
    """An untrained network; `outputs`: how many targets share it, None for one that is a single target's.

    `args` of the backbone's constructor, as an Architecture has them. Errors: InputError with the nearest names for a
    backbone that timm does not have; a way to standardise unknown here.
    """
    if standardise not in CHOICES["standardise"]:  # of a bundle that a newer hilum has made
        known = ", ".join(CHOICES["standardise"])
        raise InputError(f"standardise={standardise!r} is not one of: {known}. Update hilum.")
    kind = SingleLogit if outputs is None else SharedLogits
    return kind(Architecture(name=backbone, args=args or {}).build(dropout, outputs or 1), standardise)


def initial_network(config: TrainConfig, prevalence: float | np.ndarray, size: int | None = None) -> SingleLogit:
    """The network that training starts from, its last bias at the log-odds of the prevalence (Lin et al. 2017, 3.3).

    `prevalence`: an array makes a network with an output for each entry. `size`: side of the films.
    """
    outputs = None if np.ndim(prevalence) == 0 else len(prevalence)
    kind = architecture(config.backbone, size)
    network = build_network(kind.name, config.dropout, outputs, config.standardise, kind.args)
    if config.init:
        network.initial_weights = load_file(network.backbone, kind, start_file(config.init))
    elif config.pretrained.lower() == "true":
        network.initial_weights = load_own(network.backbone, kind, config.backbone)
    elif config.pretrained.lower() not in ("false", ""):
        network.initial_weights = load_file(network.backbone, kind, Path(config.pretrained))
    shares = [min(max(float(one), 1e-3), 1 - 1e-3) for one in np.atleast_1d(prevalence)]
    log_odds = torch.tensor([math.log(share / (1 - share)) for share in shares])
    for layer in last_layers(network.backbone):
        biases = [
            one for name, one in layer.named_parameters() if name.endswith("bias") and one.shape == log_odds.shape
        ]
        with torch.no_grad():
            for bias in biases[-1:]:
                bias.copy_(log_odds)
    return network


def one_output(state: Mapping[str, Tensor], network: SingleLogit, column: int) -> dict[str, Tensor]:
    """Of the weights of a shared network those of `network`, its like with the output `column` alone."""
    wanted = network.state_dict()
    return {name: value if value.shape == wanted[name].shape else value[column : column + 1]
            for name, value in state.items()}  # fmt: skip


def last_layers(backbone: nn.Module) -> list[nn.Module]:
    """The layers that give the logits; of a distilled transformer there are two, whose mean is the answer."""
    found = backbone.get_classifier()
    return list(found) if isinstance(found, tuple | list | nn.ModuleList) else [found]
