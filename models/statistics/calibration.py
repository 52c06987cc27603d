"""From a logit to a probability that means what it says.

In: logits, reference labels and patients of part `calibrate`. Out: a Calibration, plain data that goes into a bundle as
JSON. `temperature`, `platt`, `beta`, `prior` and `identity` are strictly increasing, so they leave every AUC as it was;
`isotonic` has plateaus, on which it ties films. Called by the ensembler and by `adapt`. numpy and SciPy, the latter
imported where it is used: applying a stored calibration needs numpy alone. `raise_parents` is the optional last step of
a bundle that wants a parent finding at least as probable as its likeliest child: there is no cardiomegaly without a
wide mediastinum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from models.statistics.bootstrap import patient_folds
from models.statistics.metrics import known_rows, sigmoid
from models.statistics.reliability import log_odds, logistic_fit
from pathologies.errors import InputError
from pathologies.findings.catalog import descendants

METHODS = ("temperature", "platt", "beta", "isotonic", "prior", "identity")
ENOUGH = 20  # positives and negatives that a fit needs; with fewer of either only the prevalence is adjusted
FLAT = 1e-3  # spread of the log odds, in standard deviations, where the scores carry no signal
STRAIGHT = 12.0  # log odds (p = 6e-6) up to which apply() is exact; beyond, they bend towards STRAIGHT + BEND
BEND = 8.0


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """log odds = slope * logit + intercept + shift; beta and isotonic put their own curve in the place of the line."""

    method: str
    slope: float = 1.0
    intercept: float = 0.0
    shift: float = 0.0  # prior correction, added last
    beta: tuple[float, float] | None = None  # weights of ln p and -ln(1 - p), with p = sigmoid(logit)
    knots: tuple[tuple[float, float], ...] | None = None  # isotonic: (logit, log odds), joined by straight lines
    prevalence: float | None = None  # of the films it was fitted on
    reason: str = ""  # why it is not what was asked for

    def __post_init__(self):
        if self.method not in METHODS:
            raise InputError(f"Unknown calibration {self.method!r}. Known: {', '.join(METHODS)}.")
        if self.slope <= 0 or (self.beta is not None and (min(self.beta) < 0 or max(self.beta) <= 0)):
            raise InputError(f"A calibration must rise with the logit, got slope {self.slope} and beta {self.beta}.")

    def log_odds(self, logit) -> np.ndarray:
        """Calibrated log odds, before the bend at the far ends."""
        logit = np.asarray(logit, dtype=np.float64)
        if np.isnan(logit).any():
            raise InputError(f"{np.isnan(logit).sum()} of {logit.size} logits are NaN; the model's output is broken.")
        if self.knots is not None:
            return np.interp(logit, *np.transpose(self.knots)) + self.shift
        if self.beta is not None:
            rising, falling = self.beta
            return falling * np.logaddexp(0, logit) - rising * np.logaddexp(0, -logit) + self.intercept + self.shift
        return self.slope * logit + self.intercept + self.shift

    def apply(self, logit) -> np.ndarray:
        """Probabilities in (0, 1), float64.

        A double cannot tell sigmoid(37) from 1, which would tie the surest films. Beyond STRAIGHT the log odds
        therefore approach STRAIGHT + BEND ever more slowly: 32-bit logits stay apart up to log odds of about 100.
        """
        odds = self.log_odds(logit)
        with np.errstate(invalid="ignore"):
            excess = np.minimum(np.abs(odds), 1e300) - STRAIGHT
            bent = np.sign(odds) * (STRAIGHT + BEND * excess / (BEND + np.maximum(excess, 0)))
        return sigmoid(np.where(excess > 0, bent, odds))

    def to_dict(self) -> dict:
        """Plain data for JSON; fields at their default are left out."""
        return {name: value for name, value in asdict(self).items() if value != _DEFAULTS.get(name, _DEFAULTS)}

    @classmethod
    def from_dict(cls, data: Mapping) -> "Calibration":
        """The inverse of to_dict, also after a trip through JSON."""
        unknown = sorted(set(data) - {field.name for field in fields(cls)})
        if unknown:
            raise InputError(
                f"Unknown calibration key {unknown[0]!r}. Known: {', '.join(f.name for f in fields(cls))}."
            )
        data = dict(data)
        if data.get("beta") is not None:
            data["beta"] = tuple(data["beta"])
        if data.get("knots") is not None:
            data["knots"] = tuple(tuple(knot) for knot in data["knots"])
        return cls(**data)


_DEFAULTS = {field.name: field.default for field in fields(Calibration) if field.name != "method"}


def fit(logits, truth, patients=None, method: str = "platt", *, weight=None) -> Calibration:
    """Fit one calibration; rows of unknown truth are left out.

    Films weigh equally unless `weight` says otherwise (figures are per film; `patient_weight` makes patients equal).
    `patients` makes the smoothing honest: it counts patients, not films. Fewer than ENOUGH positive or negative films:
    only the mean is moved, to the smoothed prevalence. Scores that do not rise with the truth: "no signal", a slope
    that is almost flat and still keeps the ranking.
    """
    if method not in METHODS:
        raise InputError(f"Unknown calibration {method!r}. Known: {', '.join(METHODS)}.")
    known = ~np.isnan(np.asarray(truth, dtype=np.float64))
    patients = np.arange(len(known)) if patients is None else np.asarray(patients)
    weight = np.ones(len(known)) if weight is None else np.asarray(weight, dtype=np.float64)
    logits, truth, weight = np.asarray(logits)[known], np.asarray(truth)[known], weight[known]
    patients = patients[known][weight > 0]
    logits, truth, weight = known_rows(logits, truth, weight)
    if not np.isfinite(logits).all():
        raise InputError(f"{np.sum(~np.isfinite(logits))} of {len(logits)} logits are infinite; leave those rows out.")
    positives, negatives = int(np.sum(truth > 0)), int(np.sum(truth < 1))
    if len(truth) == 0:
        return Calibration(method="identity", reason="no known labels")
    prevalence = float(weight @ truth / weight.sum())
    if method == "identity":
        return Calibration(method="identity", prevalence=prevalence)
    rows = _Rows(logits=logits, truth=truth, weight=weight, target=_smoothed(truth, patients))
    if method == "prior" or min(positives, negatives) < ENOUGH:
        few = f"{positives} positives and {negatives} negatives; a fit needs {ENOUGH} of each"
        calibration = _fit_prior(rows, reason="" if method == "prior" else few)
    else:
        calibration = _FITS[method](rows)
    return replace(calibration, prevalence=prevalence)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    logits: np.ndarray
    truth: np.ndarray
    weight: np.ndarray
    target: np.ndarray  # the truth, moved a little off 0 and 1


def _smoothed(truth, patients) -> np.ndarray:
    """Platt's (1999) targets, (P + 1) / (P + 2) and 1 / (N + 2), with P and N counted in patients."""
    positives, negatives = len(np.unique(patients[truth > 0])), len(np.unique(patients[truth < 1]))
    high, low = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    return low + truth * (high - low)


