"""The intensity contract: what becomes of a film's grey values, in words that every data set and bundle stores.

In: a version, or a contract as a data set or a bundle has it; values without a grey scale of their own. Out: the range
of values that is shown. Used by `models.data.images` and `models.data.dicom`. A data set keeps the version that it was
prepared by and a bundle that of its data set, so that both mean for ever what they meant when they were made.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pathologies.errors import InputError

_ALIKE = {
    "eight_bit": "as stored; colour and palette to luma (ITU-R 601); alpha ignored; EXIF orientation applied",
    "blank": "an image of one value is rejected",
    "letterbox": "aspect kept, centred, black border",
    "resampling": "Lanczos with antialiasing (Pillow)",
}
INTENSITY_CONTRACTS: Mapping[int, Mapping[str, Any]] = {
    1: _ALIKE
    | {
        "version": 1,
        "sixteen_bit": "linear, from the file's own minimum..maximum to 0..255",
        "dicom": "modality LUT, then VOI LUT or first window (else minimum..maximum without padding), then inverted "
        "for MONOCHROME1 or PresentationLUTShape INVERSE, then 0..255",
    },
    2: _ALIKE
    | {
        "version": 2,
        "sixteen_bit": "linear, from the file's own minimum..maximum to 0..255, but no further than a tenth of their "
        "distance beyond the values that a thousandth of the pixels lies below and above",
        "dicom": "bits that the header gives to overlays left out, modality LUT, then VOI LUT or first window (else as "
        "sixteen_bit, without padding), then inverted for MONOCHROME1 or PresentationLUTShape INVERSE, then 0..255",
    },
}
NEWEST = max(INTENSITY_CONTRACTS)
INTENSITY_CONTRACT = INTENSITY_CONTRACTS[NEWEST]
# A dead pixel, a hot one, a row of them: at most this share of the pixels is not trusted to say how bright a film is.
# What is little brighter or darker than the rest, a marker or a wire, is within the margin and keeps its steps; what is
# far away costs the film a sixth of the 256 levels at most, where minimum..maximum would leave it as few as 18.
OUTLYING, MARGIN = 0.001, 0.1


def intensity_version(contract: Mapping[str, Any]) -> int:
    """Which version the contract of a data set or bundle is. InputError for one that this hilum does not know."""
    version = contract.get("version") if isinstance(contract, Mapping) else None
    if version not in tuple(INTENSITY_CONTRACTS):
        known = ", ".join(map(str, INTENSITY_CONTRACTS))
        raise InputError(f"Films by version {version!r} of the intensity contract; known: {known}. Update hilum.")
    return version


def shown_range(values: np.ndarray, version: int) -> tuple[float, float]:
    """(what is shown black, what is shown white) of values that have no window and no table."""
    lowest, highest = float(values.min()), float(values.max())
    outlying = int(OUTLYING * values.size)
    if version == 1 or not outlying:
        return lowest, highest
    low, high = _ordered(values, outlying)
    if low == high:  # nearly all pixels alike: the few others are all that there is to see
        return lowest, highest
    margin = MARGIN * (high - low)
    return max(lowest, low - margin), min(highest, high + margin)


def _ordered(values: np.ndarray, rank: int) -> tuple[float, float]:
    """The values of which `rank` pixels are no larger, and no smaller, apart from themselves.

    Sought among the hundredth at either end that a sample of the pixels points to: to order all would double the time
    that a film takes.
    """
    flat = values.ravel()
    sample = np.sort(flat[:: 1 + flat.size // 50_000])
    edge = len(sample) // 100
    low, high = flat[flat <= sample[edge]], flat[flat >= sample[-1 - edge]]
    low, high = (ends if len(ends) > rank else flat for ends in (low, high))  # the sample may have missed the ends
    return float(np.partition(low, rank)[rank]), float(np.partition(high, len(high) - 1 - rank)[len(high) - 1 - rank])
