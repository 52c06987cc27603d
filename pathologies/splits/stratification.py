"""Iterative stratification of patients, the arithmetic below `assignment`.

Goes in: the label frame, then the counts of positives per patient and the shares of the parts. Comes out: a part number
per patient. Called by `assignment` alone, which speaks of part names, folds and rows.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pathologies.errors import InputError
from pathologies.labels.frame import UNKNOWN

MOST_STEPS = 1_000  # moves and swaps of the refinement
MOST_PAIRS = 500_000  # swaps are tried between two parts with fewer pairs of patients than this
SMALLEST_GAIN = 1e-8
RATE_WEIGHT = 10.0


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Patients in an order drawn from the seed, which no order of the rows changes."""

    counts: np.ndarray  # patients x findings: images with a raw positive
    known: np.ndarray  # patients x findings that are unknown somewhere: images of which it is known
    sizes: np.ndarray  # images of each patient
    patient_of_row: np.ndarray  # row of the frame -> patient number

    def take(self, patients: np.ndarray) -> "Groups":
        return Groups(
            counts=self.counts[patients],
            known=self.known[patients],
            sizes=self.sizes[patients],
            patient_of_row=self.patient_of_row,
        )


def group_patients(frame: pd.DataFrame, slugs: Sequence[str], seed: int) -> Groups:
    """Count raw positives (== 1) of each finding for each patient, and what is known of those that are not always."""
    missing = [name for name in ("patient_id", *slugs) if name not in frame.columns]
    if missing:
        raise InputError(f"Columns {missing} are not in the label frame. It has: {', '.join(map(str, frame.columns))}.")
    if frame["patient_id"].isna().any() or (frame["patient_id"] == "").any():
        row = int(np.flatnonzero(frame["patient_id"].isna() | (frame["patient_id"] == ""))[0])
        raise InputError(f"Row {row} of the label frame has no patient, so it cannot be assigned to a part.")
    codes, patients = pd.factorize(frame["patient_id"])
    drawn = [hashlib.blake2b(f"{seed}\t{patient}".encode(), digest_size=8).digest() for patient in patients]
    rank = np.empty(len(patients), int)
    rank[sorted(range(len(patients)), key=lambda i: (drawn[i], str(patients[i])))] = np.arange(len(patients))
    patient_of_row = rank[codes] if len(frame) else np.empty(0, int)
    raw = frame[list(slugs)].to_numpy(np.float32, na_value=np.nan)
    partly = raw[:, (raw == UNKNOWN).any(axis=0)]

    def per_patient(rows: np.ndarray) -> np.ndarray:
        columns = [np.bincount(patient_of_row[one], minlength=len(patients)) for one in rows.T]
        return np.array(columns, float).reshape(len(columns), len(patients)).T

    return Groups(
        counts=per_patient(raw == 1),
        known=per_patient(partly != UNKNOWN),
        sizes=np.bincount(patient_of_row, minlength=len(patients)).astype(float),
        patient_of_row=patient_of_row,
    )


def stratify(groups: Groups, shares: np.ndarray) -> np.ndarray:
    """A part number per patient; `shares` are above 0 and add up to 1; no part stays empty."""
    part = _fill_empty(_rarest_first(groups, shares), groups.sizes, len(shares))
    return _refine(part, groups, shares)


def _rarest_first(groups: Groups, shares: np.ndarray) -> np.ndarray:
    """Sechidis et al. 2011, algorithm 1, with patients for samples and a demand relative to the part's size."""
    part = np.full(len(groups.sizes), -1)
    columns = np.column_stack([groups.counts, groups.sizes])
    have = np.zeros((len(shares), columns.shape[1]))
    open_findings = set(range(groups.counts.shape[1]))
    while open_findings:
        free = part < 0
        left = {finding: groups.counts[free, finding].sum() for finding in open_findings}
        finding = min(open_findings, key=lambda name: (left[name], name))
        open_findings.remove(finding)
        _deal(part, np.flatnonzero(free & (groups.counts[:, finding] > 0)), columns, finding, have, shares)
    _deal(part, np.flatnonzero(part < 0), columns, columns.shape[1] - 1, have, shares)
    return part


