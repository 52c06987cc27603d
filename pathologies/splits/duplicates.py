"""The same film twice: identical and near-identical images that lie in different parts.

Goes in: the prepared cache (N x H x W uint8, usually a memory map) and the part of every image. Comes out: the pairs,
and which images to drop so that none is left, always from the later part. Called by `prepare` and after a merge.

Three steps. A digest of the pixels finds identical images. A perceptual hash finds candidates: the 128 lowest cosine
frequencies, each cut at the data set's own median, so that what all chest films have in common says nothing; images
that agree in one of eight bands of 16 bits are compared. Candidates count only if their local contrast agrees: the
correlation of 64-pixel thumbnails after the broad shape of the chest is taken out. Of 308 thousand pairs of different
films of NIH ChestX-ray14 the highest is 0.80, while JPEG at quality 20, half the resolution, other brightness and
contrast or noise of 4 % of the range leave a copy at 0.95 and more. A film that was cropped or moved is not found.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.fft import dct
from scipy.ndimage import uniform_filter

from pathologies.splits.assignment import PARTS

BITS, BANDS = 128, 8
FREQUENCIES = 16  # per axis, of which the BITS lowest in both are used
MOST_DIFFERENT_BITS = 20
THUMBNAIL, BROAD = 64, 9  # pixels; BROAD is the window of the shape that is taken out, at THUMBNAIL size
LEAST_CORRELATION = 0.9
FEW_IMAGES = 64  # below, the median lies between an image and its own copy too often, and all pairs are soon compared
CHUNK = 32  # images in memory at once: small enough to stay in the cache of the CPU
MOST_PAIRS_AT_ONCE = 2_000_000
PAIR_COLUMNS = ("first", "second", "kind", "correlation")


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    pairs: pd.DataFrame  # first, second (rows; first lies in the earlier part), kind, correlation
    keep: np.ndarray  # bool per row: False for images that are dropped
    dropped: pd.DataFrame  # row, image, part, reason


def duplicates_between_parts(
    frame: pd.DataFrame,
    parts: np.ndarray | pd.Series,
    images: np.ndarray,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Duplicates:
    """Pairs of the same film in different parts, and what to drop: of each pair the image in the later part."""
    parts = np.asarray(parts, dtype=str)
    if not len(frame) == len(parts) == len(images):
        raise ValueError(f"{len(frame)} rows, {len(parts)} parts and {len(images)} images are not one data set.")
    strange = sorted(set(parts) - set(PARTS))
    if strange:
        raise ValueError(f"Unknown part(s) {strange}. Known: {', '.join(PARTS)}.")
    rank = np.array([PARTS.index(part) for part in parts], int)
    pairs = find_duplicates(images, rank, on_progress=on_progress)
    keep = np.ones(len(frame), bool)
    keep[pairs["second"].to_numpy(int)] = False
    once = pairs.drop_duplicates("second").sort_values("second")
    name, rows = frame["image_id"].to_numpy(), once["second"].to_numpy(int)
    reasons = [
        f"{kind} to {name[first]} in part {parts[first]}"
        for kind, first in zip(once["kind"], once["first"], strict=True)
    ]
    dropped = pd.DataFrame({"row": rows, "image": name[rows], "part": parts[rows], "reason": reasons})
    return Duplicates(pairs=pairs, keep=keep, dropped=dropped)


def find_duplicates(
    images: np.ndarray,
    rank: np.ndarray | None = None,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Pairs of identical and near-identical images (PAIR_COLUMNS), in the order of their rows.

    `rank`: only pairs of different rank are reported, the lower one first; without it all pairs are.
    """
    if images.ndim != 3 or images.dtype != np.uint8:
        raise ValueError(f"Images of shape {images.shape} and type {images.dtype}. Expected N x H x W, uint8.")
    digests, hashes, usable = _hash_all(images, on_progress)
    identical = _within(_groups(digests), rank)
    candidates = _candidates(hashes, usable, rank)
    candidates = np.setdiff1d(candidates, _codes(identical, len(images)))
    left, right = np.divmod(candidates, len(images))
    same = digests[left] == digests[right]
    left, right = left[~same], right[~same]
    correlation = _correlations(images, left, right)
    near = correlation >= LEAST_CORRELATION
    table = pd.DataFrame(
        {
            "first": np.concatenate([identical[:, 0], left[near]]).astype(int),
            "second": np.concatenate([identical[:, 1], right[near]]).astype(int),
            "kind": ["identical"] * len(identical) + ["near-identical"] * int(near.sum()),
            "correlation": np.concatenate([np.ones(len(identical)), correlation[near]]),
        }
    )
    if rank is not None and len(table):
        swap = rank[table["first"]] > rank[table["second"]]
        table.loc[swap, ["first", "second"]] = table.loc[swap, ["second", "first"]].to_numpy()
    return table.sort_values(["first", "second"], ignore_index=True)[list(PAIR_COLUMNS)]


