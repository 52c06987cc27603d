"""Everything that is fitted on part `calibrate` for a finding, as its entry in `bundle.json` tells it.

In: CalibrationData per finding (logits, truth, patients). Out: per finding the blend, the calibration with its
reliability before and after, the operating points with intervals, the conformal zone and the cross-validated figures,
plain data. Called by the ensembler, by `replace` and by `adapt`. Reads no file.

Where the logits are answers out of fold, what is fitted on single networks' answers is used on the mean of the folds'
networks, which is a little better and has less spread. What the networks shift and stretch by themselves is seen in the
folds and taken off before (`align_folds`). What is left: the slope of the mean is 1 / (r + (1 - r) / K) of what it
should be, r being how well two networks agree among films of a class: its probabilities are too careful. On nih-sample
(five findings, three folds of the data, small ResNets) two networks' logits correlated by .90 for K=5 and .86 for K=3,
and the slope was 1.08 and 1.14 times that of a single network. In a simulation (`test_fold_calibration.py`) that
costs .002 to .004 of log loss at an agreement of .91 to .84, the ECE stays below .03, and the conformal zones cover one
or two points more than they promise. It is left so: which films tell how well the networks agree? Only such as none
of them has learned from, and those are the test films. The error is on the careful side, and `adapt` undoes it, as
its films are asked of the mean. Cross-validated figures are those of single networks; the bundle is a little better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from models.statistics import conformal, metrics, reliability, thresholds
from models.statistics.bootstrap import PatientBootstrap, paired_difference, patient_folds, rate_interval
from orchestrator.ensembling.pipeline import (
    CalibrationData,
    FittedPipeline,
    SelectionSettings,
    fit_pipeline,
    patient_power,
)
from pathologies.errors import InputError
from pathologies.findings.catalog import descendants

RULES = ("f2", "youden", "sensitivity>=0.9", "precision>=0.5", "cost(5,1)")
DEFAULT_RULE = "f2"
SHOWN = ("sensitivity", "specificity", "precision")


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    rules: tuple[str, ...] = RULES  # of the operating points
    default_rule: str = DEFAULT_RULE
    coverage: float = conformal.COVERAGE
    resamples: int = 1000  # of the patients, for the 95 % intervals of figures
    selection: SelectionSettings = field(default_factory=SelectionSettings)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The final probabilities of one finding, and what the procedure says without each fold."""

    probability: np.ndarray  # films
    fold: np.ndarray  # films
    out_of_fold: np.ndarray  # films x folds
    truth: np.ndarray
    patients: np.ndarray
    ranking: np.ndarray | None  # a score whose ranks nothing was fitted for; None: the held-out probabilities

    @property
    def held_out(self) -> np.ndarray:
        """Every film's probability from the procedure that did not see its patient."""
        return self.out_of_fold[np.arange(len(self.fold)), self.fold]


def fit_finding(score, truth, patients, settings: FitSettings | None = None) -> dict:
    """One finding from one score per film (on the logit scale): the entry's fitted part.

    truth: 1, 0, NaN unknown. Keys: see `describe`.
    """
    return fit_findings({"finding": CalibrationData.of_score(score, truth, patients)}, settings=settings)["finding"]


def fit_findings(
    calibration_data: Mapping[str, CalibrationData],
    *,
    parents: Mapping[str, Sequence[str]] | None = None,
    wanted: Sequence[str] | None = None,
    settings: FitSettings | None = None,
    fixed: Mapping[str, np.ndarray] | None = None,
) -> dict[str, dict]:
    """The fitted parts of the entries of `wanted` (none: all), by slug.

    `parents` (slug -> its parents) asks for consistent probabilities: then points, zones and figures are those of the
    raised parents, whose films must be those of their children, in the same order. `fixed`: probabilities of these
    films for further findings, which are not fitted here and which parents are raised to like to any other.
    """
    settings = settings or FitSettings()
    wanted = list(calibration_data if wanted is None else wanted)
    known = _known_parents(parents or {}, [*calibration_data, *(fixed or {})])
    below = {slug: descendants(slug, known) if parents else [] for slug in wanted}
    needed = [
        slug for slug in calibration_data if slug in wanted or any(slug in children for children in below.values())
    ]
    folds = _common_folds(calibration_data, settings.selection) if parents else {}
    pipelines = {slug: fit_pipeline(calibration_data[slug], settings.selection, folds.get(slug)) for slug in needed}
    plain = {slug: _answers(calibration_data[slug], pipelines[slug]) for slug in needed}
    final = _raised(plain, parents, fixed or {}) if parents else plain
    entries = {}
    for slug in wanted:
        entries[slug] = _fitted(pipelines[slug]) | describe(final[slug], settings)
        entries[slug]["reliability"]["before"] = reliability_of(metrics.sigmoid(pipelines[slug].score), final[slug])
        if below[slug]:
            entries[slug]["consistency"] = _effect(plain[slug], final[slug], settings) | {"children": below[slug]}
    return entries


