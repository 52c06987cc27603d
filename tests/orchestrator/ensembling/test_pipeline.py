"""orchestrator/ensembling/pipeline.py: the simplest blend and calibration stand unless another is shown to be
better.
"""

import dataclasses

import numpy as np
import pytest

from models.statistics import blending
from models.statistics.bootstrap import PatientBootstrap, patient_folds
from models.statistics.metrics import auc, sigmoid
from orchestrator.ensembling.pipeline import (
    CalibrationData,
    SelectionSettings,
    choice_table,
    choose,
    compare,
    fit_pipeline,
)

QUICK = SelectionSettings(folds=4, resamples=1000)


def make(films=400, noise=(2.0, 2.0), seed=0, others=0):
    """Two films a patient; members are 2 x truth + noise; `others`: columns of other findings, telling nothing."""
    draws = np.random.default_rng(seed)
    patients = np.arange(films) // 2
    truth = (draws.random(films // 2) < 0.4).astype(float)[patients]
    columns = np.column_stack([2 * truth + one * draws.normal(size=films) for one in noise])
    findings = np.column_stack([columns.mean(axis=1), draws.normal(size=(films, others))])
    inputs = tuple(["own", *[f"other{index}" for index in range(others)]]) if others else ()
    return CalibrationData(columns=columns, truth=truth, patients=patients, findings=findings, inputs=inputs)


def chosen(question, settings=QUICK):
    bootstrap = PatientBootstrap(question.patients, resamples=settings.resamples)
    return choose(question, np.ones(len(question.truth), bool), bootstrap, settings)


def test_like_members_keep_the_simplest_and_everything_tried_is_on_record():
    choice = chosen(make(others=3))
    assert (choice.blend, choice.calibration) == (blending.MEAN_OF_LOGITS, "platt")
    assert [row["candidate"] for row in choice.blends] == list(blending.METHODS)
    assert [row["candidate"] for row in choice.calibrations] == ["platt", "temperature", "beta", "isotonic"]
    for rows in (choice.blends, choice.calibrations):
        assert sum(row["adopted"] for row in rows) == 1
        assert all(row["low"] <= row["gain"] <= row["high"] for row in rows)
        assert rows[0]["gain"] == 0


def test_a_stacker_trained_on_noise_is_not_adopted():
    """Labels drawn by chance: neither the own nor any other finding tells anything."""
    for seed in range(6):
        question = make(seed=seed, others=11)
        noise = (np.random.default_rng(seed + 50).random(200) < 0.4).astype(float)[question.patients]
        choice = chosen(dataclasses.replace(question, truth=noise))
        assert choice.blend != blending.STACKING
        stacking = next(row for row in choice.blends if row["candidate"] == blending.STACKING)
        assert stacking["gain"] < 0


def test_stacking_is_adopted_where_another_finding_knows_more():
    question = make(others=2, noise=(4.0,))
    findings = question.findings.copy()
    findings[:, 2] += 4 * question.truth
    choice = chosen(dataclasses.replace(question, findings=findings))
    assert choice.blend == blending.STACKING
    adopted = next(row for row in choice.blends if row["adopted"])
    assert adopted["low"] > 0
    assert adopted["auc"] > choice.blends[0]["auc"] + 0.05


def test_greedy_is_adopted_with_one_good_and_nine_random_members_and_picks_the_good_one():
    question = make(noise=(1.5,))
    random = np.random.default_rng(7).normal(size=(400, 9)) * 3
    fitted = fit_pipeline(dataclasses.replace(question, columns=np.column_stack([random, question.columns])), QUICK)
    assert fitted.choice.blend == blending.GREEDY
    assert np.argmax(fitted.blend.weights) == 9
    assert fitted.blend.weights[9] > 0.5
    assert not fitted.fixed


def test_another_calibration_is_adopted_where_platt_cannot_bend():
    draws = np.random.default_rng(3)
    score = draws.uniform(-3, 3, 3000)
    truth = (draws.random(3000) < np.where(score > 0, 0.75, 0.1)).astype(float)
    choice = chosen(CalibrationData.of_score(score, truth, np.arange(3000)))
    assert choice.blends[0]["adopted"]  # one score: nothing to blend
    assert choice.calibration == "isotonic"


def test_a_shift_by_balanced_sampling_is_not_left_to_a_temperature():
    question = make()
    rows = {
        row["candidate"]: row
        for row in chosen(dataclasses.replace(question, columns=question.columns + 2)).calibrations
    }
    assert rows["temperature"]["high"] < 0
    assert rows["platt"]["adopted"]


def test_too_few_patients_fall_back_to_the_simplest_and_say_so():
    question = make()
    few = np.where(question.patients < 190, 0.0, 1.0)
    choice = chosen(dataclasses.replace(question, truth=few))
    assert (choice.blend, choice.calibration) == (blending.MEAN_OF_LOGITS, "platt")
    assert "10 positive and 190 negative patients" in choice.note


def test_a_held_out_fold_learns_nothing_from_its_own_truth():
    """Turn the truth of one fold round: what the procedure without that fold says must not move."""
    question = make(others=3, noise=(2.0, 6.0, 2.0))
    fold = patient_folds(question.patients, question.truth, QUICK.folds)
    turned = np.where(fold == 1, 1 - question.truth, question.truth)
    one = fit_pipeline(question, QUICK, fold)
    other = fit_pipeline(dataclasses.replace(question, truth=turned), QUICK, fold)
    np.testing.assert_array_equal(one.out_of_fold[:, 1], other.out_of_fold[:, 1])
    assert np.abs(one.out_of_fold[:, 0] - other.out_of_fold[:, 0]).max() > 0.01


def test_patients_stay_whole_and_unknown_films_get_an_answer_but_teach_nothing():
    question = make()
    unknown = np.arange(400) % 5 == 0
    gaps = dataclasses.replace(question, truth=np.where(unknown, np.nan, question.truth))
    fitted = fit_pipeline(gaps, QUICK)
    for patient in np.unique(gaps.patients):
        assert len(set(fitted.fold[gaps.patients == patient])) == 1
    assert np.isfinite(fitted.out_of_fold).all()
    known = dataclasses.replace(gaps, **{
        name: getattr(gaps, name)[~unknown] for name in ("columns", "truth", "patients", "findings")
    })  # fmt: skip
    assert fit_pipeline(known, QUICK).calibration == fitted.calibration


def test_the_order_of_the_films_is_free():
    question = make(others=2)
    order = np.random.default_rng(0).permutation(400)
    other = dataclasses.replace(question, **{
        name: getattr(question, name)[order] for name in ("columns", "truth", "patients", "findings")
    })  # fmt: skip
    one, other = fit_pipeline(question, QUICK), fit_pipeline(other, QUICK)
    np.testing.assert_allclose(one.probability[order], other.probability, atol=1e-9)
    np.testing.assert_allclose(one.out_of_fold[order], other.out_of_fold, atol=1e-9)


def test_held_out_probabilities_are_honest_about_noise():
    """A constant and an inverted score: no layer claims to know."""
    truth = make().truth
    for score in (np.zeros(400), -2 * truth + np.random.default_rng(1).normal(size=400)):
        fitted = fit_pipeline(CalibrationData.of_score(score, truth, np.arange(400) // 2), QUICK)
        held_out = fitted.out_of_fold[np.arange(400), fitted.fold]
        assert np.abs(held_out - truth.mean()).max() < 0.1
    assert auc(held_out, truth) < 0.5


def test_compare_by_hand_and_a_candidate_that_is_the_same_is_not_better():
    truth = np.array([1.0, 0.0, 1.0, 0.0, np.nan] * 20)
    bootstrap = PatientBootstrap(np.arange(100), resamples=200)
    better = np.where(truth == 1, 0.8, 0.2)
    rows = compare({"coin": np.full(100, 0.5), "same": np.full(100, 0.5), "knows": better}, truth, bootstrap, QUICK)
    assert [row["adopted"] for row in rows] == [False, False, True]
    assert rows[2]["log_loss"] == pytest.approx(-np.log(0.8))
    assert rows[2]["gain"] == pytest.approx(np.log(2) + np.log(0.8))
    assert compare({"coin": better, "same": better}, truth, bootstrap, QUICK)[0]["adopted"]


def test_the_table_marks_what_was_taken():
    choice = chosen(make(others=2))
    entries = {
        "edema": {"choices": {"blend": list(choice.blends), "calibration": list(choice.calibrations), "note": ""}},
        "fracture": {"choices": {"blend": [], "calibration": [], "note": "3 positive patients"}},
    }
    titles, rows = choice_table(entries, "blend")
    assert titles[1:] == list(blending.METHODS)
    assert rows[0][1].startswith("log loss 0.")
    assert rows[0][1].endswith("*")
    assert rows[1][1] == "3 positive patients"
    assert {len(row) for row in rows} == {len(titles)}
    assert choice_table({"edema": {}}, "blend") == ([], [])


def test_fewer_choices_can_be_offered():
    question = dataclasses.replace(make(), offered=(blending.MEAN_OF_RANKS,), calibrations=("beta",))
    fitted = fit_pipeline(question, QUICK)
    assert (fitted.blend.method, fitted.calibration.method) == (blending.MEAN_OF_RANKS, "beta")
    assert abs(sigmoid(fitted.score).mean() - 0.5) < 0.02
