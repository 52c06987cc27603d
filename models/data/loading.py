"""Batches: which films of the memory-mapped cache come when, at which size, and their way to the device.

In: DATASET's `images.u8` (already opened) and `targets.npz`. Out: normalised batches on the training device. No worker
processes: indexing the map copies just the films of one batch. On a GPU the whole cache lies there if it fits; else a
batch travels through page-locked memory, while the device still computes the one before, so that no step waits for it.
Called by models.training (`loop`, `augment`, `lr_range_test`), by models.process.job, and, for `normalise`, by
models.classifier.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.config import TrainConfig
from models.data.cache import DEVICE_SHARE
from models.data.targets import Targets
from pathologies.labels.sample_weights import vector_epoch

CHUNK_BYTES = 2**28  # of one copy, when the whole cache goes to a GPU
GROWN_AT = 0.6  # share of the epochs after which films have their full size
SIZE_STEP = 8  # pixels: sizes in between are multiples of it
STREAM = 0  # film order; augmentation draws from another stream


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
            self.store["films"] = cache_on_gpu(self.images, self.device)
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


def film_size(config: TrainConfig, full: int, epoch: int) -> int:
    """Side of the training films in an epoch: from `start_size` of the full side up to all of it.

    Small films first cost less and the last epochs have them as they are (Tan and Le, EfficientNetV2, ICML 2021). Not
    the default: with half the side at first, fine signs (the phantom's rib steps at 64 pixels) were not learned.
    """
    share = min(1.0, config.start_size + (1 - config.start_size) * epoch / max(GROWN_AT * config.epochs, 1.0))
    return full if share >= 1 else min(full, max(2 * SIZE_STEP, round(share * full / SIZE_STEP) * SIZE_STEP))


def send(array: np.ndarray, device: str | torch.device) -> Tensor:
    """`array` on the device. A copy out of ordinary memory would wait until the device has done all that it was given.

    The allocator gives page-locked memory out again only when the copy from it is over.
    """
    tensor = torch.from_numpy(array)
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def gather(images: np.ndarray, rows: np.ndarray, device: str) -> Tensor:
    """Films `rows` of the map on the device."""
    cuda = torch.device(device).type == "cuda"
    films = torch.empty((len(rows), *images.shape[1:]), dtype=torch.uint8, pin_memory=cuda)
    order = np.argsort(rows)  # ascending reads are kinder to a cold page cache
    films.numpy()[order] = images[rows[order]]
    return films.to(device, non_blocking=cuda)


def cache_on_gpu(images: np.ndarray, device: str) -> Tensor | None:
    """The whole cache on the GPU; None on a CPU, which has the map, and where it takes more than its share of the card.

    Depends on the card's size alone, not on who else is there, and changes no pixel.
    """
    if torch.device(device).type != "cuda":
        return None
    total = torch.cuda.get_device_properties(device).total_memory
    return upload(images, device) if images.nbytes <= DEVICE_SHARE * total else None


def upload(images: np.ndarray, device: str) -> Tensor:
    films = torch.empty(images.shape, dtype=torch.uint8, device=device)
    step = max(1, CHUNK_BYTES // max(images[0].nbytes, 1))
    for start in range(0, len(images), step):
        films[start : start + step] = torch.from_numpy(np.array(images[start : start + step])).to(device)
    return films
