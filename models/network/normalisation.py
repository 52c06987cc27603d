"""Standardising: whose mean and spread the pixels are brought to, as the first step of a network.

In: a batch in units of the data set; out: the same films by their own scale (`film_inside`) or by that of each pixel's
surroundings (`local_inside`), without the letterbox's black, which is no part of a film. Exposure, and by surroundings
shading across the film too, then no longer reach the network: it answers alike for films of machines that it was not
trained on. What exposure itself may tell is lost. `film` and `local` count the letterbox as film, so that how much of
it there is moves the answer; they stay for the networks that were trained by them.
"""

import torch
from torch import Tensor

INSIDE = ("film_inside", "local_inside")
WINDOW = 0.1  # of the side: standard deviation of the Gaussian window that is a pixel's surroundings
# Standard deviations from which on there is something to see: of a film in units of the data set, of a pixel's
# surroundings in units of the film. An empty film, or the empty part of one, is not blown up to noise.
EMPTY_FILM, EMPTY_PART = 0.01, 0.1


BLACK = 1e-3  # standard deviations that rounding may add to the letterbox's black; a grey level is ten times that


def standardised(batch: Tensor, how: str) -> Tensor:
    """N x 1 x H x W, already by the data set's mean and standard deviation -> the same shape, float32.

    `local` takes off the mean of the Gaussian window and divides by the standard deviation in it: local contrast
    normalisation (Jarrett et al. 2009, section 2.1), with weights that sum to 1 at the border too. Those of INSIDE
    take N x 2 x H x W as well, of which the second channel says what is film (`with_film_area`).
    """
    if how == "dataset":
        return batch
    # lower precision would add steps of grey; autocast leaves sums in float32 but not products
    with torch.autocast(batch.device.type, enabled=False):
        pixels = batch.float()
        if how in INSIDE:
            pixels = _inside(*_with_area(pixels).split(1, dim=1), how)
        else:
            centred = pixels - pixels.mean((2, 3), keepdim=True)
            pixels = centred / (centred.square().mean((2, 3), keepdim=True).sqrt() + EMPTY_FILM)
        if how == "local":
            rows, columns = (_window(side, batch.device) for side in batch.shape[2:])
            centred = pixels - rows @ pixels @ columns.T
            pixels = centred / ((rows @ centred.square() @ columns.T).sqrt() + EMPTY_PART)
    return pixels.contiguous(memory_format=torch.channels_last)


def with_film_area(batch: Tensor, how: str) -> Tensor:
    """The batch as it is augmented: for a network of INSIDE with a second channel, 1 on the film and 0 beside it.

    The letterbox is found while it is straight, and turned, shifted and resized with its film.
    """
    return _with_area(batch) if how in INSIDE else batch


def film_area(pixels: Tensor) -> Tensor:
    """N x 1 x H x W films, not turned -> 1 on the film, 0 in the letterbox: the whole rows and columns of black, from
    each edge to the first that has anything else in it. A film that is black throughout is all film.
    """
    black = pixels <= pixels.amin((2, 3), keepdim=True) + BLACK
    rows, columns = (_between(~black.all(dim=axis, keepdim=True), 5 - axis) for axis in (3, 2))
    area = (rows & columns).to(pixels.dtype)
    return torch.where(area.any(dim=3, keepdim=True).any(dim=2, keepdim=True), area, torch.ones_like(area))


def _between(bright: Tensor, axis: int) -> Tensor:
    """From the first to the last that is true along `axis`."""
    seen = bright.to(torch.int32)
    return (seen.cumsum(axis) > 0) & (seen.flip(axis).cumsum(axis).flip(axis) > 0)


def _with_area(batch: Tensor) -> Tensor:
    return batch if batch.shape[1] == 2 else torch.cat([batch, film_area(batch)], dim=1)


def _inside(pixels: Tensor, area: Tensor, how: str) -> Tensor:
    """As `film` and `local`, every mean taken over the film alone; 0, the mean, where there is none."""
    count = area.sum((2, 3), keepdim=True).clamp(min=1)
    centred = (pixels - (pixels * area).sum((2, 3), keepdim=True) / count) * area
    pixels = centred / ((centred.square() * area).sum((2, 3), keepdim=True).div(count).sqrt() + EMPTY_FILM)
    if how == "film_inside":
        return pixels
    rows, columns = (_window(side, pixels.device) for side in pixels.shape[2:])
    weight = (rows @ area @ columns.T).clamp(min=1e-6)
    centred = (pixels - rows @ (pixels * area) @ columns.T / weight) * area
    return centred / ((rows @ centred.square() @ columns.T / weight).sqrt() + EMPTY_PART)


def _window(side: int, device: torch.device) -> Tensor:
    """`side` x `side`: row k weighs the pixels around k. Two such products are the Gaussian window of an image."""
    at = torch.arange(side, dtype=torch.float32, device=device) / (WINDOW * side)
    return torch.softmax(-0.5 * (at[:, None] - at).square(), dim=1)