def describe(answers: Answers, settings: FitSettings) -> dict:
    """What holds of final probabilities: counts, operating points, conformal zone, reliability, figures, notes."""
    known = ~np.isnan(answers.truth)
    truth, patients = answers.truth[known], answers.patients[known]
    probability = answers.probability[known]
    bootstrap = PatientBootstrap(patients, resamples=settings.resamples)
    few = patient_power(truth, patients).note
    return {
        "operating_point": settings.default_rule,
        "operating_points": {rule: _point(answers, rule, bootstrap, probability, truth) for rule in settings.rules},
        "conformal": conformal_zone(answers, settings.coverage),
        "counts": {
            "films": len(truth),
            "positives": int((truth > 0).sum()),
            "negatives": int((truth < 1).sum()),
            "patients": len(np.unique(patients)),
            "positive_patients": bootstrap.patients_with(truth > 0),
            "negative_patients": bootstrap.patients_with(truth < 1),
        },
        "cross_validated": figures(answers, settings, bootstrap),
        "reliability": {"after": reliability_of(answers.held_out, answers)},
        "notes": [few] if few else [],
    }


def figures(answers: Answers, settings: FitSettings, bootstrap: PatientBootstrap | None = None) -> dict:
    """Figures on `calibrate`, each film judged by a procedure and a threshold that other patients gave.

    Where there is one class only there is nothing to validate: then just the counts and the reason.
    """
    known = ~np.isnan(answers.truth)
    truth, probability = answers.truth[known], answers.held_out[known]
    positives, negatives = int((truth > 0).sum()), int((truth < 1).sum())
    if min(positives, negatives) < 2:
        return {"reason": f"{positives} positives and {negatives} negatives in calibrate"}
    bootstrap = bootstrap or PatientBootstrap(answers.patients[known], resamples=settings.resamples)
    ranking = probability if answers.ranking is None else answers.ranking[known]
    trials = min(bootstrap.patients_with(truth > 0), bootstrap.patients_with(truth < 1))
    area = rate_interval(bootstrap.rank_scores(ranking, truth)["auc"], trials)
    call = cross_validated_calls(answers, settings.default_rule)[known]
    found = {name: value for name, value in reliability_of(answers.held_out, answers).items() if name != "bins"}
    found |= {"auc": area.value, "auc_low": area.low, "auc_high": area.high}
    found["average_precision"] = metrics.average_precision(ranking, truth)
    return found | thresholds.figures(metrics.confusion(call, truth))


def cross_validated_calls(answers: Answers, rule: str) -> np.ndarray:
    """Yes/no calls, each at the threshold chosen on the other folds' films under the procedure fitted there."""
    known = ~np.isnan(answers.truth)
    call = np.zeros(len(known), dtype=bool)
    for one in np.unique(answers.fold):
        here, others = answers.fold == one, known & (answers.fold != one)
        probability = answers.out_of_fold[:, one]
        point = thresholds.choose(probability[others], answers.truth[others], rule, patients=answers.patients[others])
        call[here] = probability[here] >= point.threshold
    return call


def conformal_zone(answers: Answers, coverage: float) -> dict:
    """The zone fitted on all films, and what zones fitted without a fold do to that fold."""
    known = ~np.isnan(answers.truth)
    said = np.zeros(len(known), dtype=np.int8)
    for one in np.unique(answers.fold):
        here, others = answers.fold == one, known & (answers.fold != one)
        probability = answers.out_of_fold[:, one]
        zone = conformal.fit(probability[others], answers.truth[others], answers.patients[others], coverage)
        said[here] = conformal.answer(probability[here], zone)
    # A ranking that was fitted on these very films is too good on them: then the held-out probabilities are asked.
    probability = answers.probability if answers.ranking is not None else answers.held_out
    zone = conformal.fit(probability, answers.truth, answers.patients, coverage)
    return zone | {"cross_validated": conformal.coverages(said, answers.truth)}


def reliability_of(probability: np.ndarray, answers: Answers) -> dict:
    """How far probabilities mean what they say: errors, calibration line, and the points of the curve."""
    known = ~np.isnan(answers.truth)
    probability, truth = probability[known], answers.truth[known]
    slope, intercept = reliability.calibration_line(reliability.log_odds(probability), truth)
    points = reliability.reliability_bins(probability, truth)
    return {
        "ece": reliability.ece(probability, truth),
        "ece_chance": reliability.ece_chance(probability, truth),
        "brier": metrics.brier(probability, truth),
        "log_loss": metrics.log_loss(probability, truth),
        "slope": slope,
        "intercept": intercept,
        "bins": {name: getattr(points, name).tolist() for name in ("mass", "probability", "observed")},
    }


