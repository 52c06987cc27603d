"""Which blend and which calibration? The simplest, unless another is shown to be better.

In: CalibrationData: the logits, truth and patients of part `calibrate` for one finding. Out: a FittedPipeline: the
choice with the table of everything that was tried, what was fitted, and for every film a probability from a procedure
that never saw its patient. Called by `orchestrator.ensembling.calibration_fit`.

Two cross-validations, one in the other, both by whole patients. The inner one compares the candidates by the log loss
of held-out films; another than the simplest is taken if the interval of its gain lies above 0, an interval of 99.5 %
since some hundred such comparisons are made for a bundle. The outer one repeats the whole procedure, choice included,
without one fold at a time: what it says of the held-out fold has been influenced by nothing from that fold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.statistics import blending, calibration, metrics
from models.statistics.blending import Blend
from models.statistics.bootstrap import PatientBootstrap, interval, patient_folds
from models.statistics.calibration import Calibration
from models.statistics.sample_size import judge_sample_size
from orchestrator.formatting import aligned

CALIBRATIONS = ("platt", "temperature", "beta", "isotonic")  # the simplest that corrects both slope and prior first
COMPARISONS = "comparisons.txt"  # every blend and calibration that was compared, to read; bundle.json has them too
ROUNDING = 1e-9  # nats: two ways to the same answer differ by less


@dataclass(frozen=True, kw_only=True)
class SelectionSettings:
    folds: int = 5
    seed: int = 0
    level: float = 0.995  # of the interval of a gain
    resamples: int = 4000  # of the patients; a level of 99.5 % needs many


@dataclass(frozen=True, kw_only=True)
class CalibrationData:
    """The films of `calibrate`, row by row, for one finding."""

    columns: np.ndarray  # films x members, logits
    truth: np.ndarray  # 1, 0, NaN unknown
    patients: np.ndarray
    findings: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))  # films x inputs, mean logits; or empty
    inputs: tuple[str, ...] = ()  # the findings of these columns, this one first; empty: no stacking
    offered: tuple[str, ...] | None = None  # the blends to choose from; none: all that fit
    calibrations: tuple[str, ...] = CALIBRATIONS  # to choose from, the one that stands first

    @classmethod
    def of_score(cls, score, truth, patients) -> "CalibrationData":
        """A single score per film, on the logit scale: nothing to blend."""
        return cls(
            columns=np.asarray(score, dtype=np.float64)[:, None],
            truth=np.asarray(truth, dtype=np.float64),
            patients=np.asarray(patients),
        )

    def blends(self) -> tuple[str, ...]:
        """The blends to choose from, the simplest first."""
        if self.offered is not None:
            return self.offered
        several = (blending.MEAN_OF_PROBABILITIES, blending.MEAN_OF_RANKS, blending.GREEDY)
        own = several if self.columns.shape[1] > 1 else ()
        return (blending.MEAN_OF_LOGITS, *own, *((blending.STACKING,) if len(self.inputs) > 1 else ()))

    def fit_blend(self, method: str, rows: np.ndarray) -> Blend:
        """Fit on the rows of a mask; their truth must be known."""
        columns = self.findings if method == blending.STACKING else self.columns
        return blending.fit(method, columns[rows], self.truth[rows], self.inputs)

    def score(self, blend: Blend) -> np.ndarray:
        """The blended score of every film."""
        return blend.apply(self.findings if blend.inputs else self.columns)


@dataclass(frozen=True, kw_only=True)
class Choice:
    blend: str
    calibration: str
    blends: Sequence[dict]  # a row per candidate; see `compare`
    calibrations: Sequence[dict]
    note: str = ""  # why nothing was compared


@dataclass(frozen=True, kw_only=True)
class FittedPipeline:
    """What was chosen and fitted on all films, and what the same procedure says without each fold."""

    choice: Choice
    blend: Blend
    calibration: Calibration
    score: np.ndarray  # films: the blend's, before calibration
    probability: np.ndarray  # films
    fold: np.ndarray  # films: the fold that each belongs to
    out_of_fold: np.ndarray  # films x folds: every film's probability from the procedure fitted without that fold
    fixed: bool  # no blend was fitted, without any fold: the ranks of `score` are honest as they are


def fit_pipeline(
    data: CalibrationData, settings: SelectionSettings | None = None, fold: np.ndarray | None = None
) -> FittedPipeline:
    """Choose, fit, and do both again without each fold. `fold`: of each film, patients whole; none: made here."""
    settings = settings or SelectionSettings()
    bootstrap = PatientBootstrap(data.patients, resamples=settings.resamples, seed=settings.seed)
    if fold is None:
        fold = patient_folds(data.patients, data.truth, settings.folds, settings.seed)
    everything = np.ones(len(fold), dtype=bool)
    choice = choose(data, everything, bootstrap, settings)
    blend, calibrated = _fit(data, choice.blend, choice.calibration, everything)
    score = data.score(blend)
    out_of_fold = np.empty((len(fold), settings.folds))
    used = {choice.blend}
    for one in range(settings.folds):
        others = fold != one
        chosen = choose(data, others, bootstrap, settings)
        fold_blend, fold_calibration = _fit(data, chosen.blend, chosen.calibration, others)
        out_of_fold[:, one] = fold_calibration.apply(data.score(fold_blend))
        used.add(chosen.blend)
    return FittedPipeline(
        choice=choice,
        blend=blend,
        calibration=calibrated,
        score=score,
        probability=calibrated.apply(score),
        fold=fold,
        out_of_fold=out_of_fold,
        fixed=used <= {blending.MEAN_OF_LOGITS, blending.MEAN_OF_PROBABILITIES} and len(used) == 1,
    )


def choose(data: CalibrationData, rows: np.ndarray, bootstrap: PatientBootstrap, settings: SelectionSettings) -> Choice:
    """Compare the blends, then the calibrations of the best blend, on the films of a mask alone."""
    power = patient_power(data.truth[rows], data.patients[rows])
    if power.underpowered:
        note = f"{power.positives} positive and {power.negatives} negative patients: the simplest blend and calibration"
        simplest = data.blends()[0]
        return Choice(blend=simplest, calibration=data.calibrations[0], blends=(), calibrations=(), note=note)
    first, others = data.calibrations[0], data.calibrations[1:]
    probabilities = {name: held_out(data, name, (first,), rows, settings)[first] for name in data.blends()}
    by_blend = compare(probabilities, data.truth, bootstrap, settings)
    best = next(row["candidate"] for row in by_blend if row["adopted"])
    known = {first: probabilities[best]} | held_out(data, best, others, rows, settings)
    by_calibration = compare(known, data.truth, bootstrap, settings)
    calibrated = next(row["candidate"] for row in by_calibration if row["adopted"])
    return Choice(blend=best, calibration=calibrated, blends=by_blend, calibrations=by_calibration)


def held_out(
    data: CalibrationData, blend: str, methods: Sequence[str], rows: np.ndarray, settings: SelectionSettings
) -> dict[str, np.ndarray]:
    """Per calibration: probabilities of the films of a mask, each from other patients of the mask; NaN elsewhere."""
    fold = np.full(len(rows), -1)
    fold[rows] = patient_folds(data.patients[rows], data.truth[rows], settings.folds, settings.seed + 1)
    found = {method: np.full(len(rows), np.nan) for method in methods}
    for one in range(settings.folds):
        here, others = fold == one, rows & (fold != one)
        if not here.any():
            continue
        known = others & ~np.isnan(data.truth)
        score = data.score(data.fit_blend(blend, known))
        for method in methods:
            found[method][here] = _calibration(data, score, known, method).apply(score[here])
    return found


def compare(
    probabilities: dict[str, np.ndarray], truth: np.ndarray, bootstrap: PatientBootstrap, settings: SelectionSettings
) -> list[dict]:
    """A row per candidate: log loss, AUC, gain in log loss over the first candidate with its interval, adopted or not.

    Films whose probability or truth is NaN play no part. Exactly one row is adopted.
    """
    losses = {name: row_loss(probability, truth) for name, probability in probabilities.items()}
    first = next(iter(losses))
    rows = []
    for name, loss in losses.items():
        gain = interval(bootstrap.mean_scores(losses[first] - loss), settings.level)
        known = ~np.isnan(loss)
        row = {"candidate": name, "log_loss": float(np.mean(loss[known])), "gain": gain.value}
        row |= {"low": gain.low, "high": gain.high, "level": settings.level}
        rows.append(row | {"auc": metrics.auc(probabilities[name][known], truth[known]), "adopted": False})
    better = [row for row in rows[1:] if row["low"] > ROUNDING]
    max(better, key=lambda row: row["gain"], default=rows[0])["adopted"] = True
    return rows


def row_loss(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The log loss of each film, NaN where the truth or the probability is unknown."""
    floor = metrics.PROBABILITY_FLOOR
    clipped = np.clip(probability, floor, 1 - floor)
    return -(truth * np.log(clipped) + (1 - truth) * np.log1p(-clipped))


