"""A frozen encoder and the heads on it: a network cut before its last layer, and what is fitted in that layer's place.

In: a backbone's name and where its weights are; a head's description. Out: a module from films to features and the
facts that identify it; a module from features to logits. Called by orchestrator.datasets.embed (once over a data set),
models.process.head_job (heads) and models.classifier (both, from a bundle).
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.files.checksummed import weights_bytes
from models.files.layout import TargetPaths, read_json, start_file
from models.network.architecture import Architecture, architecture, films_of
from models.network.normalisation import standardised
from models.network.pretrained import load_file, load_own
from pathologies.errors import InputError

NORMALISATIONS = ("encoder", "dataset")  # whose mean and spread the pixels are brought to; or two numbers


class Encoder(nn.Module):
    """N x 1 x H x W films -> N x F features: what the last layer of the network would see, without dropout."""

    def __init__(self, kind: Architecture, standardise: str = "dataset") -> None:
        super().__init__()
        self.backbone = kind.build(outputs=0)
        self.standardise = standardise

    def forward(self, pixels: Tensor) -> Tensor:
        return self.backbone(standardised(pixels, self.standardise))


class Head(nn.Module):
    """N x F features -> N logits. `hidden`: units of the hidden layer, 0 for a linear head."""

    def __init__(self, features: int, hidden: int = 0) -> None:
        super().__init__()
        last = nn.Linear(hidden or features, 1)
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), last) if hidden else nn.Sequential(last)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)[:, 0]


@dataclass(frozen=True, kw_only=True)
class EncoderFacts:
    """What an encoder computes from: with the weights, all that its features depend on beside the films."""

    architecture: Mapping[str, Any]  # name and arguments
    weights_sha256: str  # of encoder.safetensors
    standardise: str  # the first step, as in TrainConfig
    size: int  # side of the films in pixels
    pixel_mean: float  # on a scale from 0 to 1
    pixel_std: float
    features: int

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class EncoderWish:
    """Which encoder, as a user names it."""

    encoder: str  # a timm name, hf-hub:..., local-dir:..., or RUN/shared, RUN/<slug> or one member of it
    weights: Path | None = None  # a weight file of that backbone; none: its own
    size: int | None = None  # none: the side that the weights were made at
    normalisation: str = "encoder"  # the mean and spread that its weights were made with, or the data set's


@dataclass(frozen=True, kw_only=True)
class EncoderFilms:
    """How films are brought to an encoder: side in pixels, mean and spread on a scale from 0 to 1."""

    size: int
    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class Opened:
    network: Encoder
    facts: EncoderFacts
    content: bytes  # of encoder.safetensors
    start: str  # what was loaded, in a sentence


def open_encoder(wish: EncoderWish, manifest: Mapping[str, Any]) -> Opened:
    """The encoder for the data set of `manifest`, with its weights. Errors: InputError; FileNotFoundError."""
    given = _numbers(wish.normalisation)
    if not wish.encoder.startswith(("hf-hub:", "local-dir:")) and Path(wish.encoder).exists():
        return _of_run(wish, manifest)
    made = films_of(wish.encoder)
    size = wish.size or int((made.get("input_size") or [manifest["size"]])[-1])
    kind = architecture(wish.encoder, size)
    network, width = _untrained(kind, "dataset", size)
    if wish.weights:
        start = load_file(network.backbone, kind, Path(wish.weights))
    else:
        start = load_own(network.backbone, kind, wish.encoder)
    pixels = given or (manifest["pixel_mean"], manifest["pixel_std"])
    if wish.normalisation == "encoder" and made.get("mean"):
        pixels = _mean(made["mean"]), _mean(made["std"])
    return _opened(network, kind, EncoderFilms(size=size, mean=pixels[0], std=pixels[1]), width, start)


def _of_run(wish: EncoderWish, manifest: Mapping[str, Any]) -> Opened:
    """A network that hilum trained: it takes films by the data set's mean and spread, at the side of its training."""
    if wish.weights:
        raise InputError(f"{wish.encoder} is a folder with weights of its own: leave the weight file out.")
    path = start_file(wish.encoder)
    paths = TargetPaths(path.parent)
    if not (paths.config.is_file() and paths.outcome.is_file()):
        raise InputError(
            f"{wish.encoder} is not a finished training of a run (RUN/shared, RUN/<finding>). For a weight file give "
            "its backbone as the encoder, and the file as its weights."
        )
    payload, outcome = read_json(paths.config), read_json(paths.outcome)
    if "head" in payload:
        raise InputError(f"{wish.encoder} is a head on an encoder; name the encoder itself.")
    config = payload["config"]
    kind = Architecture(**(outcome.get("architecture") or {"name": config["backbone"], "args": {}}))
    own = config["image_size"] or payload["data"]["size"]
    if wish.size not in (None, own):
        raise InputError(f"{wish.encoder} was trained at {own} pixels a side: leave the size out.")
    network, width = _untrained(kind, config.get("standardise", "dataset"), own)
    start = load_file(network.backbone, kind, path)
    films = EncoderFilms(size=own, mean=manifest["pixel_mean"], std=manifest["pixel_std"])
    return _opened(network, kind, films, width, start)


def _opened(network: Encoder, kind: Architecture, films: EncoderFilms, width: int, start: str) -> Opened:
    content = weights_bytes(network)
    facts = EncoderFacts(
        architecture=kind.to_dict(),
        weights_sha256=hashlib.sha256(content).hexdigest(),
        standardise=network.standardise,
        size=films.size,
        pixel_mean=float(films.mean),
        pixel_std=float(films.std),
        features=width,
    )
    return Opened(network=network, facts=facts, content=content, start=start)


def _untrained(kind: Architecture, standardise: str, size: int) -> tuple[Encoder, int]:
    """The encoder, and how many features a film has. Errors: InputError where it does not take such films."""
    try:
        network = Encoder(kind, standardise).eval()
        with torch.inference_mode():
            found = network(torch.zeros(1, 1, size, size))
    except Exception as error:  # of hundreds of networks, each with a check or a failing operation of its own
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{kind.name} does not take films of {size} pixels a side ({reason}). Set another size."
        ) from error
    if found.ndim != 2:
        raise InputError(f"{kind.name} gives no list of features for a film, but a {found.ndim}-dimensional answer.")
    return network, int(found.shape[1])


def build_encoder(architecture: Mapping[str, Any], standardise: str) -> Encoder:
    """Untrained, from a bundle's or a run's description."""
    return Encoder(Architecture(name=architecture["name"], args=architecture["args"]), standardise)


def _numbers(normalisation: str) -> tuple[float, float] | None:
    """Mean and spread where they are given as numbers. Errors: InputError for a word that is none of NORMALISATIONS."""
    if normalisation in NORMALISATIONS:
        return None
    try:
        mean, std = map(float, normalisation.split(","))
    except ValueError:
        mean = std = 0.0
    if not 0 < std < math.inf:
        raise InputError(
            f"normalisation={normalisation!r} is not one of: {', '.join(NORMALISATIONS)}, MEAN,SPREAD (on a scale on "
            "which black is 0 and white is 1)."
        )
    return mean, std


def _mean(values: tuple[float, ...]) -> float:
    """Of the channels: a grey film has one, and the first layer is folded to it."""
    return sum(values) / len(values)
