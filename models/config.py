"""TrainConfig: everything that shapes the training of one binary network.

In: `--set name=value` words, a pathology's overrides, `config.json`. Out: one frozen, flat object whose fields those
three name. Used by the trainer, the launcher, the search and the command line.
"""

import dataclasses
import difflib
import hashlib
import inspect
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from pathologies.errors import InputError

SOURCES = ("hf-hub:", "local-dir:")  # what a backbone begins with that is read from the hub or from a folder
CHOICES: Mapping[str, tuple[str, ...]] = {
    "views": ("frontal", "lateral", "all"),
    "loss": ("bce", "focal", "asymmetric"),
    "schedule": ("one_cycle", "cosine", "cyclic", "constant"),
    "reduction": ("mean", "sum"),
    "sampler": ("natural", "balanced", "label_vector"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "standardise": ("dataset", "film_inside", "local_inside", "film", "local"),
    "epoch_choice": ("best", "last"),
}
AT_LEAST: Mapping[str, float] = {
    "epochs": 1,
    "batch_size": 2,  # batch normalisation needs two
    "threads": 1,
    "ranks": 1,
    "sampler_minimum": 1,
    "image_size": 16,
    "learning_rate": 0,
    "weight_decay": 0,
    "clip": 0,
    "translation": 0,
    "rotation": 0,
    "brightness": 0,
    "patience": 0,
    "frozen_epochs": 0,
    "accumulate": 1,
    "noise": 0,
    "mixup": 0,
    "backbone_rate": 0,
    "snapshots": 0,
    "checkpoint_minutes": 0,
    "watchdog_minutes": 0,
    "storage_minutes": 0,
    "recipe_version": 1,
    "branch_epoch": 0,
}
# How a training is kept safe: no part of what it computes, so they may change at any time.
UPKEEP = ("checkpoint_minutes", "watchdog_minutes", "storage_minutes")
KINDS = ("affine_probability", "intensity_probability", "noise_probability", "mixup_probability")
SHARES = ("dropout", "label_smoothing", "augment_probability", "warmup", "scaling", "contrast", "erasing", "averaging",
          "others_weight", *KINDS)  # fmt: skip
# What a training computes from its settings. 2: the films of all batches of an update count alike, however many batches
# there are (`accumulate`); schedule and average count updates; frozen layers keep the statistics of their batch
# normalisation; samplers weigh the films that are drawn, and label_vector draws its minimum. A training keeps its own.
RECIPE_VERSION = 2
# Fields that a run of before may not know: at their default they leave its digest, and so its networks, as they are.
LATER = ("snapshots", "standardise", "recipe_version", "epoch_choice", "branch_epoch", "others_weight", *KINDS)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    backbone: str = "resnet18"  # any timm model name, hf-hub:OWNER/NAME or local-dir:FOLDER with timm's config.json
    pretrained: str = "false"  # "true": timm's weights of this backbone, or its source's; a path: a weight file of it
    init: str = ""  # start from trained weights: RUN/<slug>, RUN/shared or a .safetensors file
    branch_epoch: int = 0  # 0: none; a shared network keeps its state after it, a finding of init=shared/K begins there
    views: str = "frontal"  # which films: frontal, lateral, all
    image_size: int | None = None  # pixels a side; none: the data set's
    standardise: str = "dataset"  # whose mean and spread: dataset, film_inside, local_inside; film, local: with border
    epochs: int = 12  # passes over the part `train`
    batch_size: int = 32  # films per step
    learning_rate: float = 1e-3  # peak of the one-cycle schedule
    weight_decay: float = 0.05  # AdamW, not on norms and biases
    schedule: str = "one_cycle"  # of the learning rate: one_cycle, cosine, constant, cyclic (cosine, anew per snapshot)
    warmup: float = 0.3  # share of the steps in which the learning rate rises
    backbone_rate: float = 1.0  # learning rate of all but the last layer, as a share; below 1 for trained weights
    frozen_epochs: int = 0  # first epochs in which only the last layer learns
    accumulate: int = 1  # batches whose gradients make one step
    averaging: float = 0.0  # decay of the moving average of the weights that is scored and kept; 0: none
    start_size: float = 1.0  # side of the films in the first epoch as a share of the full one; 1: always full
    snapshots: int = 0  # further weight files as members: ends of as many cycles (cyclic), else next best epochs
    clip: float = 1.0  # largest gradient norm; 0: no clipping
    loss: str = "bce"  # bce, focal (Lin et al. 2017), asymmetric (Ridnik et al. 2021)
    positive_weight: str = "none"  # weight of positives in the loss: none, balanced (negatives / positives), a number
    reduction: str = "mean"  # of a shared network, over the losses of its targets: mean, sum
    others_weight: float = 0.0  # loss of each other finding, as a share of its own's; 1: that of a shared network
    label_smoothing: float = 0.0  # targets move this far towards 0.5
    sampler: str = "natural"  # natural, balanced (both classes alike), label_vector (rare combinations more often)
    sampler_minimum: int = 20  # label_vector: draws an epoch of every rarer combination of findings; lengthens it
    dropout: float = 0.0  # before the last layer
    rotation: float = 7.0  # augmentation: largest angle in degrees
    translation: float = 0.06  # augmentation: largest shift as a share of the side
    scaling: float = 0.1  # augmentation: sizes from 1 - x to 1 + x
    brightness: float = 0.15  # augmentation: largest shift in standard deviations of the pixels
    contrast: float = 0.2  # augmentation: factors from 1 - x to 1 + x
    noise: float = 0.0  # augmentation: largest standard deviation of added noise, in those of the pixels
    erasing: float = 0.0  # augmentation: share of the films in which a rectangle is blanked (Zhong et al. 2020)
    augment_probability: float = 0.9  # share of the training films that are augmented at all
    affine_probability: float = 1.0  # share of the augmented films that are turned, shifted and scaled
    intensity_probability: float = 1.0  # share of the augmented films whose brightness and contrast change
    noise_probability: float = 1.0  # share of the augmented films that get noise
    mixup: float = 0.0  # alpha of mixup (Zhang et al. 2018): films and targets are blended in pairs; 0: none
    mixup_probability: float = 1.0  # share of the batches that are blended
    epoch_choice: str = "best"  # whose weights are kept: best of part select, or the last epoch's without any choice
    patience: int = 0  # stop after so many epochs without a better select score; 0: never
    seed: int = 0  # member k of a run uses seed + k
    threads: int = 1  # CPU threads of the training process
    ranks: int = 1  # processes that share every batch, each with a GPU of its own (--gpus-per-target)
    precision: str = "auto"  # fp32, bf16, fp16 (the loss is scaled); auto: the fastest that CPU or GPU computes in
    device: str = "auto"  # cuda where there is one, else cpu
    compile: bool = False  # torch.compile: pays where a target trains for long
    deterministic: bool = False  # on a GPU: repeatable operations only; on a CPU they always are
    checkpoint_minutes: float = 5.0  # a checkpoint at every epoch's end, and within an epoch after so many minutes
    watchdog_minutes: float = 10.0  # a step without any sign of life for so long hangs, and is ended; 0: never
    storage_minutes: float = 10.0  # a write that fails is tried again for so long before the target fails
    recipe_version: int = 1  # what a training makes of its settings: 2 for new ones, those begun under 1 keep it
    uncertain: str = ""  # label policy for -1: zeros, ones, ignore, soft(low,high); empty: the finding's own
    blank: str = ""  # label policy for blanks: zero, ignore; empty: the finding's own

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}={getattr(self, name)!r} is not one of: {', '.join(allowed)}")
        for name, least in AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise InputError(f"{name}={value} is too small: at least {least}")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)} must lie between 0 and 1")
        if self.snapshots > self.epochs:
            raise InputError(f"snapshots={self.snapshots} of {self.epochs} epochs: at most one of each epoch")
        if self.schedule == "cyclic" and self.snapshots < 2:
            raise InputError(f"schedule=cyclic begins anew for each snapshot: snapshots={self.snapshots} is below 2")
        if self.branch_epoch and self.branch_epoch >= self.epochs:
            raise InputError(f"branch_epoch={self.branch_epoch} of {self.epochs} epochs: at least one must be left")
        if self.epoch_choice == "last" and self.patience:
            raise InputError(f"epoch_choice=last trains to the end: patience={self.patience} must be 0")
        if self.batch_size % self.ranks or self.ranks > 1 and self.batch_size < 2 * self.ranks:
            raise InputError(f"batch_size={self.batch_size} cannot be shared equally by ranks={self.ranks}")
        if self.recipe_version > RECIPE_VERSION:
            raise InputError(f"recipe_version={self.recipe_version} is newer than {RECIPE_VERSION}: update hilum")
        if not 0 < self.start_size <= 1:
            raise InputError(f"start_size={self.start_size} must lie above 0 and at most at 1")
        if self.device.partition(":")[0] not in ("auto", "cpu", "cuda"):
            raise InputError(f"device={self.device!r} is not one of: auto, cpu, cuda, cuda:0, cuda:1, ...")
        if self.positive_weight not in ("none", "balanced") and not _is_positive(self.positive_weight):
            raise InputError(f"positive_weight={self.positive_weight!r} is not none, balanced or a number above 0")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """Hash of the fields that shape the weights: its upkeep does not, nor do LATER fields at their default."""
        left_out = (*UPKEEP, *(name for name in LATER if getattr(self, name) == getattr(TrainConfig, name)))
        fields = {name: value for name, value in self.to_dict().items() if name not in left_out}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def parse_settings(words: Iterable[str]) -> dict[str, Any]:
    """`name=value` words as typed fields of TrainConfig; an unknown name is an error that gives the nearest one."""
    settings: dict[str, Any] = {}
    for word in words:
        name, separator, text = word.partition("=")
        if not separator:
            raise InputError(f"--set wants name=value, got {word!r}. For example: --set epochs=20")
        settings[name.strip()] = _parse(name.strip(), text.strip())
    return settings