def patient_weight(patients) -> np.ndarray:
    """Weights under which every patient counts the same, however many films there are; they sum to the films."""
    _, index, films = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)
    return len(index) / len(films) / films[index]


def _fit_temperature(rows: _Rows) -> Calibration:
    slope = float(logistic_fit(rows.logits[:, None], rows.target, rows.weight)[0])
    if slope <= 0:
        return _without_signal(rows, "temperature")
    return Calibration(method="temperature", slope=slope)


def _fit_platt(rows: _Rows) -> Calibration:
    centre = np.median(rows.logits)  # keeps the two coefficients apart numerically
    features = np.column_stack([rows.logits - centre, np.ones_like(rows.logits)])
    slope, intercept = (float(value) for value in logistic_fit(features, rows.target, rows.weight))
    if slope <= 0 or np.ptp(rows.logits) == 0:
        return _without_signal(rows, "platt")
    return Calibration(method="platt", slope=slope, intercept=intercept - slope * float(centre))


def _fit_beta(rows: _Rows) -> Calibration:
    """Kull, Silva Filho and Flach (2017): a feature whose weight would be negative is dropped."""
    features = np.column_stack([-np.logaddexp(0, -rows.logits), np.logaddexp(0, rows.logits)])
    ones = np.ones((len(rows.logits), 1))
    for used in ([0, 1], [0], [1]):
        *weights, intercept = logistic_fit(np.hstack([features[:, used], ones]), rows.target, rows.weight)
        if min(weights) > 0 and np.ptp(rows.logits) > 0:
            beta = [0.0, 0.0]
            for position, value in zip(used, weights, strict=True):
                beta[position] = float(value)
            return Calibration(method="beta", beta=tuple(beta), intercept=float(intercept))
    return _without_signal(rows, "beta")


