"""`targets.npz`: what a network learns from. Written by orchestrator.planning.target_files, read by the trainer;
numpy only.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from models.files.layout import publishing
from pathologies.errors import InputError

PARTS = ("train", "select", "calibrate", "test")  # as in pathologies.splits.assignment, which a trainer does not import

Columns = TypeVar("Columns", bound=Any)  # an array or a tensor


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What one network learns from: row i of the arrays is film `row[i]` of the cache.

    value: 1, 0 or a soft value in between; NaN where unknown, and everywhere in `calibrate` and `test`. One target is
    a vector; the targets of a shared network are the columns of a matrix, even if it is one column.
    weight: of the same shape, 0 where unknown. draw: how often a film of `train` is drawn, in relation to the others.
    combination: with sampler=label_vector a number for each combination of findings; empty with any other, and where
    the file was written before epochs of that sampler were as long as its minimum needs (recipe_version 1).
    own: the column that the network is for, where it learns the others beside it only to learn that one better. It
    learns from the films whose own target is known, and is judged, drawn and published by that column.
    fold: of a head, for the choice of its penalty, which fold each film's patient is in; empty for a network.
    """

    row: np.ndarray  # int64
    part: np.ndarray  # uint8, index into PARTS
    value: np.ndarray  # float32
    weight: np.ndarray  # float32
    draw: np.ndarray  # float32
    image_id: np.ndarray  # bytes
    slugs: np.ndarray = field(default_factory=lambda: np.zeros(0, "S1"))  # bytes: of the columns; empty for a vector
    combination: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    own: int = -1  # -1: none, all columns count alike
    fold: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))

    def __post_init__(self) -> None:
        if self.own >= 0 and not (self.value.ndim == 2 and self.own < self.value.shape[1]):
            raise InputError(f"own={self.own} is no column of targets of shape {self.value.shape}: films x findings")

    @classmethod
    def load(cls, path: Path) -> "Targets":
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in cls.__dataclass_fields__ if name in stored}
        return cls(**arrays | {"own": int(arrays.get("own", -1))})

    def save(self, path: Path) -> None:
        left_out = {"own": self.own < 0, "fold": not len(self.fold)}  # as files of before, where they say nothing
        names = [name for name in self.__dataclass_fields__ if not left_out.get(name)]
        with publishing(path) as temporary:
            np.savez_compressed(temporary, **{name: getattr(self, name) for name in names})

    def usable(self, part: str) -> np.ndarray:
        """Positions with a known target in a part; of several targets, at least one, or the own one."""
        known = self.judged.known
        return np.flatnonzero((self.part == PARTS.index(part)) & (known if known.ndim == 1 else known.any(axis=1)))

    @property
    def judged(self) -> "Targets":
        """What the network is drawn for, judged and published by: the own column as a vector, where there is one."""
        return self.only(self.own) if self.own >= 0 else self

    def judged_columns(self, columns: Columns) -> Columns:
        """Of answers to all targets, films x targets, those to `judged`."""
        return columns[:, self.own] if self.own >= 0 else columns

    @property
    def epoch_films(self) -> int:
        """Films in an epoch, before its last batch is filled."""
        here = self.usable("train")
        return round(float(self.draw[here].sum(dtype=np.float64))) if len(self.combination) else len(here)

    @property
    def known(self) -> np.ndarray:
        """Which entries of `value` are there to learn from or to judge by."""
        return (self.weight > 0) & ~np.isnan(self.value)

    @property
    def outputs(self) -> int | None:
        """How many columns a shared network has; None for one target."""
        return None if self.value.ndim == 1 else self.value.shape[1]

    def truth(self, positions: np.ndarray) -> np.ndarray:
        """The values at these positions; in a matrix NaN where unknown."""
        if self.value.ndim == 1:
            return self.value[positions]
        return np.where(self.weight[positions] > 0, self.value[positions], np.float32("nan"))

    def only(self, column: int) -> "Targets":
        """One target of a shared network, as a vector."""
        value, weight = self.value[:, column], self.weight[:, column]
        return replace(self, value=value, weight=weight, slugs=self.slugs[:0], own=-1)

    def all_of(self, part: str) -> np.ndarray:
        return np.flatnonzero(self.part == PARTS.index(part))