def _hash_all(
    images: np.ndarray, on_progress: Callable[[int, int], None] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per image: a number for its exact content, its hash (N x BANDS uint16), and whether it holds a picture at all."""
    rows, columns = (_frequencies(side) for side in images.shape[1:])
    order = sorted(range(1, FREQUENCIES**2), key=lambda k: (k // FREQUENCIES + k % FREQUENCIES, k))[:BITS]
    features, digests = np.empty((len(images), BITS), np.float32), []
    for start in range(0, len(images), CHUNK):
        block = np.ascontiguousarray(images[start : start + CHUNK])
        digests += [hashlib.sha256(image.tobytes()).digest() for image in block]
        lines = block.reshape(-1, block.shape[2]).astype(np.float32) @ columns.T
        spectrum = rows @ lines.reshape(len(block), -1, FREQUENCIES)
        features[start : start + len(block)] = spectrum.reshape(len(block), -1)[:, order]
        if on_progress:
            on_progress(start + len(block), len(images))
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    features /= np.maximum(norm, 1e-6)
    bits = features > np.median(features, axis=0) if len(images) else features > 0
    hashes = np.packbits(bits, axis=1).view(np.uint16)
    return pd.factorize(pd.Series(digests, dtype=object))[0], hashes, norm[:, 0] > 1.0


def _frequencies(side: int) -> np.ndarray:
    """FREQUENCIES x side: the lowest cosine frequencies of a line of pixels, in grey levels whatever its length."""
    basis = dct(np.eye(side), axis=0, norm="ortho")[:FREQUENCIES] / np.sqrt(side)
    return np.pad(basis, ((0, FREQUENCIES - len(basis)), (0, 0))).astype(np.float32)


def _groups(keys: np.ndarray) -> Iterator[np.ndarray]:
    """The rows that share a key, for every key that occurs more than once."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1) != 0) if len(keys) else np.empty(0, int)
    for group in np.split(order, starts[1:]) if len(starts) else ():
        if len(group) > 1:
            yield group


def _within(groups: Iterator[np.ndarray], rank: np.ndarray | None) -> np.ndarray:
    """Pairs x 2 of rows of different rank. Without ranks, every row of a group with the group's first."""
    found = [np.empty((0, 2), int)]
    for group in groups:
        if rank is None:
            first = np.full(len(group) - 1, group[0])
            found.append(np.column_stack([first, group[1:]]))
            continue
        ordered = group[np.argsort(rank[group], kind="stable")]
        other = ordered[rank[ordered] != rank[ordered[0]]]  # one witness in the earliest part is enough to drop them
        found.append(np.column_stack([np.full(len(other), ordered[0]), other]))
    return np.concatenate(found)


def _codes(pairs: np.ndarray, images: int) -> np.ndarray:
    """One number per pair, whichever way round it is given."""
    return pairs.min(axis=1) * images + pairs.max(axis=1)


def _candidates(hashes: np.ndarray, usable: np.ndarray, rank: np.ndarray | None) -> np.ndarray:
    """Codes of the pairs that agree in a band and differ in few bits over all; of few images, every pair."""
    if len(hashes) <= FEW_IMAGES:
        rows = np.flatnonzero(usable)
        left, right = (rows[side] for side in np.triu_indices(len(rows), 1))
        different = np.ones(len(left), bool) if rank is None else rank[left] != rank[right]
        return np.sort(_codes(np.column_stack([left, right])[different], len(hashes)))
    found = [np.empty(0, int)]
    for band in range(BANDS):
        keys = np.where(usable, hashes[:, band].astype(int), -2 - np.arange(len(hashes)))
        for left, right in _pairs_in_buckets(keys):
            if rank is not None:
                different = rank[left] != rank[right]
                left, right = left[different], right[different]
            distance = np.bitwise_count(hashes[left] ^ hashes[right]).sum(axis=1)
            close = distance <= MOST_DIFFERENT_BITS
            found.append(_codes(np.column_stack([left[close], right[close]]), len(hashes)))
    return np.unique(np.concatenate(found))


def _pairs_in_buckets(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair of rows with the same key, in pieces of bounded size: neighbours 1, 2, 3, ... apart in key order."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    rows, apart = np.arange(len(keys)), 1
    left, right, waiting = [], [], 0
    while len(rows := rows[rows + apart < len(keys)]):
        rows = rows[ordered[rows] == ordered[rows + apart]]
        left.append(order[rows])
        right.append(order[rows + apart])
        waiting += len(rows)
        apart += 1
        if waiting > MOST_PAIRS_AT_ONCE:
            yield np.concatenate(left), np.concatenate(right)
            left, right, waiting = [], [], 0
    if waiting:
        yield np.concatenate(left), np.concatenate(right)


def _correlations(images: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How far the local contrast of the two images of each pair agrees: 1 is the same, 0 nothing."""
    result = np.empty(len(left))
    for start in range(0, len(left), CHUNK):
        rows, inverse = np.unique(np.stack([left, right])[:, start : start + CHUNK], return_inverse=True)
        contrast = _local_contrast(images[rows])
        first, second = contrast[inverse.reshape(2, -1)]
        result[start : start + CHUNK] = (first * second).sum(axis=1)
    return result


def _local_contrast(images: np.ndarray) -> np.ndarray:
    """n x pixels: thumbnails without their broad shape, of mean 0 and length 1."""
    height, width = (_averaging(side) for side in images.shape[1:])
    small = height @ (images.astype(np.float32) @ width.T)
    window = max(3, round(BROAD * max(small.shape[1:]) / THUMBNAIL))
    small -= uniform_filter(small, (0, window, window))
    flat = small.reshape(len(images), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _averaging(side: int) -> np.ndarray:
    """min(THUMBNAIL, side) x side: the mean over equal stretches of pixels, counting cut pixels in part."""
    small = min(THUMBNAIL, side)
    edges = np.linspace(0, side, small + 1)
    pixels = np.arange(side)
    share = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(share, 0, None) * small / side).astype(np.float32)
