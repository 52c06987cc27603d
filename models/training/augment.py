"""Augmentation: mild affine and intensity changes, on whole batches, on the training device.

In: a normalised batch and the place in the run (seed, epoch, step); out: the changed batch. Every draw depends on that
place alone, so a resumed run sees the same films as an unbroken one. Never a mirror image: the heart has a side.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.config import TrainConfig
from models.data.loading import send

STREAM = 1  # keeps these draws apart from those of the film order
MIXUP_STREAM = 3
KIND_STREAMS = {"affine": 4, "intensity": 5, "noise": 6}  # of their own, so that a share of 1 leaves the others alone


def augment(batch: Tensor, config: TrainConfig, place: tuple[int, int, int]) -> Tensor:
    """N x 1 x H x W, zero mean and unit variance -> the same shape. `place` is (seed, epoch, step).

    A second channel, where a network is told what is film and what letterbox, is moved with the first.
    """
    draws = np.random.default_rng([STREAM, *place])
    n = len(batch)
    chosen = draws.random(n) < config.augment_probability
    affine, intensity, noise = (chosen & _drawn(kind, n, config, place) for kind in KIND_STREAMS)
    theta = send(_affine(draws, n, config, affine), batch.device)
    shift = draws.uniform(-config.brightness, config.brightness, n) * intensity
    factor = 1 + draws.uniform(-config.contrast, config.contrast, n) * intensity
    grid = _grid(theta, batch)
    # "border" repeats the letterbox's black or the film's own edge; zeros would paint mid-grey wedges
    moved = functional.grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False)
    area = moved[:, 1:]  # of a network that leaves the letterbox out: where the film is, after the move
    batch = batch[:, :1]
    changed = moved[:, :1].mul_(_column(factor, batch)).add_(_column(shift, batch))
    if config.noise:
        level = draws.uniform(0, config.noise, n) * noise
        changed = changed + _column(level, batch) * _noise(batch, int(draws.integers(2**62)))
    if config.erasing:
        changed = changed.masked_fill(_rectangles(draws, batch, config.erasing), 0.0)  # 0 is the mean of all pixels
    return torch.cat([changed, area], dim=1) if area.shape[1] else changed


def mixup(batch: Tensor, truth: Tensor, config: TrainConfig, place: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Blend every film and its target with another of the batch (Zhang et al. 2018), in `mixup_probability` of them."""
    if not config.mixup:
        return batch, truth
    draws = np.random.default_rng([MIXUP_STREAM, *place])
    share = float(draws.beta(config.mixup, config.mixup))
    partner = draws.permutation(len(batch))
    if draws.random() >= config.mixup_probability:
        return batch, truth
    partner = send(partner, batch.device)
    return batch.lerp(batch[partner], 1 - share), truth.lerp(truth[partner], 1 - share)


def _drawn(kind: str, n: int, config: TrainConfig, place: tuple[int, int, int]) -> np.ndarray:
    """N truth values: the films that get this kind of change."""
    share = getattr(config, f"{kind}_probability")
    return np.random.default_rng([KIND_STREAMS[kind], *place]).random(n) < share


def _grid(theta: Tensor, batch: Tensor) -> Tensor:
    """`functional.affine_grid`, N x H x W x 2, as sums of rows and columns: its matrix product takes far longer."""
    n, _, height, width = batch.shape
    x, y = (((2 * torch.arange(side, device=batch.device) + 1) / side - 1) for side in (width, height))
    grid = torch.empty((n, height, width, 2), device=batch.device)
    for axis in (0, 1):
        of_x, of_y, shift = (theta[:, axis, column, None, None] for column in range(3))
        torch.add(of_x * x, of_y * y[:, None] + shift, out=grid[..., axis])
    return grid


def _noise(batch: Tensor, seed: int) -> Tensor:
    generator = torch.Generator(batch.device).manual_seed(seed)
    return torch.randn(batch.shape, generator=generator, device=batch.device)


def _rectangles(draws: np.random.Generator, batch: Tensor, probability: float) -> Tensor:
    """N x 1 x H x W mask: in the films drawn, a rectangle of 2 to 20 % of the film (Zhong et al. 2020)."""
    n, _, height, width = batch.shape
    area, aspect = draws.uniform(0.02, 0.2, n), np.exp(draws.uniform(-1.2, 1.2, n))
    half = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)]) / 2
    centre = draws.random((2, n))
    erased = draws.random(n) < probability
    y, x = (np.arange(side)[None] / side for side in (height, width))
    rows = (np.abs(y - centre[0][:, None]) < half[0][:, None]) & erased[:, None]
    columns = np.abs(x - centre[1][:, None]) < half[1][:, None]
    return send(rows[:, None, :, None] & columns[:, None, None, :], batch.device)


def _affine(draws: np.random.Generator, n: int, config: TrainConfig, chosen: np.ndarray) -> np.ndarray:
    """N x 2 x 3 matrices (output to input coordinates, both in -1..1); the identity for films not chosen."""
    angle = np.deg2rad(draws.uniform(-config.rotation, config.rotation, n)) * chosen
    size = 1 + draws.uniform(-config.scaling, config.scaling, n) * chosen
    shift = 2 * draws.uniform(-config.translation, config.translation, (2, n)) * chosen
    cosine, sine = np.cos(angle) / size, np.sin(angle) / size
    rows = np.stack([cosine, -sine, shift[0], sine, cosine, shift[1]], axis=1)
    return rows.reshape(n, 2, 3).astype(np.float32)


def _column(values: np.ndarray, batch: Tensor) -> Tensor:
    return send(values.astype(np.float32), batch.device)[:, None, None, None]
