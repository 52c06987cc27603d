"""orchestrator/ensembling/calibration_fit.py: everything that is fitted on `calibrate` for a finding."""

import dataclasses
import json

import numpy as np
import pytest

from models.files.layout import to_plain
from models.statistics import conformal, thresholds
from models.statistics.calibration import Calibration
from models.statistics.conformal import answer
from models.statistics.metrics import auc
from orchestrator.ensembling.calibration_fit import (
    RULES,
    Answers,
    FitSettings,
    conformal_zone,
    fit_finding,
    fit_findings,
)
from orchestrator.ensembling.pipeline import CalibrationData, SelectionSettings, fit_pipeline
from tests.orchestrator.ensembling.test_pipeline import make

QUICK = FitSettings(resamples=300, selection=SelectionSettings(folds=4, resamples=500))


@pytest.fixture(scope="module")
def question():
    return make(films=800, noise=(1.5, 1.5))


@pytest.fixture(scope="module")
def entry(question):
    return fit_findings({"edema": question}, settings=QUICK)["edema"]


def test_the_entry_is_plain_and_keeps_the_keys_that_readers_use(entry):
    again = json.loads(json.dumps(to_plain(entry)))
    wanted = {
        "combine",
        "blend",
        "calibration",
        "choices",
        "operating_point",
        "operating_points",
        "conformal",
        "counts",
    }
    assert wanted | {"cross_validated", "reliability", "notes"} == set(again)
    assert again["combine"] == again["blend"]["method"]
    assert set(again["operating_points"]) == set(RULES)
    assert again["operating_point"] == "f2"
    assert again["counts"]["films"] == 800
    assert again["counts"]["positive_patients"] + again["counts"]["negative_patients"] == again["counts"]["patients"]
    names = (
        "auc",
        "auc_low",
        "auc_high",
        "average_precision",
        "brier",
        "ece",
        "ece_chance",
        "slope",
        "f2",
        "precision",
    )
    assert all(isinstance(again["cross_validated"][name], float) for name in names)


def test_calibration_leaves_the_auc_as_it_was(question, entry):
    score = question.columns.mean(axis=1)
    probability = Calibration.from_dict(entry["calibration"]).apply(score)
    assert auc(probability, question.truth) == auc(score, question.truth) == entry["cross_validated"]["auc"]
    assert entry["cross_validated"]["auc_low"] < entry["cross_validated"]["auc"] < entry["cross_validated"]["auc_high"]


def test_a_balanced_sampler_is_corrected_before_and_after_are_stored(question):
    shifted = fit_finding(question.columns.mean(axis=1) + 2.5, question.truth, question.patients, QUICK)
    before, after = shifted["reliability"]["before"], shifted["reliability"]["after"]
    assert before["ece"] > 0.15
    assert after["ece"] < 0.05
    assert before["brier"] > after["brier"]
    assert 0.8 < after["slope"] < 1.25
    assert after["ece_chance"] > 0
    assert sum(after["bins"]["mass"]) == 800


def test_points_come_with_intervals_of_what_other_patients_show(question, entry):
    for rule, point in entry["operating_points"].items():
        assert point["rule"] == rule
        for name, figure in point["cross_validated"].items():
            assert figure["low"] <= figure["value"] <= figure["high"], (rule, name)
    reached = entry["operating_points"]["sensitivity>=0.9"]
    assert reached["sensitivity"] > reached["lower_bound"] >= 0.9
    assert reached["promise"] == thresholds.PROMISE
    assert "promise" not in entry["operating_points"]["f2"]
    score, truth = question.columns.mean(axis=1), question.truth
    by_score = thresholds.choose(score, truth, "sensitivity>=0.9", patients=question.patients)
    assert (by_score.sensitivity, by_score.specificity) == (reached["sensitivity"], reached["specificity"])
    as_if_each_film_were_a_patient = thresholds.choose(score, truth, "sensitivity>=0.9")
    assert as_if_each_film_were_a_patient.specificity >= by_score.specificity
    costly = entry["operating_points"]["cost(5,1)"]["threshold"]
    assert costly < entry["operating_points"]["youden"]["threshold"]
    same = thresholds.cross_validated_figures(question.columns.mean(axis=1), question.truth, question.patients, folds=4)
    for name, value in same.items():  # one fixed threshold on the score, or one on each fold's probabilities: alike
        assert entry["cross_validated"][name] == pytest.approx(value, abs=0.03)


def test_the_conformal_zone_covers_both_classes(question, entry):
    zone = entry["conformal"]
    assert zone["coverage"] == 0.9
    checked = zone["cross_validated"]
    assert checked["positives_covered"] > 0.86
    assert checked["negatives_covered"] > 0.86
    assert 0 < checked["uncertain"] < 0.8
    assert set(answer([0.0, (zone["low"] + zone["high"]) / 2, 1.0], zone)) == {0, -1, 1}


