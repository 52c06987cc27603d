"""Standardising: whose mean and spread the pixels are brought to, as the first step of a network.

In: a batch in units of the data set; out: the same films by their own scale (`film`) or by that of each pixel's
surroundings (`local`). Exposure, and with `local` shading across the film too, then no longer reach the network: it
answers alike for films of machines that it was not trained on. What exposure itself may tell is lost.
"""

import torch
from torch import Tensor

WINDOW = 0.1  # of the side: standard deviation of the Gaussian window that is a pixel's surroundings
# Standard deviations from which on there is something to see: of a film in units of the data set, of a pixel's
# surroundings in units of the film. An empty film, or the empty part of one, is not blown up to noise.
EMPTY_FILM, EMPTY_PART = 0.01, 0.1


def standardised(batch: Tensor, how: str) -> Tensor:
    """N x 1 x H x W, already by the data set's mean and standard deviation -> the same shape, float32.

    `local` takes off the mean of the Gaussian window and divides by the standard deviation in it: local contrast
    normalisation (Jarrett et al. 2009, section 2.1), with weights that sum to 1 at the border too.
    """
    if how == "dataset":
        return batch
    # lower precision would add steps of grey; autocast leaves sums in float32 but not products
    with torch.autocast(batch.device.type, enabled=False):
        pixels = batch.float()
        centred = pixels - pixels.mean((2, 3), keepdim=True)
        pixels = centred / (centred.square().mean((2, 3), keepdim=True).sqrt() + EMPTY_FILM)
        if how == "local":
            rows, columns = (_window(side, batch.device) for side in batch.shape[2:])
            centred = pixels - rows @ pixels @ columns.T
            pixels = centred / ((rows @ centred.square() @ columns.T).sqrt() + EMPTY_PART)
    return pixels.contiguous(memory_format=torch.channels_last)


def _window(side: int, device: torch.device) -> Tensor:
    """`side` x `side`: row k weighs the pixels around k. Two such products are the Gaussian window of an image."""
    at = torch.arange(side, dtype=torch.float32, device=device) / (WINDOW * side)
    return torch.softmax(-0.5 * (at[:, None] - at).square(), dim=1)
