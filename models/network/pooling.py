"""How a convolutional network makes one vector of its map of features: the mean, which hides what is small, or others.

In: a backbone, timm's or ours, and one of POOLINGS. Out: the same backbone with its pooling exchanged. Called by
models.network.architecture. What a small lesion says at one place is divided by all places in a mean; a maximum keeps
it, the log of the mean of exponentials (Pinheiro & Collobert 2015) lies in between, and attention (Ilse et al. 2018)
learns which places count.
"""

import torch
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from models.config import CHOICES
from pathologies.errors import InputError

SHARPNESS = 5.0  # of lse: 0 is the mean, infinity the maximum
WEIGHTS = "pool.score."  # in the names of what attention learns, timm's and ours
MEANS = ("avg", "fast", "fastavg")  # timm's words for the mean


class Mean(nn.Module):
    """N x C x H x W -> N x C."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))


class Pool(nn.Module):
    """The pooling `how` over a map whose channels are in dimension `channel` of 4; `flat`: N x C, else still a map."""

    def __init__(self, how: str, channels: int, channel: int = 1, flat: bool = False) -> None:
        super().__init__()
        self.how, self.channel, self.flat = how, channel, flat
        if how == "attention":
            self.score = nn.Linear(channels, 1, bias=False)
            nn.init.zeros_(self.score.weight)  # begins as the mean

    def forward(self, features: Tensor) -> Tensor:
        places = features.movedim(self.channel, -1).flatten(1, 2)  # N x places x C
        if self.how == "max":
            pooled = places.amax(dim=1)
        elif self.how == "lse":  # in float32: bfloat16 has 8 bits, and the mean of many is small beside the largest
            scaled = SHARPNESS * places.float()
            count = torch.tensor(float(places.shape[1]), device=places.device)
            pooled = ((torch.logsumexp(scaled, dim=1) - count.log()) / SHARPNESS).to(places.dtype)
        else:
            share = self.score(places).softmax(dim=1)
            pooled = (share * places).sum(dim=1)
        if self.flat:
            return pooled
        return pooled[:, :, None, None] if self.channel == 1 else pooled[:, None, None, :]


def exchange_pooling(backbone: nn.Module, how: str, name: str) -> None:
    """Errors: InputError for a pooling that is unknown here, or a backbone without exactly one mean over its map."""
    if how not in CHOICES["pooling"]:  # of a bundle that a newer hilum has made
        raise InputError(f"pooling={how!r} is not one of: {', '.join(CHOICES['pooling'])}. Update hilum.")
    if how == "avg":
        return
    found = [one for one in backbone.modules() if isinstance(one, SelectAdaptivePool2d) and one.pool_type in MEANS]
    if isinstance(getattr(backbone, "global_pool", None), Mean):
        backbone.global_pool = Pool(how, backbone.num_features, flat=True)
    elif len(found) == 1:
        last = tuple(getattr(found[0].pool, "dim", (2, 3))) == (1, 2)  # the channels come last
        flat = bool(getattr(found[0].pool, "flatten", False))
        found[0].pool = Pool(how, backbone.num_features, 3 if last else 1, flat)
    else:
        raise InputError(
            f"backbone={name} has no mean over a map of features that pooling={how} could take the place of. Leave "
            "pooling=avg, which is each backbone's own, or take a convolutional network."
        )
