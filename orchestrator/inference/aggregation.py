"""From films to studies and patients: one answer for each group.

In: a table with a row per film (scores or truth) and the group of each row (`identity` tells it). Out: a row per group.
Called by `evaluate` and by `predict`.
"""

import numpy as np
import pandas as pd

from models.statistics.metrics import is_probability, sigmoid
from models.statistics.reliability import log_odds
from pathologies.errors import InputError


def aggregate_scores(scores: pd.DataFrame, groups, how: str = "mean") -> pd.DataFrame:
    """One row of scores per group, in the order of the group ids.

    "mean" averages the log odds of probabilities (several views of one chest are repeated readings of it), and any
    other score as it is; "max" takes the most suspicious film.
    """
    if how not in ("mean", "max"):
        raise InputError(f"Unknown aggregation {how!r}. Known: mean, max.")
    answers = {}
    for slug in scores.columns:
        values = scores[slug].astype("float64")
        grouped = values.groupby(np.asarray(groups), sort=True)
        if how == "max":
            answers[slug] = grouped.max()
        elif is_probability(values.dropna()):
            logit = pd.Series(np.where(values.isna(), np.nan, log_odds(values.fillna(0.5))), index=values.index)
            mean = logit.groupby(np.asarray(groups), sort=True).mean()
            # a film alone keeps its score to the last bit, or ties and thresholds would move
            answers[slug] = pd.Series(sigmoid(mean), index=mean.index).where(grouped.count() > 1, grouped.first())
        else:
            answers[slug] = grouped.mean()
    return pd.DataFrame(answers)


def aggregate_truth(truth: pd.DataFrame, groups) -> pd.DataFrame:
    """One row of truth per group: present if any film shows it, else unknown if any film is unknown, else absent."""
    groups = np.asarray(groups)
    unknown = truth.isna().groupby(groups, sort=True).any()
    highest = truth.astype("float64").groupby(groups, sort=True).max()
    return highest.where((highest > 0) | ~unknown)


def aggregate_ids(ids, groups) -> pd.Series:
    """The first id of each group, for instance the patient of each study."""
    return pd.Series(np.asarray(ids)).groupby(np.asarray(groups), sort=True).first()