def patient_power(truth: np.ndarray, patients: np.ndarray):
    """`judge_sample_size` with cases counted in patients, as films of one patient are no independent cases."""
    return judge_sample_size(len(np.unique(patients[truth > 0])), len(np.unique(patients[truth < 1])))


def _fit(data: CalibrationData, blend: str, method: str, rows: np.ndarray) -> tuple[Blend, Calibration]:
    """The procedure that is judged and used: the blend, then the calibration on its scores of the same films.

    A fitted blend is a little too sure of itself on its own films. The cross-validation charges it for that, which is
    on the side of the simple blending.
    """
    known = rows & ~np.isnan(data.truth)
    fitted = data.fit_blend(blend, known)
    return fitted, _calibration(data, data.score(fitted), known, method)


def _calibration(data: CalibrationData, score: np.ndarray, known: np.ndarray, method: str) -> Calibration:
    return calibration.fit(score[known], data.truth[known], data.patients[known], method)


def choice_table(entries: Mapping[str, Mapping], stage: str) -> tuple[list[str], list[list[str]]]:
    """(titles, rows of text) of all candidates of a stage, "blend" or "calibration", from the entries of a bundle.

    In a cell the gain in log loss over the first candidate, in thousandths, with its interval; * where adopted.
    """
    compared = {slug: entry["choices"][stage] for slug, entry in entries.items() if entry.get("choices")}
    names = list(dict.fromkeys(row["candidate"] for rows in compared.values() for row in rows))
    if not names:
        return [], []
    rows = []
    for slug, candidates in compared.items():
        found = {row["candidate"]: row for row in candidates}
        if not found:
            rows.append([slug, entries[slug]["choices"]["note"], *[""] * (len(names) - 1)])
            continue
        first, *others = [found.get(name) for name in names]
        cells = [f"log loss {first['log_loss']:.4f}{_mark(first)}" if first else ""]
        rows.append([slug, *cells, *["" if row is None else _gain(row) for row in others]])
    return [f"{stage}: gain x 1000", *names], rows


def comparisons_text(entries: Mapping[str, Mapping]) -> str:
    """Both tables of candidates, as a bundle keeps them beside its description."""
    told = []
    for stage in ("blend", "calibration"):
        columns, rows = choice_table(entries, stage)
        if len(columns) > 2:
            told.append(f"Every {stage} that was compared; * is the one taken\n{aligned(columns, rows)}\n")
    return "\n".join(told) or "Nothing was compared: there are too few patients of a class, or one candidate each.\n"


def _gain(row: Mapping) -> str:
    if row["gain"] is None or row["low"] is None:
        return "-"
    return f"{1e3 * row['gain']:+.1f} ({1e3 * row['low']:+.1f} to {1e3 * row['high']:+.1f}){_mark(row)}"


def _mark(row: Mapping) -> str:
    return "*" if row["adopted"] else " "
