"""Patient-disjoint parts, stratified over all findings at once: train / select / calibrate / test.

Goes in: the label frame and the findings to balance. Comes out: one part name per row. The parts depend on the seed and
on what the patients hold, never on the order of the rows, and balance the RAW positives, so that no label policy can
move a film. Called by `prepare`; the hash and the check by everything that reads a prepared data set.

The method is the iterative stratification of Sechidis et al. (ECML PKDD 2011), over patients instead of samples: rarest
finding first, each of its patients to the part that lacks it most. Patients differ in size, so "lacks most" is relative
to the part's size: by absolute numbers, as for single samples, the largest patients would all fall to the largest part.
Moves of single patients then lower what is left of the chi-square distance between the parts.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pathologies.errors import InputError
from pathologies.labels.frame import UNKNOWN
from pathologies.splits import stratification as stratify

PARTS = ("train", "select", "calibrate", "test")
FRACTIONS = (0.6, 0.1, 0.15, 0.15)
OFFICIAL_PARTS = {
    "train": "train",
    "train_val": "train",
    "valid": "select",
    "validate": "select",
    "test": "test",
}


def assign_parts(
    frame: pd.DataFrame,
    slugs: Sequence[str],
    *,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    fold: tuple[int, int] | None = None,
) -> np.ndarray:
    """One part name per row of `frame`.

    `fractions` are shares of the images, in the order of PARTS; a share of 0 leaves that part empty. With
    `fold=(i, k)` the test part is the i-th (from 1) of k folds that cover every patient once, and the other shares
    are scaled to fill the rest.
    """
    shares = _checked_fractions(fractions)
    groups = stratify.group_patients(frame, slugs, seed)
    if fold is None:
        part = _divide(groups, np.arange(len(groups.sizes)), shares)
    else:
        part = _rotate(groups, shares, *_checked_fold(fold))
    return np.array(PARTS, dtype=object)[part[groups.patient_of_row]].astype(str)


def official_parts(
    frame: pd.DataFrame, slugs: Sequence[str], *, fractions: Sequence[float] = FRACTIONS, seed: int = 0
) -> np.ndarray:
    """One part name per row, with the split that the source publishes kept where it has one.

    Its test images are `test`, its validation images `select`; its training patients are divided over the parts that
    are still without images, in the proportion of `fractions`.
    """
    shares, official = _checked_fractions(fractions), frame["official_split"].astype("str")
    unknown = sorted(set(official) - set(OFFICIAL_PARTS))
    if unknown:
        images = int(official.isin(unknown).sum())
        raise InputError(
            f"{images} images have the official split {unknown}. Allowed: {', '.join(OFFICIAL_PARTS)}. "
            "Give the source's official lists, leave those images out, or take parts of hilum's own."
        )
    part = official.map(OFFICIAL_PARTS).to_numpy(dtype=object)
    if "test" not in part:
        raise InputError("No image is in an official test set, so there is no official split to keep.")
    check_disjoint(frame, part)
    train = part == "train"
    if not train.any():
        return part.astype(str)
    shares = np.where(np.isin(PARTS, part[~train]), 0.0, shares)
    if not shares.any():
        raise InputError(f"Fractions {list(fractions)} leave no part for the official training images.")
    part[train] = assign_parts(frame[train], slugs, fractions=shares / shares.sum(), seed=seed)
    return part.astype(str)


def _divide(groups: stratify.Groups, patients: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """A part number for each of `patients`; parts with a share of 0 stay empty."""
    used = np.flatnonzero(shares)
    if len(patients) < len(used):
        names = ", ".join(PARTS[i] for i in used)
        raise InputError(
            f"{len(patients)} patients cannot fill the {len(used)} parts {names}. "
            "Give more patients, or a fraction of 0 for the parts that are not needed."
        )
    return used[stratify.stratify(groups.take(patients), shares[used] / shares[used].sum())]


def _rotate(groups: stratify.Groups, shares: np.ndarray, number: int, folds: int) -> np.ndarray:
    patients = np.arange(len(groups.sizes))
    if len(patients) < folds:
        raise InputError(f"{len(patients)} patients cannot fill {folds} folds. Give fewer folds.")
    tested = stratify.stratify(groups, np.full(folds, 1 / folds)) == number - 1
    rest = np.append(shares[:-1], 0.0)
    if not rest.any():
        raise InputError("With a fold, at least one of the fractions of train, select and calibrate must be above 0.")
    part = np.full(len(patients), len(PARTS) - 1)
    part[~tested] = _divide(groups, patients[~tested], rest)
    return part


def _checked_fractions(fractions: Sequence[float]) -> np.ndarray:
    shares = np.asarray(fractions, float)
    if shares.shape != (len(PARTS),) or not np.isfinite(shares).all() or (shares < 0).any():
        raise InputError(
            f"Fractions {list(fractions)} are not {len(PARTS)} numbers from 0 to 1, for {', '.join(PARTS)}."
        )
    if abs(shares.sum() - 1) > 1e-6:
        raise InputError(f"Fractions {list(fractions)} add up to {shares.sum():g}. They must add up to 1.")
    return shares


def _checked_fold(fold: tuple[int, int]) -> tuple[int, int]:
    number, folds = (int(value) for value in fold)
    if folds < 2 or not 1 <= number <= folds:
        raise InputError(f"Fold {number}/{folds} does not exist. Give i/k with k at least 2 and i from 1 to k.")
    return number, folds


def split_hash(frame: pd.DataFrame, parts: np.ndarray | pd.Series) -> str:
    """SHA-256 of which image lies in which part, whatever the order of the rows."""
    lines = sorted(f"{image}\t{part}\n" for image, part in zip(frame["image_id"], parts, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_disjoint(frame: pd.DataFrame, parts: np.ndarray | pd.Series) -> None:
    """Raise InputError if a patient lies in more than one part, naming the first five."""
    pairs = pd.DataFrame({"patient": frame["patient_id"].to_numpy(), "part": np.asarray(parts)}).drop_duplicates()
    shared = pairs[pairs["patient"].duplicated(keep=False)]
    if shared.empty:
        return
    sides = shared.groupby("patient", sort=True)["part"].agg(lambda names: "+".join(sorted(names)))
    first = ", ".join(f"{patient} ({names})" for patient, names in sides.head(5).items())
    raise InputError(
        f"{len(sides)} patient(s) lie in more than one part: {first}. Split by patient, for instance with assign_parts."
    )


def positive_rates(frame: pd.DataFrame, parts: np.ndarray | pd.Series, slugs: Sequence[str]) -> pd.DataFrame:
    """Share of images with a raw label of 1, of those that are not unknown: a row per part, a column per finding."""
    raw = frame[list(slugs)]
    rates = raw.eq(1).astype(float).where(raw.ne(UNKNOWN)).groupby(np.asarray(parts)).mean()
    return rates.reindex([part for part in PARTS if part in rates.index]).rename_axis("part")


def drift_warnings(
    frame: pd.DataFrame, parts: np.ndarray | pd.Series, slugs: Sequence[str], *, points: float = 2.0
) -> list[str]:
    """A sentence for every finding whose positive rate differs between two parts by more than `points` per cent.

    A part without any label of a finding has no rate of it: a sentence names what cannot be compared.
    """
    raw = frame[list(slugs)]
    labelled = (raw.notna() & raw.ne(UNKNOWN)).groupby(np.asarray(parts)).any()
    rates = (100 * positive_rates(frame, parts, slugs)).where(labelled)
    warnings = []
    for part in rates.index:
        if missing := [slug for slug in slugs if labelled[slug].any() and not labelled.loc[part, slug]]:
            warnings.append(f"{part}: no film has a label of {', '.join(missing)}; not compared with the other parts.")
    for slug in labelled.columns[labelled.any()]:
        low, high = rates[slug].idxmin(), rates[slug].idxmax()
        if (gap := rates.loc[high, slug] - rates.loc[low, slug]) > points:
            warnings.append(
                f"{slug}: {rates.loc[high, slug]:.1f} % positive in {high}, {rates.loc[low, slug]:.1f} % in {low} "
                f"({gap:.1f} percentage points apart, more than {points:g})."
            )
    return warnings
