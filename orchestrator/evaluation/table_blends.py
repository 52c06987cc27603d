"""Prediction tables blended, finding by finding: three fixed means, and two blends that learn from the truth.

In: aligned score tables, truth and patients. Out: a table per blend, over the findings that all tables have. The two
that learn give every row an answer that was learned on other patients. Called by
orchestrator.evaluation.compare_tables. Tables from anywhere have scales of their own, so those two see only ranks.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from models.statistics import blending
from models.statistics.bootstrap import patient_folds
from models.statistics.metrics import is_probability, sigmoid, undefined_reason
from models.statistics.reliability import log_odds

RANKS, PROBABILITIES, GREEDY = blending.MEAN_OF_RANKS, blending.MEAN_OF_PROBABILITIES, blending.GREEDY
LOGITS = "mean of log odds"  # which a table of probabilities has, whatever its networks' logits were
STACKED = "stacking across findings"
BLENDS = (RANKS, PROBABILITIES, LOGITS, GREEDY, STACKED)


def blend_tables(
    scores: Mapping[str, pd.DataFrame], truth: pd.DataFrame, patients: pd.Series
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The blends by name, and what must be said about them. Means of probabilities only where all tables hold such."""
    if len(scores) < 2:
        return {}, []
    shared = [slug for slug in next(iter(scores.values())) if all(slug in table for table in scores.values())]
    if not shared:
        return {}, ["No blend: the tables have no finding in common."]
    stack = {name: table[shared] for name, table in scores.items()}
    mixed, notes = _fixed(stack)
    folds = _Folds(truth, patients)
    odds = {slug: np.column_stack([_rank_odds(table[slug]) for table in stack.values()]) for slug in shared}
    mixed[GREEDY] = folds.blend({slug: (odds[slug], ()) for slug in shared}, GREEDY)
    learned = [GREEDY]
    if len(shared) > 1:
        means = np.column_stack([odds[slug].mean(axis=1) for slug in shared])
        mixed[STACKED] = folds.blend({slug: _own_first(means, shared, slug) for slug in shared}, blending.STACKING)
        learned.append(STACKED)
    return mixed, [*notes, f"Learned on other patients' rows for every row: {' and '.join(learned)}."]


def improper_tables(scores: Mapping[str, pd.DataFrame]) -> list[str]:
    """The tables that hold a value outside [0, 1]."""
    return [name for name, table in scores.items() if not is_probability(_known(table))]


def _known(scores: pd.DataFrame) -> np.ndarray:
    values = scores.to_numpy(dtype=np.float64)
    return values[~np.isnan(values)]


def _fixed(stack: Mapping[str, pd.DataFrame]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """A rank is a row's place among the rows judged here (1 to n, ties in the middle), so it is no probability."""
    tables = list(stack.values())
    mixed = {RANKS: sum(table.rank() for table in tables) / len(tables)}
    improper = improper_tables(stack)
    if improper:
        return mixed, [f"No mean of probabilities: the scores of {', '.join(improper)} are none."]
    odds = sum(table.apply(log_odds) for table in tables) / len(tables)
    return mixed | {PROBABILITIES: sum(tables) / len(tables), LOGITS: odds.apply(sigmoid)}, []


def _rank_odds(scores: pd.Series) -> np.ndarray:
    """Ranks between 0 and 1 on the scale of log odds; NaN where there is no score."""
    return log_odds((scores.rank() / (scores.notna().sum() + 1)).to_numpy())


def _own_first(means: np.ndarray, slugs: list[str], slug: str) -> tuple[np.ndarray, tuple[str, ...]]:
    order = [slug, *[one for one in slugs if one != slug]]
    return means[:, [slugs.index(one) for one in order]], tuple(order)


class _Folds:
    """One division of the patients for all findings: what stacking learned of a patient's other findings stays out."""

    def __init__(self, truth: pd.DataFrame, patients: pd.Series) -> None:
        self.truth = truth
        self.fold = patient_folds(patients, (truth == 1).any(axis=1).to_numpy(float))

    def blend(self, columns: Mapping[str, tuple[np.ndarray, tuple[str, ...]]], method: str) -> pd.DataFrame:
        """{finding: (rows x columns, their names)} -> rows x findings, each row by weights of the other folds."""
        found = {slug: self._finding(slug, *given, method) for slug, given in columns.items()}
        return pd.DataFrame(found, index=self.truth.index)

    def _finding(self, slug: str, columns: np.ndarray, inputs: tuple[str, ...], method: str) -> np.ndarray:
        answer = self.truth[slug].to_numpy(float)
        usable = ~np.isnan(columns).any(axis=1)
        score = np.full(len(columns), np.nan)
        for one in np.unique(self.fold):
            asked, taught = usable & (self.fold == one), usable & (self.fold != one) & ~np.isnan(answer)
            if undefined_reason(answer[taught]):
                score[asked] = columns[asked, 0] if inputs else columns[asked].mean(axis=1)
            else:
                score[asked] = blending.fit(method, columns[taught], answer[taught], inputs).apply(columns[asked])
        return sigmoid(score) if method == blending.STACKING else score
