"""The trained single-target artefact, ready to use: networks, their combination, calibration and operating point.

In: a finding's entry of a bundle and its weight files. Out: logits and calibrated probabilities of prepared films. Used
by the bundle's reader, and on its own. Always fp32, so that a machine without bf16 gives the same answers.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

from models.data.loading import normalise
from models.network.builder import build_network
from models.network.encoder import Head, build_encoder
from models.statistics.blending import Blend, model_columns
from models.statistics.calibration import Calibration
from pathologies.errors import InputError

# Shifts (rows, columns, as shares of the side) and sizes of the copies that a member with `copies` looks at: within
# what training's augmentation draws, and never a mirror image, since the heart has a side.
COPIES = ((0.03, 0.03, 1.0), (-0.03, -0.03, 1.0), (0.0, 0.0, 1.06), (0.0, 0.0, 0.94))


@dataclass(frozen=True, kw_only=True)
class Member:
    """A network, the side length that it was trained at, and how it is asked."""

    network: nn.Module
    size: int  # pixels
    column: int = 0  # which output, of a network that answers for several findings
    copies: bool = False  # the mean over shifted and zoomed copies of the film instead of the film itself
    head: Head | None = None  # the network is a frozen encoder, and this makes logits of its features
    pixels: tuple[float, float] | None = None  # mean and spread of the encoder's films; none: the bundle's

    def answer(self, batch: Tensor) -> np.ndarray:
        """N x 1 x size x size normalised films -> looks x N logits, of a shared network looks x N x outputs, of an
        encoder looks x N x features. A look is the film, or one of its copies.
        """
        looks = [moved(batch, copy) for copy in COPIES] if self.copies else [batch]
        return np.stack([self.network(look).float().cpu().numpy() for look in looks])

    def logits_of(self, answer: np.ndarray) -> np.ndarray:
        """N logits of this member's finding."""
        if self.head is not None:
            answer = self.head(torch.from_numpy(answer).flatten(0, 1)).numpy().reshape(answer.shape[:2])
        answer = np.mean(answer, axis=0, dtype=np.float64)
        return answer if answer.ndim == 1 else answer[:, self.column]


class Films:
    """A batch of films on its way through many networks: each size is made once, each network is asked once."""

    def __init__(self, films: np.ndarray, device: str) -> None:
        self.count = len(films)
        self.pixels = torch.from_numpy(np.array(films)).to(device)  # a copy: a read-only map's films are not writable
        self.batches: dict[tuple[float, float, int], Tensor] = {}
        self.answers: dict[tuple[int, tuple[float, float, int], bool], np.ndarray] = {}

    def logits(self, member: Member, mean: float, std: float) -> np.ndarray:
        """N logits of a member."""
        place = (*(member.pixels or (mean, std)), member.size)
        asked = (id(member.network), place, member.copies)
        if asked not in self.answers:
            if place not in self.batches:
                self.batches[place] = normalise(self.pixels, *place)
            self.answers[asked] = member.answer(self.batches[place])
        return member.logits_of(self.answers[asked])


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """One finding. `entry` is its part of `bundle.json`."""

    slug: str
    members: tuple[Member, ...]
    grouped: tuple[tuple[int, ...], ...]  # of each column of logits: the members whose mean it is
    blend: Blend
    mean: float
    std: float
    calibration: Calibration
    entry: Mapping[str, Any]
    device: str

    @property
    def threshold(self) -> float | None:
        """Of the default operating point; None where no threshold is useful."""
        point = self.entry["operating_points"][self.entry["operating_point"]]
        return point["threshold"] if point["useful"] else None

    @property
    def width(self) -> int:
        """How many columns of logits there are to blend."""
        return len(self.grouped)

    def columns(self, films: np.ndarray | Films) -> np.ndarray:
        """N x H x W uint8 films, prepared as the bundle's input contract says -> N x columns logits.

        A column is a member, or the mean of a group of members: the networks of a cross-validation. `Films` keeps what
        other findings may ask of the same batch.
        """
        batch = films if isinstance(films, Films) else Films(films, self.device)
        found = np.empty((batch.count, self.width))
        with torch.inference_mode():
            for index, members in enumerate(self.grouped):
                logits = [batch.logits(self.members[one], self.mean, self.std) for one in members]
                found[:, index] = np.mean(logits, axis=0)
        return found

    def combine(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """N scores from the members' logits (slug -> N x columns) of this finding, or of all it is stacked from."""
        if self.blend.inputs:
            return self.blend.apply(np.column_stack([columns[slug].mean(axis=1) for slug in self.blend.inputs]))
        return self.blend.apply(columns[self.slug])

    def logits(self, films: np.ndarray) -> np.ndarray:
        """N x H x W uint8 films -> N blended logits. InputError for a finding that is stacked from several."""
        if self.blend.inputs:
            raise InputError(
                f"{self.slug} is stacked from {', '.join(self.blend.inputs)}, so it has no answer on its own. "
                "Ask the whole bundle: load_bundle(folder).logits(films)."
            )
        return self.blend.apply(self.columns(films))

    def probability(self, films: np.ndarray) -> np.ndarray:
        """N calibrated probabilities in [0, 1], before any consistency step of the bundle."""
        return self.calibration.apply(self.logits(films))


def moved(batch: Tensor, copy: tuple[float, float, float]) -> Tensor:
    """A copy of the films shifted by shares of the side and resized about the centre; the border is repeated."""
    down, right, size = copy
    theta = batch.new_tensor([[1 / size, 0.0, -2 * right / size], [0.0, 1 / size, -2 * down / size]])
    grid = functional.affine_grid(theta.expand(len(batch), 2, 3), list(batch.shape), align_corners=False)
    return functional.grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False)


