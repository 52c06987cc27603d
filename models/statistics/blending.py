"""Several networks' answers to one question, made into one score.

In: logits, a column per member (or, for stacking, per finding). Out: a Blend, plain data that goes into a bundle as
JSON, whose `apply` gives one score per film on the scale of a logit, which the calibration then makes a probability.
Before any blend the networks of a cross-validation become one column: `model_columns`, `align_folds`.
Called by the ensembler, by the bundle's reader and by `orchestrator.ensembling.pipeline`. numpy only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from models.statistics.metrics import auc, sigmoid
from models.statistics.reliability import log_odds, logistic_fit
from pathologies.errors import InputError

MEAN_OF_LOGITS = "mean of logits"
MEAN_OF_PROBABILITIES = "mean of probabilities"
MEAN_OF_RANKS = "mean of ranks"
GREEDY = "greedy selection"
STACKING = "stacking"
METHODS = (MEAN_OF_LOGITS, MEAN_OF_PROBABILITIES, MEAN_OF_RANKS, GREEDY, STACKING)  # the simplest first
LEARNED = (GREEDY, STACKING)  # fitted on labels; a mean of ranks is fitted on films alone
KNOTS = 1000  # most points that a stored distribution has
STEPS_PER_MEMBER, MOST_STEPS = 5, 20  # of a greedy selection
WORTH = 0.001  # AUC: a longer selection must add this much
RIDGE = 10.0  # stacking: weights of other findings, per standard deviation, are expected within about 1 / sqrt(10)


@dataclass(frozen=True, kw_only=True)
class Blend:
    """One way to combine columns; fields that its method does not use are empty."""

    method: str = MEAN_OF_LOGITS
    weights: tuple[float, ...] = ()  # greedy selection, stacking: one per column
    intercept: float = 0.0  # stacking
    inputs: tuple[str, ...] = ()  # stacking: the findings whose mean logits are the columns
    distributions: tuple[tuple[tuple[float, float], ...], ...] = ()  # ranks: per column (logit, rank in 0..1), rising

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"Unknown blend {self.method!r}. Known: {', '.join(METHODS)}.")

    def apply(self, columns) -> np.ndarray:
        """N x columns of logits -> N scores on the logit scale, float64."""
        columns = np.asarray(columns, dtype=np.float64)
        wanted = len(self.weights) or len(self.distributions) or columns.shape[1]
        if columns.shape[1] != wanted:
            raise InputError(f"A blend of {wanted} columns ({self.method}) was given {columns.shape[1]}.")
        if self.method == MEAN_OF_LOGITS:
            return columns.mean(axis=1)
        if self.method == MEAN_OF_PROBABILITIES:
            return log_odds(sigmoid(columns).mean(axis=1))
        if self.method == MEAN_OF_RANKS:
            pairs = zip(columns.T, self.distributions, strict=True)
            return log_odds(np.mean([rank(one, known) for one, known in pairs], axis=0))
        return (columns * np.asarray(self.weights)).sum(axis=1) + self.intercept

    def to_dict(self) -> dict:
        """Plain data for JSON; fields that are not in use are left out."""
        return {name: value for name, value in asdict(self).items() if value or name == "method"}

    @classmethod
    def from_dict(cls, data: Mapping) -> "Blend":
        """The inverse of to_dict, also after a trip through JSON."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise InputError(f"Unknown blend key {unknown[0]!r}. Known: {', '.join(known)}.")
        data = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
        if "distributions" in data:
            data["distributions"] = tuple(tuple(tuple(knot) for knot in one) for one in data["distributions"])
        return cls(**data)