def _fit_isotonic(rows: _Rows) -> Calibration:
    """Pool adjacent violators: level within a pool, straight from pool to pool; the extremes are Platt's targets."""
    from scipy.optimize import isotonic_regression

    values, group = np.unique(rows.logits, return_inverse=True)
    mass, hits = np.bincount(group, rows.weight), np.bincount(group, rows.weight * rows.truth)
    pooled = isotonic_regression(hits / mass, weights=mass)
    if np.ptp(pooled.x) < 1e-12:  # a single pool, or several that only rounding tells apart
        return _without_signal(rows, "isotonic")
    first, last = values[pooled.blocks[:-1]], values[pooled.blocks[1:] - 1]
    odds = log_odds(np.clip(pooled.x[pooled.blocks[:-1]], rows.target.min(), rows.target.max()))
    ends = np.column_stack([np.ravel([first, last], order="F"), np.repeat(odds, 2)])
    return Calibration(method="isotonic", knots=tuple(map(tuple, np.unique(ends, axis=0).tolist())))


def _fit_prior(rows: _Rows, reason: str = "", slope: float = 1.0) -> Calibration:
    """Move the logits so that their mean probability, which rises with the intercept, is (positives + 1) / (n + 2)."""
    from scipy.optimize import brentq

    total = rows.weight.sum()
    wanted = (rows.weight @ rows.truth + 1) / (total + 2)

    def excess(intercept: float) -> float:
        return rows.weight @ sigmoid(slope * rows.logits + intercept) / total - wanted

    low, high = -1e3 - slope * rows.logits.max(), 1e3 - slope * rows.logits.min()
    intercept = float(brentq(excess, low, high, xtol=1e-12, rtol=1e-15))
    return Calibration(method="prior", slope=slope, intercept=intercept, reason=reason)


def _without_signal(rows: _Rows, method: str) -> Calibration:
    spread = float(np.std(rows.logits))
    reason = f"no signal: the scores do not rise with the truth ({method} found no positive slope)"
    return _fit_prior(rows, reason, slope=FLAT / spread if spread > 0 else FLAT)


_FITS = {"temperature": _fit_temperature, "platt": _fit_platt, "beta": _fit_beta, "isotonic": _fit_isotonic}


def cross_validated(logits, truth, patients, method: str = "platt", folds: int = 5, seed: int = 0) -> np.ndarray:
    """Probabilities for every row, each from a calibration fitted on the other patients' folds."""
    logits, truth, patients = (
        np.asarray(logits, dtype=np.float64),
        np.asarray(truth, dtype=np.float64),
        np.asarray(patients),
    )
    fold = patient_folds(patients, truth, folds, seed)
    probability = np.empty(len(logits))
    for one in np.unique(fold):
        held_out = fold == one
        calibration = fit(logits[~held_out], truth[~held_out], patients[~held_out], method)
        probability[held_out] = calibration.apply(logits[held_out])
    return probability


def with_prevalence(calibration: Calibration, prevalence: float, fitted_prevalence: float | None = None) -> Calibration:
    """Correct for another share of positives, findings looking the same within each class (Saerens et al. 2002).

    fitted_prevalence: the share that the calibration knows; by default that of the films it was fitted on. The same
    correction undoes balanced sampling: the sampler's share is fitted_prevalence, the real one prevalence.
    """
    known = calibration.prevalence if fitted_prevalence is None else fitted_prevalence
    if known is None or not 0 < known < 1 or not 0 < prevalence < 1:
        raise InputError(f"A prevalence must lie between 0 and 1, got {prevalence} in the place of {known}.")
    shift = calibration.shift + float(log_odds(prevalence) - log_odds(known))
    return replace(calibration, shift=shift, prevalence=prevalence)


def raise_parents(probability, slugs: Sequence[str], parents: Mapping[str, Sequence[str]]) -> np.ndarray:
    """N x findings probabilities, each the largest of itself and its descendants; only parents change, only upwards."""
    probability = np.asarray(probability, dtype=np.float64)
    raised = probability.copy()
    position = {slug: index for index, slug in enumerate(slugs)}
    known = {slug: parents.get(slug, ()) for slug in slugs}
    for slug in slugs:
        below = [position[child] for child in descendants(slug, known)]
        if below:
            raised[:, position[slug]] = probability[:, [position[slug], *below]].max(axis=1)
    return raised