def _deal(
    part: np.ndarray, patients: np.ndarray, columns: np.ndarray, by: int, have: np.ndarray, shares: np.ndarray
) -> None:
    """Deal out patients, those with most of column `by` first, each to the part that has least of it for its share.

    Half of what the patient brings is counted already (Sainte-Lague), so that small parts are not served last.
    """
    order = patients[np.argsort(-columns[patients, by], kind="stable")]
    held, images, weight = have[:, by].tolist(), have[:, -1].tolist(), shares.tolist()
    numbers = range(len(weight))
    amounts, sizes = columns[order, by].tolist(), columns[order, -1].tolist()
    chosen = []
    for amount, size in zip(amounts, sizes, strict=True):
        best = min(numbers, key=lambda p: ((held[p] + amount / 2) / weight[p], (images[p] + size / 2) / weight[p]))
        held[best] += amount
        if by != columns.shape[1] - 1:
            images[best] += size
        else:
            images = held
        chosen.append(best)
    part[order] = chosen
    np.add.at(have, part[order], columns[order])


def _fill_empty(part: np.ndarray, sizes: np.ndarray, parts: int) -> np.ndarray:
    """Give an empty part the smallest patient of the part that has most patients."""
    part = part.copy()
    for empty in np.setdiff1d(np.arange(parts), part):
        largest = np.bincount(part, minlength=parts).argmax()
        candidates = np.flatnonzero(part == largest)
        part[candidates[np.argmin(sizes[candidates])]] = empty
    return part


def _refine(part: np.ndarray, groups: Groups, shares: np.ndarray) -> np.ndarray:
    """Move and swap single patients while that brings the parts closer to what they want."""
    state = _State(part, groups, shares)
    for _ in range(MOST_STEPS):
        if not (state.move() or state.swap()):
            break
    return state.part


class _State:
    """Parts and their distance from what they want: the sum over parts and columns of weight x (have - want)^2 / share.

    The columns are the positives of each finding, the films of which a finding is known where that is not all of them
    (else unknown would count as negative), the images and the patients. The weight of a column is one over its total,
    which is the chi-square statistic, plus a constant that keeps the rates of common findings, in percentage points, as
    close as those of rare ones. Taking patient c from part a to b changes the distance by
    weight c^2 (1/A + 1/B) - 2 weight c (excess_a / A - excess_b / B), with A and B the shares.
    """

    def __init__(self, part: np.ndarray, groups: Groups, shares: np.ndarray):
        columns = np.column_stack([groups.counts, groups.known, groups.sizes, np.ones(len(groups.sizes))])
        totals = columns.sum(axis=0)
        self.columns, totals = columns[:, totals > 0], totals[totals > 0]
        self.weighted = self.columns * (1 / totals + RATE_WEIGHT / groups.sizes.sum())
        self.square = (self.columns * self.weighted).sum(axis=1)
        self.part, self.inverse = part.copy(), 1 / shares
        have = np.stack([self.columns[part == p].sum(axis=0) for p in range(len(shares))])
        self.excess = have - shares[:, None] * totals

    def changes(self) -> np.ndarray:
        """What moving each patient to each part would change; rounded, so that ties do not hang on the last bit."""
        pull = self.weighted @ (self.excess * self.inverse[:, None]).T
        own = self.part[:, None]
        change = self.square[:, None] * (self.inverse[own] + self.inverse) - 2 * (
            np.take_along_axis(pull, own, 1) - pull
        )
        np.put_along_axis(change, own, np.inf, 1)
        return np.round(change, 9)

    def move(self) -> bool:
        """Make the best move of one patient; False if none helps."""
        change = self.changes()
        change[np.bincount(self.part, minlength=len(self.inverse))[self.part] <= 1] = np.inf
        patient, target = np.unravel_index(np.argmin(change), change.shape)
        if not change[patient, target] < -SMALLEST_GAIN:
            return False
        self.assign(patient, target)
        return True

    def swap(self) -> bool:
        """Make the best swap of two patients, among the pairs of parts that are small enough to try them all."""
        change = self.changes()
        best, chosen = -SMALLEST_GAIN, None
        for first, second in itertools.combinations(range(len(self.inverse)), 2):
            left, right = np.flatnonzero(self.part == first), np.flatnonzero(self.part == second)
            if len(left) * len(right) > MOST_PAIRS:
                continue
            both = 2 * (self.inverse[first] + self.inverse[second]) * (self.weighted[left] @ self.columns[right].T)
            total = np.round(change[left, second][:, None] + change[right, first] - both, 9)
            i, j = np.unravel_index(np.argmin(total), total.shape)
            if total[i, j] < best:
                best, chosen = total[i, j], (left[i], right[j])
        if chosen is None:
            return False
        first, second = self.part[chosen[0]], self.part[chosen[1]]
        self.assign(chosen[0], second)
        self.assign(chosen[1], first)
        return True

    def assign(self, patient: int, target: int) -> None:
        self.excess[self.part[patient]] -= self.columns[patient]
        self.excess[target] += self.columns[patient]
        self.part[patient] = target
