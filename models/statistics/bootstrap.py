"""How sure is a figure? Patients drawn again with replacement, all films of a patient together; and patient folds.

In: scores, calls or probabilities with their truth and the patient of each row. Out: one value per resample, or an
Interval. Films of one patient resemble each other, so drawing films instead of patients would give intervals that are
too narrow. Called by `evaluate` and by the choice of blends and calibrations. numpy only.
"""

from dataclasses import dataclass

import numpy as np

from models.statistics import metrics
from models.statistics.metrics import PROBABILITY_FLOOR, Confusion, divide
from models.statistics.reliability import bin_index

BLOCK = 4_000_000  # rows x resamples held at once: 16 MB of 32-bit counts
CALL_METRICS = ("sensitivity", "specificity", "precision", "f1", "f2", "accuracy")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure with the bounds that hold at `level`, and the share of resamples in which the figure exists."""

    value: float
    low: float
    high: float
    level: float = 0.95
    defined: float = 1.0

    @property
    def bounds(self) -> dict[str, float]:
        """Plain data for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def columns(self, name: str) -> dict[str, float]:
        """The cells of a table's row: `name`, `name_low`, `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


class PatientBootstrap:
    """Resamples of one table's patients, drawn once, so that everything scored with them is paired.

    Every array of figures that the methods return has resamples + 1 entries: entry 0 is the figure of the rows as they
    are, the rest are the resamples'. Differences and means of such arrays are therefore again such arrays. The draws
    depend on the seed and the set of patient ids, not on the order of the rows.
    """

    def __init__(self, patients, *, resamples: int = 1000, level: float = 0.95, seed: int = 0):
        self.level = level  # of the intervals that are made from these resamples
        self._wide: np.ndarray | None = None  # the counts as doubles, where they are few
        names, self.patient = np.unique(np.asarray(patients), return_inverse=True)
        count, generator = len(names), np.random.default_rng(seed)
        # Poisson(1) counts: beyond 255 is out of the question, and one byte each lets 65,000 patients fit in 65 MB.
        self.counts = np.ones((count, resamples + 1), dtype=np.uint8)
        for column in range(1, resamples + 1):
            drawn = generator.integers(0, count, count) if count else np.zeros(0, dtype=np.intp)
            self.counts[:, column] = np.bincount(drawn, minlength=count)

    def rank_scores(self, score, truth) -> dict[str, np.ndarray]:
        """`auc` and `average_precision` of every resample; NaN where a resample has one class only."""
        score, truth, patient = self._known(score, truth)
        order = np.argsort(score, kind="stable")
        score, truth, patient = score[order], truth[order], patient[order]
        starts = np.flatnonzero(np.diff(score, prepend=np.nan) != 0)
        columns = self.counts.shape[1]
        scores = {"auc": np.full(columns, np.nan), "average_precision": np.full(columns, np.nan)}
        if not np.any(truth > 0):
            return scores
        with_positives = np.flatnonzero(np.add.reduceat(truth, starts) > 0)
        for block in self._blocks(len(truth)):
            scores["auc"][block], scores["average_precision"][block] = _weighted_ranks(
                self.counts[patient, block], truth, starts, with_positives
            )
        return scores

    def call_scores(self, positive_call, truth) -> dict[str, np.ndarray]:
        """The figures of CALL_METRICS for yes/no calls."""
        call, truth, patient = self._known(positive_call, truth)
        outcomes = [call * truth, call * (1 - truth), (1 - call) * (1 - truth), (1 - call) * truth]
        return call_figures(Confusion(**dict(zip(_OUTCOMES, self._totals(outcomes, patient), strict=True))))

    def probability_scores(self, probability, truth) -> dict[str, np.ndarray]:
        """`brier`, `log_loss` and `ece`; the bins of `ece` stay those of the rows as they are."""
        probability, truth, patient = self._known(probability, truth)
        clipped = np.clip(probability, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
        error = truth * (1 - probability) ** 2 + (1 - truth) * probability**2
        loss = -(truth * np.log(clipped) + (1 - truth) * np.log1p(-clipped))
        bins = bin_index(probability, np.ones_like(probability))
        excess = [np.where(bins == one, truth - probability, 0.0) for one in np.unique(bins)]
        totals = self._totals([np.ones_like(truth), error, loss, *excess], patient)
        return {
            "brier": divide(totals[1], totals[0]),
            "log_loss": divide(totals[2], totals[0]),
            "ece": divide(np.abs(totals[3:]).sum(axis=0), totals[0]),
        }

    def mean_scores(self, values) -> np.ndarray:
        """The mean of a figure that every row has, rows of NaN left out."""
        values = np.asarray(values, dtype=np.float64)
        known = ~np.isnan(values)
        total, rows = self._totals([np.where(known, values, 0.0), known.astype(np.float64)], self.patient)
        return divide(total, rows)

    def patients_with(self, rows) -> int:
        """The number of patients that own at least one row of the mask."""
        return len(np.unique(self.patient[np.asarray(rows, dtype=bool)]))

    def _known(self, values, truth):
        known = ~np.isnan(np.asarray(truth, dtype=np.float64))
        values, truth, _ = metrics.known_rows(np.asarray(values)[known], np.asarray(truth)[known])
        return values, truth, self.patient[known]

    def _blocks(self, rows: int):
        width = max(1, BLOCK // max(rows, 1))
        columns = self.counts.shape[1]
        return [slice(start, min(start + width, columns)) for start in range(0, columns, width)]

    def _totals(self, columns, patient) -> np.ndarray:
        """Sum each column of row values over each resample's patients: (columns, resamples + 1)."""
        patients = self.counts.shape[0]
        sums = np.stack([np.bincount(patient, column, minlength=patients) for column in columns])
        if self.counts.size <= BLOCK:
            self._wide = self.counts.astype(np.float64) if self._wide is None else self._wide
            return sums @ self._wide
        parts = [sums @ self.counts[:, block].astype(np.float64) for block in self._blocks(patients)]
        return np.concatenate(parts, axis=1)


