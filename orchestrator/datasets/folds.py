"""In which fold of a cross-validation is each film of a data set?

In: an opened data set, the number of folds. Out: a fold per film. Called by the planner of a run, which writes it into
the run, and by who refits a bundle whose run is gone, as it follows from the data set alone.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from orchestrator.datasets.dataset import Dataset
from pathologies.errors import InputError
from pathologies.splits.assignment import assign_folds
from pathologies.splits.duplicates import find_duplicates


def fold_of_films(dataset: Dataset, folds: int, written: Path) -> np.ndarray:
    """The fold, from 0, of every film of the data set; -1 in test. `written`: a run's file of them, read if it exists.

    Patients that share a film, identical or nearly so, are held out together.
    """
    frame = dataset.read_labels_frame()
    names = frame["image_id"].to_numpy(str)
    if written.exists():
        table = pd.read_csv(written, dtype="str", keep_default_na=False)
        known = [str(number) for number in range(-1, folds)]
        if table["image_id"].tolist() == names.tolist() and table["fold"].isin(known).all():
            return table["fold"].to_numpy(int)
        raise InputError(
            f"{written} is damaged: it does not name the data set's films. Remove it; it is written again."
        )
    here = np.flatnonzero(dataset.parts() != "test")
    place = np.full(len(names), -1)
    place[here] = np.arange(len(here))
    same = place[find_duplicates(dataset.images())[["first", "second"]].to_numpy(int)]
    number = np.full(len(names), -1)
    number[here] = assign_folds(
        frame.iloc[here], dataset.manifest["findings"], folds, same=same[(same >= 0).all(axis=1)]
    )
    return number
