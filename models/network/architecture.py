"""Which network a `backbone` names: one of timm's with its arguments, or one of ours.

In: a backbone of TrainConfig (a name of timm's, `hf-hub:OWNER/NAME`, `local-dir:FOLDER`) and the side of the films.
Out: an Architecture, which a bundle keeps, so that the network is built again without the folder or the hub. Called by
models.network.builder and models.process.job. `backbone=plain` is our own network, small enough to read in one sitting;
it has the arguments of timm's models and the names of their parts.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
from torch import Tensor, nn
from torch.nn import functional

from models.config import SOURCES
from pathologies.errors import InputError

WIDTHS = (16, 32, 64, 128, 256)  # channels of `plain` after each block; every block halves the sides


class Block(nn.Module):
    """Convolution, normalisation, rectifier: the three steps that almost every network of films repeats."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False)  # the normalisation has the bias
        self.norm = nn.BatchNorm2d(after)

    def forward(self, pixels: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(pixels)))


class Plain(nn.Module):
    """Blocks with halvings between them, the mean over the film, and one linear layer; films from 16 pixels a side."""

    default_cfg = {"classifier": "head", "first_conv": "blocks.0.conv"}

    def __init__(self, num_classes: int = 1, in_chans: int = 1, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        channels = (in_chans, *WIDTHS)
        self.blocks = nn.ModuleList(Block(*pair) for pair in zip(channels[:-1], channels[1:], strict=True))
        self.dropout = nn.Dropout(drop_rate)
        self.head = nn.Linear(WIDTHS[-1], num_classes)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """N x 256 x H/16 x W/16: what the last block sees, and where."""
        for number, block in enumerate(self.blocks):
            pixels = block(functional.max_pool2d(pixels, 2) if number else pixels)
        return pixels

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.dropout(self.forward_features(pixels).mean(dim=(2, 3))))

    def get_classifier(self) -> nn.Linear:
        return self.head


OWN: Mapping[str, type[nn.Module]] = {"plain": Plain}  # backbones beside timm's, with the arguments of its models
OURS = ("num_classes", "in_chans", "drop_rate")  # arguments that follow from the task
# Arguments of timm's factory that read files or fetch something: neither a configuration nor a bundle may give them.
READING = ("checkpoint_path", "cache_dir", "features_only")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    name: str  # of timm's or ours
    args: Mapping[str, Any] = field(default_factory=dict)  # of its constructor, without OURS

    def __post_init__(self) -> None:
        reading = [name for name in self.args if name in READING or name.startswith("pretrained")]
        if reading:
            raise InputError(f"A network of backbone={self.name} is not built with {', '.join(reading)}.")
        if self.name in OWN or ":" not in self.name and timm.is_model(self.name):
            return
        near = difflib.get_close_matches(self.name, [*OWN, *timm.list_models()], n=4)
        raise InputError(
            f"Unknown backbone {self.name!r}. Did you mean: {', '.join(near) or 'resnet18'}? "
            "`python -c 'import timm; print(timm.list_models())'` lists them all."
        )

    def build(self, dropout: float = 0.0, outputs: int = 1) -> nn.Module:
        """Untrained, for films of one channel."""
        sizes = {"num_classes": outputs, "in_chans": 1, "drop_rate": dropout}
        return OWN[self.name](**sizes) if self.name in OWN else timm.create_model(self.name, **sizes, **self.args)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def architecture(backbone: str, size: int | None = None) -> Architecture:
    """`size`: side of the films; networks that are made for one size are made for this one.

    Errors: InputError for a backbone that there is not, or whose folder or hub does not answer.
    """
    name, args = _from_source(backbone) if backbone.startswith(SOURCES) else (backbone, {})
    found = Architecture(name=name, args=args)
    config = None if name in OWN else timm.get_pretrained_cfg(name)
    if size and config and (config.fixed_input_size or "img_size" in args):
        found = dataclasses.replace(found, args={**args, "img_size": size})
    return found


def _from_source(backbone: str) -> tuple[str, dict[str, Any]]:
    """The architecture and its arguments as the `config.json` of a folder or a hub's repository has them."""
    from timm.models._hub import load_model_config_from_hf, load_model_config_from_path

    source, _, place = backbone.partition(":")
    read = load_model_config_from_hf if source == "hf-hub" else load_model_config_from_path
    try:
        _, name, args = read(place)
    except Exception as error:  # timm passes on whatever the hub's client, the disk or the network raised
        raise InputError(
            f"backbone={backbone} cannot be had here ({type(error).__name__}: {str(error)[:200]}). A folder has a "
            "config.json with timm's architecture and a model.safetensors; a hub's repository needs a network, or its "
            "files in the hub's cache. Without a network: copy them, and give backbone=local-dir:/path/to/folder."
        ) from error
    return name, {key: value for key, value in (args or {}).items() if key not in OURS}
