"""Filters on a label frame, each with the number of rows that it drops.

Goes in: a label frame and what to keep. Comes out: the rows kept and `{filter: rows dropped}`. Called by `prepare` and
by `labels audit`, so that both mean the same by the same words.
"""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pathologies.errors import InputError

# "patient00001/study3" carries the number 3; "s50414267" and "00000013/7" carry none that counts a patient's studies.
_STUDY_NUMBER = r"(?:^|[/_\-])study0*([0-9]+)$"


def filter_frame(
    frame: pd.DataFrame,
    *,
    frontal: bool = False,
    first_studies: int | None = None,
    projections: Sequence[str] = (),
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Keep frontal films, some projections, each patient's first studies; count a row by the first filter it fails.

    A film whose view or projection is unknown does not pass a filter on it. `first_studies=4` keeps the studies
    numbered 1 to 4 where the study's name carries its number (CheXpert's "study3"), and elsewhere a patient's first
    four in the order of their names. Numbers and ranks are those of the whole frame: no other filter moves a study
    forward.
    """
    reason = filter_reasons(frame, frontal=frontal, first_studies=first_studies, projections=projections)
    names = [name for name, asked in _asked(frontal, first_studies, projections) if asked]
    if not names:
        return frame, {}
    dropped = {name: int(np.count_nonzero(reason == name)) for name in names}
    kept = reason == ""
    if len(frame) and not kept.any():
        raise InputError(f"No row of {len(frame)} is left after the filters; dropped: {dropped}. Ask for less.")
    return frame[kept].reset_index(drop=True), dropped


def filter_reasons(
    frame: pd.DataFrame,
    *,
    frontal: bool = False,
    first_studies: int | None = None,
    projections: Sequence[str] = (),
) -> np.ndarray:
    """For every row the first filter that it fails, or ""."""
    masks: dict[str, np.ndarray] = {}
    if frontal:
        masks["frontal"] = (frame["view"] == "frontal").to_numpy(dtype=bool)
    if projections:
        masks["projections"] = _projection_mask(frame, projections)
    if first_studies is not None:
        if first_studies < 1:
            raise InputError(f"The first {first_studies} studies were asked for. Allowed: 1 or more.")
        masks["first_studies"] = study_numbers(frame) <= first_studies
    reason = np.full(len(frame), "", dtype=object)
    for name, passed in masks.items():
        reason[(reason == "") & ~passed] = name
    return reason


def _asked(frontal: bool, first_studies: int | None, projections: Sequence[str]) -> list[tuple[str, bool]]:
    return [
        ("frontal", frontal),
        ("projections", bool(projections)),
        ("first_studies", first_studies is not None),
    ]


def study_numbers(frame: pd.DataFrame) -> np.ndarray:
    """Each row's study as a number of its patient: the one that its name carries, else its rank among the names."""
    codes, names = pd.factorize(frame["study_id"])
    names = pd.Series(names, dtype="str")
    number = pd.to_numeric(names.str.extract(_STUDY_NUMBER, expand=False)).to_numpy(dtype=float, na_value=np.nan)
    if np.isnan(number).any():
        number = np.where(np.isnan(number), _study_ranks(frame, codes, names), number)
    return number[codes]


def _study_ranks(frame: pd.DataFrame, codes: np.ndarray, names: pd.Series) -> np.ndarray:
    """Rank of each study among its patient's studies, by name with numbers read as numbers (9 before 10)."""
    first_row = np.full(len(names), -1)
    first_row[codes[::-1]] = np.arange(len(codes))[::-1]
    studies = pd.DataFrame({"patient": frame["patient_id"].to_numpy(dtype=object)[first_row]})
    studies["key"] = names.map(lambda name: re.sub(r"[0-9]+", lambda digits: digits[0].zfill(20), name))
    ranks = studies.sort_values("key", kind="stable").groupby("patient", sort=False).cumcount() + 1
    return ranks.sort_index().to_numpy()


def _projection_mask(frame: pd.DataFrame, projections: Sequence[str]) -> np.ndarray:
    present = sorted(set(frame["projection"].unique()) - {""})
    missing = [name for name in projections if name not in present]
    if missing:
        raise InputError(
            f"No film has projection '{missing[0]}'. Projections in the labels: {', '.join(present) or '-'}."
        )
    return frame["projection"].isin(list(projections)).to_numpy(dtype=bool)