def _answers(data: CalibrationData, fitted: FittedPipeline) -> Answers:
    return Answers(
        probability=fitted.probability,
        fold=fitted.fold,
        out_of_fold=fitted.out_of_fold,
        truth=data.truth,
        patients=data.patients,
        ranking=fitted.score if fitted.fixed else None,
    )


def _fitted(fitted: FittedPipeline) -> dict:
    choice = fitted.choice
    return {
        "combine": fitted.blend.method,
        "blend": fitted.blend.to_dict(),
        "calibration": fitted.calibration.to_dict(),
        "choices": {"blend": list(choice.blends), "calibration": list(choice.calibrations), "note": choice.note},
    }


def _point(answers: Answers, rule: str, bootstrap: PatientBootstrap, probability, truth) -> dict:
    """The point chosen on all films, with its cross-validated figures and their 95 % intervals."""
    known = ~np.isnan(answers.truth)
    if answers.ranking is None and thresholds.parse_rule(rule)[0] in thresholds.PROMISED:
        probability = answers.held_out[known]  # a promise is not made on a ranking that was fitted on these very films
    point = thresholds.choose(probability, truth, rule, patients=answers.patients[known])
    if metrics.undefined_reason(truth):
        return point.to_dict() | {"cross_validated": {}}
    call = cross_validated_calls(answers, rule)[known]
    resampled = bootstrap.call_scores(call, truth)
    trials = {"sensitivity": truth > 0, "specificity": truth < 1, "precision": call}
    found = {name: rate_interval(resampled[name], bootstrap.patients_with(trials[name])) for name in SHOWN}
    return point.to_dict() | {"cross_validated": {name: one.bounds for name, one in found.items()}}


def _raised(
    plain: Mapping[str, Answers], parents: Mapping[str, Sequence[str]], fixed: Mapping[str, np.ndarray]
) -> dict[str, Answers]:
    """The answers with every parent raised to its likeliest descendant, without each fold too."""
    final = dict(plain)
    for slug in plain:
        below = descendants(slug, _known_parents(parents, [*plain, *fixed]))
        group = [slug, *[one for one in below if one in plain]]
        floors = [fixed[one] for one in below if one in fixed]
        if not below:
            continue
        others = [one for one in group if not np.array_equal(plain[one].patients, plain[slug].patients)]
        if others:
            raise InputError(
                f"{slug} cannot be made consistent with {', '.join(others)}: their networks take other films. "
                "Train them on the same views, all with folds or all without, or leave consistency out."
            )
        final[slug] = replace(
            plain[slug],
            probability=np.max([*[plain[one].probability for one in group], *floors], axis=0),
            out_of_fold=np.max(
                [*[plain[one].out_of_fold for one in group], *[_each_fold(plain[slug], one) for one in floors]], 0
            ),
            ranking=None,
        )
    return final


def _each_fold(answers: Answers, probability: np.ndarray) -> np.ndarray:
    """What no fold has a share in, the same without each."""
    return np.broadcast_to(probability[:, None], answers.out_of_fold.shape)


def _known_parents(parents: Mapping[str, Sequence[str]], slugs) -> dict[str, Sequence[str]]:
    return {slug: parents.get(slug, ()) for slug in slugs}


def _common_folds(
    calibration_data: Mapping[str, CalibrationData], settings: SelectionSettings
) -> dict[str, np.ndarray]:
    """Folds that a patient keeps from finding to finding: what one procedure has seen, no other may give away."""
    ill = np.concatenate([data.patients[data.truth > 0] for data in calibration_data.values()])
    found = {}
    for slug, data in calibration_data.items():
        any_positive = np.isin(data.patients, ill).astype(np.float64)
        found[slug] = patient_folds(data.patients, any_positive, settings.folds, settings.seed)
    return found


def _effect(before: Answers, after: Answers, settings: FitSettings) -> dict:
    """Every figure of a parent without and with the raising, and the paired difference of the AUC."""
    found = {"before": figures(before, settings), "after": figures(after, settings)}
    known = ~np.isnan(before.truth)
    bootstrap = PatientBootstrap(before.patients[known], resamples=settings.resamples)
    gap = paired_difference(bootstrap, after.held_out[known], before.held_out[known], before.truth[known])
    return found | {"auc_gain": gap.bounds}
