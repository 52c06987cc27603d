"""Films and small arrays on their way to the device, so that no step waits for the device.

In: the mapped cache and rows of it. Out: uint8 films on the device. On a GPU the whole cache lies there if it fits;
else a batch travels through page-locked memory, while the device still computes the one before. Called by batches.py
and augment.py.
"""

import numpy as np
import torch
from torch import Tensor

from models.data.cache import DEVICE_SHARE

CHUNK_BYTES = 2**28


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


def resident(images: np.ndarray, device: str) -> Tensor | None:
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