def build_config(*layers: Mapping[str, Any]) -> TrainConfig:
    """The defaults, changed by each layer in turn (a pathology's overrides, then what the user set)."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            _known(name)
            merged[name] = _parse(name, value) if isinstance(value, str) else _converted(name, value)
    return TrainConfig(**merged)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The fields in which two configurations differ, as `name: old -> new`, for messages."""
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return ", ".join(f"{name}: {old.get(name)!r} -> {new.get(name)!r}" for name in names)


def settings_table() -> list[tuple[str, str, str]]:
    """(name, default, what it is) of every field, read from the comments of the class itself."""
    line = re.compile(r"^    (\w+): .* = (.+?)  # (.+)$", re.MULTILINE)
    return [
        (name, default.strip('"') or "none", text)
        for name, default, text in line.findall(inspect.getsource(TrainConfig))
    ]


def settings_page() -> str:
    """The table as the page docs/settings.md."""
    rows = [f"| `{name}` | {default} | {text} |" for name, default, text in settings_table()]
    head = (
        "# Training settings\n\nEvery field of `TrainConfig`, for `--set name=value`, a pathology's `[training]` table "
    )
    head += "and a search. Made by `hilum settings --markdown`.\n\n| setting | default | what it is |\n|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _known(name: str) -> type | UnionType:
    hints = get_type_hints(TrainConfig)
    if name not in hints:
        near = difflib.get_close_matches(name, hints, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"Unknown setting {name!r}.{hint} Known: {', '.join(hints)}")
    return hints[name]


def _parse(name: str, text: str) -> Any:
    hint = _known(name)
    optional = get_origin(hint) is UnionType
    if optional and text.lower() in ("none", ""):
        return None
    kind = get_args(hint)[0] if optional else hint
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"{name}={text!r}: expected true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{name}={text!r}: expected a{'n' if kind is int else ''} {kind.__name__}") from None


def _converted(name: str, value: Any) -> Any:
    hint = _known(name)
    kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    if isinstance(value, bool) and bool in kinds:
        return value
    if isinstance(value, bool) and str in kinds:  # pretrained = true in a TOML file
        return str(value).lower()
    if float in kinds and isinstance(value, int):
        return float(value)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise InputError(f"{name}={value!r}: expected {' or '.join(kind.__name__ for kind in kinds)}")
    return value