def load_classifier(
    slug: str,
    entry: Mapping[str, Any],
    contract: Mapping[str, Any],
    folder: Path,
    device: str,
    networks: dict[str, nn.Module] | None = None,
) -> Classifier:
    """Read one finding of the bundle in `folder`. Errors: an absent or a wrong weight file.

    `networks` holds those that are read already, by file, and takes the further ones.
    """
    networks = {} if networks is None else networks
    members = tuple(_member(model, folder, device, networks) for model in entry["models"])
    return Classifier(
        slug=slug,
        members=members,
        grouped=model_columns(entry["models"]),
        blend=Blend.from_dict(entry.get("blend") or {"method": entry["combine"]}),
        mean=contract["pixel_mean"],
        std=contract["pixel_std"],
        calibration=Calibration.from_dict(entry["calibration"]),
        entry=entry,
        device=device,
    )


def _member(model: Mapping[str, Any], folder: Path, device: str, networks: dict[str, nn.Module]) -> Member:
    """A network is read once, for a film and its copies, for all findings that share it, for all heads on it."""
    encoder = model.get("encoder")
    file = encoder["file"] if encoder else model["file"]
    if file not in networks:
        networks[file] = read_network(folder / file, model, device)
    if encoder and model["file"] not in networks:
        networks[model["file"]] = _read_head(folder / model["file"], model)
    return Member(
        network=networks[file],
        size=model["image_size"],
        column=model.get("column", 0),
        copies=model.get("copies", False),
        head=networks[model["file"]] if encoder else None,
        pixels=(encoder["pixel_mean"], encoder["pixel_std"]) if encoder else None,
    )


def _read_head(path: Path, model: Mapping[str, Any]) -> Head:
    head = Head(model["head"]["features"], model["head"]["hidden"])
    _fill(head, path, model["sha256"])
    return head.eval().requires_grad_(False)


def read_network(path: Path, model: Mapping[str, Any], device: str) -> nn.Module:
    """A network from its weight file.

    `model` has its backbone and the arguments of it, its outputs if shared, and the file's sha256; of a head that of
    its encoder, which is the network.
    """
    standardise = model.get("standardise", "dataset")  # bundles of before know no other
    args = model.get("backbone_args")  # bundles of before have none
    if model.get("encoder"):
        network = build_encoder({"name": model["backbone"], "args": args}, standardise)
        _fill(network, path, model["encoder"]["sha256"])
    else:
        network = build_network(model["backbone"], outputs=model.get("outputs"), standardise=standardise, args=args)
        _fill(network, path, model["sha256"])
    return network.to(device, memory_format=torch.channels_last).eval()


def _fill(network: nn.Module, path: Path, sha256: str) -> None:
    """The weights of the file. Errors: FileNotFoundError; InputError where it is another file or network's."""
    if not path.is_file():
        raise FileNotFoundError(f"The bundle lacks {path}. Copy the whole folder, weights included.")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{path} is not the file that the bundle was made with (its hash differs). Copy it again.")
    try:
        network.load_state_dict(load(data))
    except RuntimeError as error:
        raise InputError(f"{path} does not fit the network that its description names: {error}") from error
