"""Networks: one input channel, one logit. Any timm backbone by name; weights from timm, a file or a trained target.

In: TrainConfig. Out: a torch module that maps N x 1 x H x W floats to N logits, or to N x T where one network answers
for T targets. Used by the trainer and the classifier.
"""

import difflib
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from models.config import CHOICES, TrainConfig
from models.paths import start_file
from models.plain import Plain
from models.standardise import standardised
from pathologies.errors import InputError

log = logging.getLogger(__name__)
OWN: Mapping[str, type[nn.Module]] = {"plain": Plain}  # backbones beside timm's, with the arguments of its models


class SingleLogit(nn.Module):
    """A backbone with one output; forward returns N logits (not N x 1). `standardise`: as in TrainConfig."""

    def __init__(self, backbone: nn.Module, standardise: str = "dataset") -> None:
        super().__init__()
        self.backbone = backbone
        self.standardise = standardise

    def forward(self, pixels: Tensor) -> Tensor:
        return self.outputs(pixels)[:, 0]

    def outputs(self, pixels: Tensor) -> Tensor:
        return self.backbone(standardised(pixels, self.standardise))


class SharedLogits(SingleLogit):
    """A backbone with an output per target; forward returns N x T logits, also where T is 1."""

    def forward(self, pixels: Tensor) -> Tensor:
        return self.outputs(pixels)


def build_network(
    backbone: str, dropout: float = 0.0, outputs: int | None = None, standardise: str = "dataset"
) -> SingleLogit:
    """An untrained network; `outputs`: how many targets share it, None for one that is a single target's.

    Errors: InputError with the nearest names for a backbone that timm does not have; a way to standardise unknown here.
    """
    if standardise not in CHOICES["standardise"]:  # of a bundle that a newer hilum has made
        known = ", ".join(CHOICES["standardise"])
        raise InputError(f"standardise={standardise!r} is not one of: {known}. Update hilum.")
    if backbone not in OWN and not timm.is_model(backbone):
        near = difflib.get_close_matches(backbone, [*OWN, *timm.list_models()], n=4)
        raise InputError(
            f"Unknown backbone {backbone!r}. Did you mean: {', '.join(near) or 'resnet18'}? "
            "`python -c 'import timm; print(timm.list_models())'` lists them all."
        )
    kind = SingleLogit if outputs is None else SharedLogits
    sizes = {"num_classes": outputs or 1, "in_chans": 1, "drop_rate": dropout}
    return kind(OWN[backbone](**sizes) if backbone in OWN else timm.create_model(backbone, **sizes), standardise)


def initial_network(config: TrainConfig, prevalence: float | np.ndarray) -> SingleLogit:
    """The network that training starts from, its last bias at the log-odds of the prevalence (Lin et al. 2017, 3.3).

    `prevalence`: an array makes a network with an output for each entry.
    """
    outputs = None if np.ndim(prevalence) == 0 else len(prevalence)
    network = build_network(config.backbone, config.dropout, outputs, config.standardise)
    if config.init:
        _load_start(network, start_file(config.init))
    elif config.pretrained.lower() == "true":
        _load_imagenet(network, config.backbone)
    elif config.pretrained.lower() not in ("false", ""):
        _load_start(network, Path(config.pretrained))
    bias = network.backbone.get_classifier().bias
    if bias is not None:
        shares = [min(max(float(one), 1e-3), 1 - 1e-3) for one in np.atleast_1d(prevalence)]
        with torch.no_grad():
            bias.copy_(torch.tensor([math.log(share / (1 - share)) for share in shares]))
    return network


def _load_imagenet(network: SingleLogit, backbone: str) -> None:
    if backbone in OWN:
        raise InputError(
            f"There are no ImageNet weights of backbone={backbone}. Set pretrained=false, or another backbone."
        )
    try:
        outputs = getattr(network.backbone, "num_classes", 1)
        source = timm.create_model(backbone, pretrained=True, num_classes=outputs, in_chans=1)
    except Exception as error:  # timm passes on whatever the hub's client, the disk or the network raised
        raise InputError(
            f"The ImageNet weights of {backbone!r} cannot be had here ({type(error).__name__}: {str(error)[:200]}). "
            "Without a network, give a weight file instead: --set pretrained=/path/to/weights.safetensors"
        ) from error
    network.backbone.load_state_dict(source.state_dict())


def _load_start(network: SingleLogit, path: Path) -> None:
    """Load what fits of a weight file; its first convolution is folded to one channel, its last layer left out."""
    if not path.is_file():
        raise FileNotFoundError(f"No weight file at {path}. Give a .safetensors or .pth file of this backbone.")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    except Exception as error:
        raise InputError(f"{path} cannot be read as weights: {error}") from error
    state = {name.removeprefix("backbone."): value for name, value in state.get("state_dict", state).items()}
    wanted = network.backbone.state_dict()
    head = tuple(f"{name}." for name in _classifier_names(network.backbone))
    taken = {}
    for name, value in state.items():
        if name not in wanted or name.startswith(head):
            continue
        if value.ndim == 4 and value.shape[1] == 3 and wanted[name].shape[1] == 1:
            value = adapt_input_conv(1, value)  # the sum over the three channels: grey film in, same response
        if value.shape == wanted[name].shape:
            taken[name] = value
    missing = [name for name in wanted if name not in taken and not name.startswith(head)]
    if missing:
        raise InputError(
            f"{path} does not fit the backbone: {len(missing)} of {len(wanted)} tensors are missing or have another "
            f"shape, first {missing[0]!r}. Is it the weight file of another backbone?"
        )
    network.backbone.load_state_dict(taken, strict=False)


def _classifier_names(backbone: nn.Module) -> tuple[str, ...]:
    names = backbone.default_cfg.get("classifier", "fc")
    return (names,) if isinstance(names, str) else tuple(names)
