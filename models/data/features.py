"""Features of a frozen encoder: what it says about every film of a data set, computed once and mapped by everybody.

In: blocks of features, in the order of the films. Out: `features.f32`, N x F float32, and the checked way to open it.
Written by orchestrator.datasets.embed, read by the fitting of heads. NumPy only. Each block is a file that is whole or
absent and carries the hash of its content in its name, so that after a kill only what is missing is computed.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.files.layout import FeaturePaths, publishing, read_json
from pathologies.errors import InputError

FORMAT = "hilum-features/1"
BLOCK = 512  # films


def block_bounds(films: int) -> list[tuple[int, int]]:
    """(first film, the one after the last) of each block."""
    return [(start, min(start + BLOCK, films)) for start in range(0, films, BLOCK)]


def write_block(paths: FeaturePaths, number: int, block: np.ndarray) -> None:
    """`block`: films x features, float32."""
    block = np.ascontiguousarray(block, np.float32)
    with publishing(paths.blocks / f"{number:06d}-{_hash(block)}.npy") as temporary, temporary.open("wb") as file:
        np.save(file, block, allow_pickle=False)


def read_block(paths: FeaturePaths, number: int, shape: tuple[int, int]) -> np.ndarray | None:
    """The block, if it is there and is what was written; a damaged one is removed."""
    for path in sorted(paths.blocks.glob(f"{number:06d}-*.npy")):
        try:
            block = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            block = None
        if block is not None and block.shape == shape and path.stem.partition("-")[2] == _hash(block):
            return block
        path.unlink(missing_ok=True)
    return None


def join_blocks(paths: FeaturePaths, films: int, width: int) -> str:
    """Write `features.f32` from all blocks, whole or not at all; returns its SHA-256."""
    digest = hashlib.sha256()
    with publishing(paths.features) as temporary, temporary.open("wb") as file:
        for block in _blocks(paths, films, width):
            digest.update(block.data)
            file.write(block.data)
    return digest.hexdigest()


def _blocks(paths: FeaturePaths, films: int, width: int) -> Iterator[np.ndarray]:
    for number, (start, stop) in enumerate(block_bounds(films)):
        block = read_block(paths, number, (stop - start, width))
        if block is None:
            raise InputError(
                f"A block of {paths.blocks} was damaged after it was written. Give the same command again."
            )
        yield block


def read_description(paths: FeaturePaths) -> dict[str, Any]:
    """`features.json`. Errors: FileNotFoundError without complete features; InputError of another format."""
    if not paths.description.is_file():
        raise FileNotFoundError(
            f"There are no complete features at {paths.root}. Compute them: `hilum embed DATASET --encoder ...`."
        )
    description = read_json(paths.description)
    if description.get("format") != FORMAT:
        raise InputError(f"{paths.description} has format {description.get('format')!r}; {FORMAT!r} is read.")
    return description


def open_features(paths: FeaturePaths, description: Mapping[str, Any]) -> np.memmap:
    """N x F float32, read-only. The file's size is checked first: a map of a cut file ends in a SIGBUS."""
    shape = (int(description["films"]), int(description["encoder"]["features"]))
    expected, found = shape[0] * shape[1] * 4, paths.features.stat().st_size if paths.features.is_file() else 0
    if found != expected:
        raise InputError(
            f"{paths.features} has {found} bytes; {expected} make {shape[0]} films x {shape[1]} features. Remove "
            f"{paths.root} and give `hilum embed` again."
        )
    return np.memmap(paths.features, np.float32, mode="r", shape=shape)


def complete_features(folder: Path) -> list[FeaturePaths]:
    """Of a data set's folder `features`: those of every encoder that are complete, by name."""
    found = [FeaturePaths(path) for path in sorted(folder.glob("*")) if path.is_dir()]
    return [one for one in found if one.description.is_file()]


def _hash(block: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(block).data).hexdigest()
