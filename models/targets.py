"""`targets.npz`: what one target learns from. Written by orchestrator.plan, read by the trainer; numpy only."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.paths import publishing

PARTS = ("train", "select", "calibrate", "test")  # as in pathologies.splits, which a trainer does not import


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What one target learns from: row i of the arrays is film `row[i]` of the cache.

    value: 1, 0 or a soft value in between; NaN where unknown, and everywhere in `calibrate` and `test`.
    weight: 0 where unknown. draw: how often a film of `train` is drawn, in relation to the others.
    """

    row: np.ndarray  # int64
    part: np.ndarray  # uint8, index into PARTS
    value: np.ndarray  # float32
    weight: np.ndarray  # float32
    draw: np.ndarray  # float32
    image_id: np.ndarray  # bytes

    @classmethod
    def load(cls, path: Path) -> "Targets":
        with np.load(path) as stored:
            return cls(**{name: stored[name] for name in cls.__dataclass_fields__})

    def save(self, path: Path) -> None:
        with publishing(path) as temporary:
            np.savez_compressed(temporary, **{name: getattr(self, name) for name in self.__dataclass_fields__})

    def usable(self, part: str) -> np.ndarray:
        """Positions with a known target in a part."""
        return np.flatnonzero((self.part == PARTS.index(part)) & (self.weight > 0) & ~np.isnan(self.value))

    def all_of(self, part: str) -> np.ndarray:
        return np.flatnonzero(self.part == PARTS.index(part))
