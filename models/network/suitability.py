"""Does a backbone take the films that a configuration gives it? Asked before anything is trained.

In: the settings and the side of the data set's films. Out: nothing, or an error in words. Called by
orchestrator.planning.backbones in a process of its own, since it loads torch and timm. Nothing is computed: the network
is built and asked on torch's `meta` device, which has shapes and no numbers.
"""

import json
import sys

import timm
import torch

from models.config import TrainConfig
from models.data.loading import film_size
from models.network.architecture import OWN, architecture, architecture_of
from pathologies.errors import InputError


def require_films(config: TrainConfig, size: int) -> None:
    """`size`: of the data set, unless the configuration has one. Errors: InputError."""
    size = config.image_size or size
    kind = architecture_of(config, size)
    for side in sorted({size} | {film_size(config, size, epoch) for epoch in range(config.epochs)}):
        try:
            with torch.device("meta"):
                network = kind.build()
                shapes = [network.train(learning)(torch.zeros(2, 1, side, side)).shape for learning in (True, False)]
                patch = _patch(network)
        except InputError:
            raise
        except TypeError as error:  # an argument that this constructor does not have
            if not config.output_stride:
                raise InputError(_refusal(config, size, side, str(error))) from error
            raise InputError(
                f"backbone={config.backbone} cannot be built with output_stride={config.output_stride}: leave it "
                "out, or take a network such as resnet18 or efficientnet_b0."
            ) from error
        except NotImplementedError:  # a constructor that looks at numbers: the training will tell
            return
        except Exception as error:  # of hundreds of networks, each with a check or a failing operation of its own
            raise InputError(_refusal(config, size, side, " ".join(str(error).split())[:200])) from error
        left = side % patch
        if left:
            raise InputError(
                f"backbone={config.backbone} looks at patches of {patch} pixels, and of {side} pixels a side the last "
                f"{left} would not be seen. Set image_size={side - left} or {side - left + patch}."
            )
        if any(tuple(shape) != (2, 1) for shape in shapes):
            raise InputError(f"backbone={config.backbone} does not give one logit a film.")


def _patch(network: torch.nn.Module) -> int:
    """Side of a transformer's patches; they are cut from the top left, and what is left over is not looked at."""
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", 1)
    return max(patch) if isinstance(patch, list | tuple) else int(patch)


def _refusal(config: TrainConfig, size: int, side: int, reason: str) -> str:
    kind = architecture(config.backbone)
    made = "" if kind.name in OWN else f" It was made for {_usual(kind.name)} pixels."
    if side != size and "img_size" in architecture(config.backbone, size).args:
        return (
            f"backbone={config.backbone} takes films of one size, and start_size={config.start_size:g} begins with "
            f"{side} pixels a side: set start_size=1."
        )
    return (
        f"backbone={config.backbone} does not take films of {side} pixels a side ({reason}).{made} Set image_size to a "
        "side that it takes, mostly multiples of 16 or 32, or choose another backbone."
    )


def _usual(name: str) -> str:
    config = timm.get_pretrained_cfg(name)
    return str(config.input_size[-1]) if config else "other"


if __name__ == "__main__":
    try:
        require_films(TrainConfig(**json.loads(sys.argv[1])), int(sys.argv[2]))
    except InputError as refusal:
        sys.stdout.write(f"{refusal}\n")
        sys.exit(3)