def fit(method: str, columns, truth, inputs: tuple[str, ...] = ()) -> Blend:
    """Fit a blend on rows of known truth (1 or 0). For stacking the first of `inputs` is the finding itself."""
    columns, truth = np.asarray(columns, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if method == MEAN_OF_RANKS:
        return Blend(method=method, distributions=tuple(distribution(one) for one in columns.T))
    if method == GREEDY:
        return Blend(method=method, weights=greedy_weights(columns, truth))
    if method == STACKING:
        return _stack(columns, truth, inputs)
    return Blend(method=method)


def model_columns(models: Sequence[Mapping]) -> tuple[tuple[int, ...], ...]:
    """Of each column of logits the positions of its models: those that share a `group`, else a single one.

    The models of a group are the networks of a cross-validation. A film is asked of all of them and their logits are
    averaged, while what is fitted was fitted on the answer of the one that had not learned from the film.
    """
    found: dict[tuple, list[int]] = {}
    for position, model in enumerate(models):
        group = model.get("group")
        found.setdefault(("alone", position) if group is None else ("group", group), []).append(position)
    return tuple(map(tuple, found.values()))


def align_folds(logits, fold) -> np.ndarray:
    """Out-of-fold logits on one scale: what a fold's network shifts and stretches by its own chance is taken off.

    logits: films; fold: films, which network answered. No label is looked at. The mean of the networks has the mean of
    their shifts and spreads, so each fold is moved to those; as folds differ by their films too, by the share of the
    difference that is beyond chance (empirical Bayes: between / (between + sampling variance)).
    """
    logits, found = np.asarray(logits, dtype=np.float64), np.empty(len(logits))
    parts = [np.flatnonzero(np.asarray(fold) == one) for one in np.unique(fold)]
    centre = np.array([logits[rows].mean() for rows in parts])
    spread = np.array([logits[rows].std() for rows in parts])
    count = np.array([len(rows) for rows in parts])
    if len(parts) < 2 or not (spread > 0).all():
        return logits.copy()
    standard = [(logits[rows] - middle) / width for rows, middle, width in zip(parts, centre, spread, strict=True)]
    tails = np.mean(np.concatenate(standard) ** 4)  # of a normal distribution 3
    shift = _beyond_chance(centre, spread**2 / count)
    wide = spread / np.exp(_beyond_chance(np.log(spread), (tails - 1) / (4 * count)))
    wide *= spread.mean() / wide.mean()
    for rows, z, middle, width in zip(parts, standard, centre - shift, wide, strict=True):
        found[rows] = middle + z * width
    return found


def _beyond_chance(values: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """How far each value is from their mean, shrunk by what its sampling variance alone would do."""
    between = max(0.0, float(values.var(ddof=1) - variance.mean()))
    share = between / (between + variance) if between > 0 else np.zeros(len(values))
    return share * (values - values.mean())


def distribution(values) -> tuple[tuple[float, float], ...]:
    """The empirical distribution of a column as (value, rank) points: rank i of n becomes i / (n + 1), ties share one.

    Stored, it gives a single film its rank. Values between two points lie between their ranks; values beyond the ends
    share the rank of the end.
    """
    values = np.asarray(values, dtype=np.float64)
    distinct, count = np.unique(values, return_counts=True)
    level = (np.cumsum(count) - (count - 1) / 2) / (len(values) + 1)
    kept = np.unique(np.linspace(0, len(distinct) - 1, min(KNOTS, len(distinct))).round().astype(np.intp))
    return tuple(zip(distinct[kept].tolist(), level[kept].tolist(), strict=True))


def rank(values, known: tuple[tuple[float, float], ...]) -> np.ndarray:
    """The ranks, strictly between 0 and 1, that values have in a stored distribution."""
    points, levels = np.transpose(known)
    return np.interp(np.asarray(values, dtype=np.float64), points, levels)


def greedy_weights(columns: np.ndarray, truth: np.ndarray) -> tuple[float, ...]:
    """Caruana et al. (ICML 2004): add, with replacement, the member that raises the AUC of the mean logit most.

    The weights are the shares of the additions. Of all lengths the shortest within WORTH of the best stands: late
    additions fit the noise of the films at hand.
    """
    members = columns.shape[1]
    total, chosen, areas = np.zeros(len(columns)), [], []
    for step in range(min(MOST_STEPS, STEPS_PER_MEMBER * members)):
        trials = [auc(total + columns[:, one], truth) for one in range(members)]
        if np.isnan(trials).all():  # one class only: nothing tells the members apart
            return tuple([1 / members] * members)
        best = int(np.argmax(trials))
        total = total + columns[:, best]
        chosen.append(best)
        areas.append(trials[best])
        if step and areas[-1] >= 1:
            break
    length = 1 + int(np.argmax(np.array(areas) >= max(areas) - WORTH))
    counts = np.bincount(chosen[:length], minlength=members)
    return tuple((counts / length).tolist())


def _stack(columns: np.ndarray, truth: np.ndarray, inputs: tuple[str, ...]) -> Blend:
    """Logistic regression on the mean logits of several findings; the finding's own weight is free, the others' shrink.

    So without a signal from the others the answer is the finding's own logit, and no worse than it.
    """
    if len(inputs) != columns.shape[1]:
        raise InputError(f"Stacking has {columns.shape[1]} columns for the findings {', '.join(inputs) or 'none'}.")
    centre, spread = columns.mean(axis=0), columns.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    features = np.column_stack([(columns - centre) / spread, np.ones(len(columns))])
    penalty = np.full(features.shape[1], RIDGE)
    penalty[0], penalty[-1] = 0.01, 0.0  # a trace, so that classes without overlap leave the own weight finite
    found = logistic_fit(features, truth, np.ones(len(truth)), ridge=penalty)
    weights = found[:-1] / spread
    intercept = float(found[-1] - weights @ centre)
    return Blend(method=STACKING, weights=tuple(weights.tolist()), intercept=intercept, inputs=tuple(inputs))