_OUTCOMES = ("true_positive", "false_positive", "true_negative", "false_negative")


def call_figures(counts: Confusion) -> dict:
    """The figures of CALL_METRICS, in that order, of one confusion or of arrays of them."""
    figures = (
        metrics.sensitivity(counts),
        metrics.specificity(counts),
        metrics.precision(counts),
        metrics.f_beta(counts, 1),
        metrics.f_beta(counts, 2),
        metrics.accuracy(counts),
    )
    return dict(zip(CALL_METRICS, figures, strict=True))


def _weighted_ranks(weight, truth, starts, with_positives) -> tuple[np.ndarray, np.ndarray]:
    """AUC and average precision of each column of `weight` (rows by ascending score; `starts` begin the tied groups).

    Only the groups that hold a positive enter either sum: past the one running total the work grows with their number.
    """
    grouped = np.add.reduceat(weight, starts, axis=0, dtype=np.int32)
    below = np.cumsum(grouped, axis=0, dtype=np.int32)
    everyone, total = below[with_positives].astype(np.float64), below[-1].astype(np.float64)
    members = grouped[with_positives]
    positive_rows = np.flatnonzero(truth > 0)
    group_of_row = np.searchsorted(starts, positive_rows, side="right") - 1
    first = np.flatnonzero(np.diff(group_of_row, prepend=-1))
    positive = np.add.reduceat(weight[positive_rows] * truth[positive_rows, None], first, axis=0)
    found = np.cumsum(positive, axis=0)
    positives = found[-1]
    negatives_below = (everyone - members / 2) - (found - positive / 2)
    area = divide((positive * negatives_below).sum(axis=0), positives * (total - positives))
    called, right = total - everyone + members, positives - found + positive
    steps = positive * np.divide(right, called, out=np.zeros_like(right), where=called > 0)
    return area, divide(steps.sum(axis=0), positives)


def interval(figures, level: float = 0.95) -> Interval:
    """The percentile interval of an array whose entry 0 is the figure and whose rest are its resamples.

    NaN bounds where the figure itself does not exist or where under half of the resamples have it.
    """
    value, samples = float(figures[0]), np.asarray(figures[1:], dtype=np.float64)
    samples = samples[~np.isnan(samples)]
    defined = len(samples) / max(1, len(figures) - 1)
    if np.isnan(value) or len(samples) == 0 or defined < 0.5:
        return Interval(value=value, low=float("nan"), high=float("nan"), level=level, defined=defined)
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high), level=level, defined=defined)


def p_value(figures) -> float:
    """Two-sided p of "the difference is 0", for an array whose entry 0 is a difference and whose rest its resamples.

    Twice the smaller share of resamples on either side of 0, one counted in addition: the level at which the percentile
    interval would just touch 0 (Davison and Hinkley, Bootstrap Methods and their Application, 1997, sections 4.2, 5.3).
    Never under 2 / (resamples + 1); NaN where `interval` has no bounds.
    """
    samples = np.asarray(figures[1:], dtype=np.float64)
    samples = samples[~np.isnan(samples)]
    if np.isnan(figures[0]) or len(samples) == 0 or len(samples) < 0.5 * (len(figures) - 1):
        return float("nan")
    smaller = min(np.count_nonzero(samples <= 0), np.count_nonzero(samples >= 0))
    return min(1.0, 2 * (smaller + 1) / (len(samples) + 1))


def holm(p_values) -> np.ndarray:
    """p values adjusted for their number (Holm, Scandinavian Journal of Statistics 1979;6:65-70), in their order.

    Calling the adjusted ones below 0.05 real is wrong about any of them in 5 % of cases at most, however the tests hang
    together. NaN stays NaN and is no test.
    """
    values = np.asarray(p_values, dtype=np.float64)
    adjusted, tested = np.full(len(values), np.nan), np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    left = np.arange(len(order), 0, -1)  # so many tests are still open
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * left), 1.0)
    return adjusted


