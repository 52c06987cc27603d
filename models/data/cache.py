"""The pixels of a prepared data set: written in shards that survive a kill, joined into one file, mapped for reading.

In: decoded images, a shard at a time. Out: `images.u8`, N x size x size uint8, and the checked way to open it.
Called by `orchestrator.datasets.prepare` (writing) and by every reader of pixels. A training process imports this:
NumPy only.
"""

import hashlib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.files.layout import DatasetPaths, publishing, read_json
from pathologies.errors import InputError

# Of a GPU's memory, for the cache: twelve trainings on one card keep their own, and two fifths stay for their networks.
DEVICE_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What came of one run of rows: the images that could be used, in order, and for every row its reason or ""."""

    images: np.ndarray  # uint8, kept x size x size
    reasons: tuple[str, ...]  # one per row; "" for a usable image


def open_images(root: Path | str) -> np.memmap:
    """The images of a complete data set, read-only, N x size x size uint8.

    The file's size is checked first: to touch a page beyond a truncated file's end is a SIGBUS, not an exception.
    """
    paths = DatasetPaths(Path(root))
    manifest = read_json(paths.manifest)
    shape = (int(manifest["images"]), int(manifest["size"]), int(manifest["size"]))
    expected = shape[0] * shape[1] * shape[2]
    found = paths.images.stat().st_size if paths.images.is_file() else 0
    if found != expected:
        raise InputError(
            f"{paths.images} has {found} bytes; {expected} make {shape[0]} x {shape[1]} x {shape[2]} pixels. "
            "Copy it again, or prepare the data set again in a new folder."
        )
    return np.memmap(paths.images, np.uint8, mode="r", shape=shape)


def write_shard(path: Path, shard: Shard) -> None:
    """Write one shard, whole or not at all."""
    with publishing(path) as temporary:
        np.savez(temporary, images=shard.images, reasons=np.array(shard.reasons, dtype=str))


def read_shard(path: Path) -> Shard | None:
    """The shard in `path`; None where it is absent or damaged, and has to be made again."""
    stored = _read_arrays(path, "images", "reasons")
    return None if stored is None else Shard(images=stored[0], reasons=tuple(stored[1].tolist()))


def read_shard_reasons(path: Path) -> tuple[str, ...] | None:
    """The reasons of a shard without its images; None where it is absent or damaged."""
    stored = _read_arrays(path, "reasons")
    return None if stored is None else tuple(stored[0].tolist())


def _read_arrays(path: Path, *names: str) -> list[np.ndarray] | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return [stored[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def join_shards(paths: Iterable[Path], out: Path, keep: np.ndarray | None = None) -> str:
    """Write the images of all shards in order into `out`, whole or not at all; returns its SHA-256.

    `keep`: one bool per image, in order; none: all of them.
    """
    digest, at = hashlib.sha256(), 0
    with publishing(out) as temporary, temporary.open("wb") as file:
        for path in paths:
            shard = read_shard(path)
            if shard is None:
                path.unlink(missing_ok=True)
                raise InputError(f"{path} was damaged after it was written. Run the same prepare again: it is redone.")
            chosen = slice(None) if keep is None else keep[at : at + len(shard.images)]
            at += len(shard.images)
            data = np.ascontiguousarray(shard.images[chosen]).data
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def measure_pixels(images: np.ndarray, rows: np.ndarray, at_most: int = 4096) -> tuple[float, float]:
    """Mean and standard deviation, on a 0..1 scale, of the pixels of `rows`, borders included as a network sees them.

    Of more than `at_most` rows an even selection is read. Counted as integers: no order can change the result.
    """
    if not len(rows):
        raise InputError("No image to measure: the part is empty.")
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), at_most)).astype(np.int64))]
    counts = np.zeros(256, np.int64)
    for row in chosen:
        counts += np.bincount(images[row].ravel(), minlength=256)
    levels = np.arange(256) / 255
    mean = float((counts * levels).sum() / counts.sum())
    variance = float((counts * (levels - mean) ** 2).sum() / counts.sum())
    return mean, variance**0.5
