"""Batches: which films of the memory-mapped cache come when, and their targets.

In: DATASET's `images.u8` (already opened) and `targets.npz`; out: normalised batches on the training device. No worker
processes: indexing the map copies just the films of one batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.config import TrainConfig
from models.data.resident import gather, resident, send
from models.data.targets import Targets
from pathologies.labels.sample_weights import vector_epoch

STREAM = 0  # film order; augmentation draws from another stream
PARTS = (
    "train",
    "select",
    "calibrate",
    "test",
)  # the same words as pathologies.splits.assignment, which a trainer does not import


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The cache and how its bytes become network input: (value / 255 - mean) / std, reduced to `size` pixels a side."""

    images: np.ndarray  # N x H x W uint8, a read-only map
    mean: float
    std: float
    size: int
    device: str
    # the whole cache on a GPU, once it was asked for; a copy made by `replace` shares it
    store: dict[str, Tensor | None] = field(default_factory=dict, repr=False, compare=False)
    on_batch: Callable[[], None] | None = None  # a sign of life; may raise where a batch is not wanted any more

    def batch(self, rows: np.ndarray, size: int | None = None) -> Tensor:
        """Films `rows` as N x 1 x size x size floats on the device; `size`: none for the full one."""
        if self.on_batch:
            self.on_batch()
        return normalise(self._films(rows), self.mean, self.std, size or self.size)

    def _films(self, rows: np.ndarray) -> Tensor:
        if "films" not in self.store:
            self.store["films"] = resident(self.images, self.device)
        films = self.store["films"]
        return gather(self.images, rows, self.device) if films is None else films[send(rows, films.device)]


def normalise(films: Tensor, mean: float, std: float, size: int) -> Tensor:
    """N x H x W uint8 -> N x 1 x size x size float32 in channels_last order."""
    pixels = films[:, None].to(torch.float32).sub_(255 * mean).div_(255 * std)
    if pixels.shape[-1] != size:
        pixels = functional.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    return pixels.contiguous(memory_format=torch.channels_last)


def epoch_order(targets: Targets, positions: np.ndarray, config: TrainConfig, epoch: int) -> np.ndarray:
    """Positions in one epoch's order, from (seed, epoch) alone; an incomplete last batch is filled from the front.

    A batch of one film would break batch normalisation, and dropping the rest would leave films unseen. Every epoch of
    a training is equally long.
    """
    draws = np.random.default_rng([STREAM, config.seed, epoch])
    share = targets.draw[positions].astype(np.float64)
    if len(targets.combination):  # sampler=label_vector
        order = positions[vector_epoch(targets.combination[positions], config.sampler_minimum, draws)]
    elif np.ptp(share) > 0:  # another sampler than the natural one: drawn with replacement
        order = draws.choice(positions, size=len(positions), p=share / share.sum())
    else:
        order = draws.permutation(positions)
    rest = -len(order) % config.batch_size
    return np.concatenate([order, np.resize(order, rest)]) if rest else order
