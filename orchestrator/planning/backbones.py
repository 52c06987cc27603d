"""Which backbones there are, for who must not load timm: it takes a second and 230 MB.

In: a `backbone` of TrainConfig, and the films it would get. Out: nothing, or an error with the nearest names or with
why the films do not suit, before anything is launched. Called by the planner, the search and the range test. Only a
name that is not on the list below, or one that does not take films of any size, costs a process that asks timm.
"""

import difflib
import functools
import json
import os
import subprocess
import sys

from models.config import SOURCES, TrainConfig
from orchestrator.code_package import CHECKOUT
from pathologies.errors import InputError

WELL_KNOWN = (
    "plain",  # models/network/architecture.py; the others are timm's
    "resnet10t", "resnet14t", "resnet18", "resnet26", "resnet34", "resnet50", "resnet101", "resnet152", "resnet18d",
    "resnet34d", "resnet50d", "resnetv2_50", "wide_resnet50_2", "resnext50_32x4d", "seresnet50",
    "densenet121", "densenet161", "densenet169", "densenet201",
    "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4",
    "efficientnetv2_rw_s", "mobilenetv3_small_100", "mobilenetv3_large_100", "regnety_004", "regnety_016",
    "inception_v3", "vgg16_bn",
    "convnext_atto", "convnext_nano", "convnext_tiny", "convnext_small", "convnext_base", "convnextv2_tiny",
    "vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "swin_tiny_patch4_window7_224",
    "test_resnet",  # timm's tiny one, for trials and tests
)  # fmt: skip
# Of these, those that do not take films of any size.
PARTICULAR = ("inception_v3", "vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224",
              "swin_tiny_patch4_window7_224")  # fmt: skip
# settings that say which films the network gets, and whether it can be built so
SIZED = ("backbone", "image_size", "start_size", "epochs", "pooling", "output_stride")
ASK = "import timm; print(*timm.list_models())"


def require_backbone(name: str) -> None:
    """Errors: InputError for a backbone that neither we nor timm have. `require_films` asks a folder or a hub."""
    if name in WELL_KNOWN or name.startswith(SOURCES):
        return
    known = (*WELL_KNOWN, *_timm_names())
    if name.partition(".")[0] in known:  # resnet18.a1_in1k: a model with the name of its weights
        return
    near = difflib.get_close_matches(name, known, n=4)
    raise InputError(
        f"Unknown backbone {name!r}. Did you mean: {', '.join(dict.fromkeys(near)) or 'resnet18'}? "
        "`python -c 'import timm; print(timm.list_models())'` lists them all."
    )


def require_films(config: TrainConfig, size: int, here: bool = True) -> None:
    """Errors: InputError where the network does not take the films, `size` pixels a side unless the config says.

    `here`: the trainings run on this machine; others may see folders and hubs that it does not.
    """
    name = config.backbone
    usual = config.pooling == "avg" and not config.output_stride
    if usual and name in WELL_KNOWN and name not in PARTICULAR or name.startswith(SOURCES) and not here:
        return
    refusal = _refusal(json.dumps({field: getattr(config, field) for field in SIZED}), size)
    if refusal:
        raise InputError(refusal)


@functools.cache
def _refusal(settings: str, size: int) -> str:
    words = [sys.executable, "-P", "-m", "models.network.suitability", settings, str(size)]
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False,
                          env=os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""})  # fmt: skip
    if done.returncode not in (0, 3):
        raise RuntimeError(f"models.network.suitability ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout.strip() if done.returncode else ""


@functools.cache
def _timm_names() -> tuple[str, ...]:
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        raise InputError(f"timm cannot be asked for its backbones: {reason}. Is it installed here?")
    return tuple(done.stdout.split())