def fewest_resamples(tests: int, level: float = 0.95) -> int:
    """The fewest resamples with which `p_value` can fall to what `holm` asks of the smallest of so many."""
    return int(np.ceil(2 * tests / (1 - level) - 1e-9))


def rate_interval(figures, trials: int, level: float = 0.95) -> Interval:
    """`interval`, but where the rate is 0 or 1 all resamples agree and the bootstrap would claim certainty.

    There the far bound is Clopper and Pearson's (1934) for `trials` patients. For an AUC of 0 or 1, `trials` is the
    size of the smaller class: so many disjoint pairs of a positive and a negative all agreed.
    """
    plain = interval(figures, level)
    if trials < 1 or plain.value not in (0.0, 1.0):
        return plain
    margin = ((1 - level) / 2) ** (1 / trials)
    low, high = (margin, 1.0) if plain.value == 1 else (0.0, 1 - margin)
    return Interval(value=plain.value, low=low, high=high, level=level, defined=plain.defined)


def error_interval(figures, level: float = 0.95) -> Interval:
    """`interval` for a calibration error: resampling's noise can only raise it, so the mean rise is taken off."""
    figures = np.asarray(figures, dtype=np.float64)
    if np.isnan(figures).all():
        return interval(figures, level)
    rise = np.nanmean(figures[1:]) - figures[0] if len(figures) > 1 else 0.0
    return interval(np.concatenate([figures[:1], np.maximum(figures[1:] - rise, 0.0)]), level)


def patient_intervals(score, truth, patients, *, threshold=None, **drawing) -> dict[str, Interval]:
    """Every figure of one finding with its interval; `drawing` is resamples, level and seed of PatientBootstrap."""
    call = None if threshold is None else np.asarray(score) >= threshold
    bootstrap = PatientBootstrap(patients, **drawing)
    return finding_intervals(bootstrap, finding_figures(bootstrap, score, truth, call), truth, call)


def finding_figures(bootstrap: PatientBootstrap, score, truth, call=None) -> dict[str, np.ndarray]:
    """Every figure of one finding, as it is and in each resample.

    Ranks always, figures of the yes/no calls if they are given, errors if the scores are probabilities.
    """
    score = np.asarray(score, dtype=np.float64)
    figures = bootstrap.rank_scores(score, truth)
    if call is not None:
        figures |= bootstrap.call_scores(call, truth)
    if metrics.is_probability(score[~np.isnan(np.asarray(truth, dtype=np.float64))]):
        figures |= bootstrap.probability_scores(score, truth)
    return figures


def finding_intervals(bootstrap: PatientBootstrap, figures, truth, call=None) -> dict[str, Interval]:
    """The intervals of finding_figures."""
    truth = np.asarray(truth, dtype=np.float64)
    known = ~np.isnan(truth)
    positives, negatives = bootstrap.patients_with(truth > 0), bootstrap.patients_with(known & (truth < 1))
    trials = {"auc": min(positives, negatives), "sensitivity": positives, "specificity": negatives}
    if call is not None:
        trials["precision"] = bootstrap.patients_with(np.asarray(call, dtype=bool) & known)
    found = {}
    for name, values in figures.items():
        if name in trials:
            found[name] = rate_interval(values, trials[name], bootstrap.level)
        else:
            found[name] = (error_interval if name == "ece" else interval)(values, bootstrap.level)
    return found


def paired_difference(bootstrap: PatientBootstrap, score, other, truth, metric: str = "auc") -> Interval:
    """Figure of `score` minus figure of `other` on the same resamples, for the metrics that need no threshold."""
    ranked = ("auc", "average_precision")
    if metric not in (*ranked, "brier", "log_loss", "ece"):
        known = ", ".join((*ranked, "brier", "log_loss", "ece"))
        raise ValueError(f"Unknown metric {metric!r} for a paired difference. Known: {known}.")
    figures = bootstrap.rank_scores if metric in ranked else bootstrap.probability_scores
    return interval(figures(score, truth)[metric] - figures(other, truth)[metric], bootstrap.level)


def patient_folds(patients, truth, folds: int = 5, seed: int = 0) -> np.ndarray:
    """A fold number per row: patients whole, those with a positive spread evenly; the rows' order plays no part."""
    if folds < 2:
        raise ValueError(f"Cross-validation needs at least 2 folds, got {folds}.")
    names, patient = np.unique(np.asarray(patients), return_inverse=True)
    positive = np.bincount(patient, np.nan_to_num(np.asarray(truth, dtype=np.float64)), minlength=len(names)) > 0
    shuffled = np.random.default_rng(seed).permutation(len(names))
    fold = np.empty(len(names), dtype=np.intp)
    fold[shuffled[np.argsort(~positive[shuffled], kind="stable")]] = np.arange(len(names)) % folds
    return fold[patient]