def test_the_zone_of_a_fitted_blend_comes_from_films_that_it_was_not_fitted_on(question):
    """Greedy selection among many random members ranks its own films too well."""
    random = np.random.default_rng(3).normal(size=(800, 12))
    fitted = fit_pipeline(dataclasses.replace(question, columns=random, offered=("greedy selection",)), QUICK.selection)
    held_out = fitted.out_of_fold[np.arange(800), fitted.fold]
    assert auc(fitted.probability, question.truth) > auc(held_out, question.truth) + 0.02
    answers = Answers(
        probability=fitted.probability, fold=fitted.fold, out_of_fold=fitted.out_of_fold, truth=question.truth,
        patients=question.patients, ranking=fitted.score if fitted.fixed else None,
    )  # fmt: skip
    zone = conformal_zone(answers, 0.9)
    honest = conformal.fit(held_out, question.truth, question.patients, 0.9)
    assert (zone["low"], zone["high"]) == (honest["low"], honest["high"])


def test_noise_is_called_useless_and_one_class_is_no_crash(question):
    noise = fit_finding(np.random.default_rng(5).normal(size=800), question.truth, question.patients, QUICK)
    assert abs(noise["cross_validated"]["auc"] - 0.5) < 0.06
    assert noise["conformal"]["cross_validated"]["uncertain"] > 0.7
    constant = fit_finding(np.zeros(800), question.truth, question.patients, QUICK)
    assert not constant["operating_points"]["f2"]["useful"]
    for truth in (np.zeros(800), np.full(800, np.nan)):
        empty = fit_finding(question.columns[:, 0], truth, question.patients, QUICK)
        assert "positives" in empty["cross_validated"]["reason"]
        assert not empty["operating_points"]["f2"]["useful"]
        assert empty["notes"][0].startswith("underpowered")
        json.dumps(to_plain(empty), allow_nan=False)


def family(seed=0):
    """A parent whose network is weak and a child that is known well; whoever has the child has the parent."""
    child = make(films=600, noise=(1.0,), seed=seed)
    draws = np.random.default_rng(seed + 1)
    truth = np.maximum(child.truth, (draws.random(300) < 0.2).astype(float)[child.patients])
    weak = (truth + 2 * draws.normal(size=600))[:, None]
    return {"opacity": dataclasses.replace(child, columns=weak, truth=truth), "edema": child}


PARENTS = {"opacity": [], "edema": ["opacity"]}


def test_consistency_is_measured_and_touches_parents_alone():
    plain = fit_findings(family(), settings=QUICK)
    raised = fit_findings(family(), parents=PARENTS, settings=QUICK)
    effect = raised["opacity"]["consistency"]
    assert effect["children"] == ["edema"]
    assert effect["auc_gain"]["low"] > 0  # here the child knows better
    assert effect["after"]["auc"] == raised["opacity"]["cross_validated"]["auc"] > effect["before"]["auc"] + 0.02
    assert effect["before"]["auc"] == pytest.approx(plain["opacity"]["cross_validated"]["auc"], abs=1e-9)
    assert "consistency" not in raised["edema"]
    for name in ("calibration", "blend"):
        assert raised["edema"][name] == plain["edema"][name]
    assert raised["opacity"]["calibration"] == plain["opacity"]["calibration"]
    assert (
        raised["opacity"]["operating_points"]["f2"]["threshold"]
        != plain["opacity"]["operating_points"]["f2"]["threshold"]
    )


def test_only_wanted_findings_are_described_as_if_all_were():
    everything = fit_findings(family(), parents=PARENTS, settings=QUICK)
    only = fit_findings(family(), parents=PARENTS, wanted=["opacity"], settings=QUICK)
    assert list(only) == ["opacity"]
    assert to_plain(only["opacity"]) == to_plain(everything["opacity"])


def test_a_parent_heeds_a_child_that_is_not_fitted_with_it():
    both = family()
    child = np.clip(both["edema"].truth * 0.7 + 0.1, 0, 1)
    alone = {"opacity": both["opacity"]}
    entry = fit_findings(alone, parents=PARENTS, settings=QUICK, fixed={"edema": child})["opacity"]
    plain = fit_findings(alone, settings=QUICK)["opacity"]
    assert entry["consistency"]["children"] == ["edema"]
    assert entry["cross_validated"]["auc"] > plain["cross_validated"]["auc"] + 0.02
    own = Calibration.from_dict(entry["calibration"]).apply(both["opacity"].columns[:, 0])
    point, truth = entry["operating_points"]["f2"], both["opacity"].truth
    called = np.maximum(own, child) >= point["threshold"]
    assert called[truth == 1].mean() == pytest.approx(point["sensitivity"])
    assert (~called[truth == 0]).mean() == pytest.approx(point["specificity"])


def test_a_parent_on_other_films_cannot_be_made_consistent():
    both = family()
    part = {name: getattr(both["edema"], name)[:400] for name in ("columns", "truth", "patients", "findings")}
    both["edema"] = dataclasses.replace(both["edema"], **part)
    with pytest.raises(
        ValueError, match="opacity cannot be made consistent with edema: their networks take other films"
    ):
        fit_findings(both, parents=PARENTS, settings=QUICK)


def test_a_score_is_a_question_with_one_column(question):
    one = CalibrationData.of_score(question.columns[:, 0], question.truth, question.patients)
    assert one.blends() == ("mean of logits",)
    np.testing.assert_array_equal(
        one.score(one.fit_blend("mean of logits", np.ones(800, bool))), question.columns[:, 0]
    )
