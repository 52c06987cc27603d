"""models/statistics/conformal.py: the third answer and its coverage."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.statistics import calibration, conformal
from models.statistics.metrics import sigmoid


def films(patients, generator, share=0.3, strength=2.0):
    """Probabilities, truth and patient names; 1 to 6 films of a patient that resemble each other strongly."""
    count = generator.integers(1, 7, patients)
    name = np.repeat(np.arange(patients), count)
    truth = (generator.random(patients) < share).astype(float)[name]
    own = generator.normal(size=patients)[name]
    score = strength * (truth - 0.5) + own + 0.3 * generator.normal(size=len(name))
    return sigmoid(score), truth, name


def test_the_bounds_by_hand():
    """9 patients with one film each: 9 / 10 reaches 0.9 with the last one only, so the most typical bound is the worst
    film; with 19, (19 + 1) x 0.9 = 18 films must be covered and one may lie outside."""
    nine = np.arange(1, 10) / 10
    zone = conformal.fit(np.concatenate([nine, nine]), np.repeat([1.0, 0.0], 9), np.arange(18), 0.9)
    assert (zone["low"], zone["high"], zone["reason"]) == (0.1, 0.9, "")
    nineteen = np.arange(1, 20) / 20
    zone = conformal.fit(np.concatenate([nineteen, nineteen]), np.repeat([1.0, 0.0], 19), np.arange(38), 0.9)
    assert (zone["low"], zone["high"]) == (0.1, 0.9)  # 0.05 and 0.95 lie outside
    np.testing.assert_array_equal(conformal.answer([0.05, 0.1, 0.5, 0.9, 0.95], zone), [0, -1, -1, -1, 1])


def test_a_patient_with_many_films_counts_once():
    probability = np.concatenate([np.full(100, 0.01), np.linspace(0.5, 0.9, 19), np.full(30, 0.95)])
    truth = np.repeat([1.0, 0.0], [119, 30])
    patients = np.concatenate([np.zeros(100), np.arange(1, 20), np.arange(100, 130)]).astype(int)
    assert conformal.fit(probability, truth, patients, 0.9)["low"] == 0.5
    assert conformal.fit(probability, truth, np.arange(149), 0.9)["low"] == 0.01


def test_the_coverage_holds_for_films_of_new_patients_with_clustered_films():
    """Mean over repetitions, a film drawn from each new patient; the standard error is below 0.005."""
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(150):
        zone = conformal.fit(*films(120, generator), 0.9)
        probability, truth, name = films(400, generator)
        one = np.unique(name, return_index=True)[1]
        found = conformal.coverages(conformal.answer(probability[one], zone), truth[one])
        covered.append([found["positives_covered"], found["negatives_covered"]])
    positives, negatives = np.mean(covered, axis=0)
    assert 0.89 < positives < 0.95
    assert 0.89 < negatives < 0.93


def test_a_strictly_increasing_calibration_moves_no_answer():
    probability, truth, name = films(200, np.random.default_rng(1))
    bent = probability**3 / 2
    one, other = (conformal.fit(each, truth, name, 0.9) for each in (probability, bent))
    np.testing.assert_array_equal(conformal.answer(probability, one), conformal.answer(bent, other))


@pytest.mark.parametrize(("strength", "patients"), [(0.5, 60), (1.5, 400)])
def test_plateaus_fitted_on_the_same_films_cost_no_coverage(strength, patients):
    """The bound on isotonic probabilities is the calibration's value at the bound on the scores, so new patients' films
    are covered at least as often; measured on one film each of 3,000 new patients, 60 times over."""
    generator = np.random.default_rng(0)
    probability, truth, name = films(3000, generator, strength=strength)
    one = np.unique(name, return_index=True)[1]
    covered = []
    for _ in range(60):
        score, label, patient = films(patients, generator, strength=strength)
        fitted = calibration.fit(score, label, patient, "isotonic")
        assert fitted.knots is not None
        zone, plain = (conformal.fit(each, label, patient, 0.9) for each in (fitted.apply(score), score))
        if plain["low"] < plain["high"]:  # else a cut through the gap, midway on either scale
            assert (zone["low"], zone["high"]) == tuple(fitted.apply([plain["low"], plain["high"]]))
        answer, unbent = (
            conformal.answer(fitted.apply(probability[one]), zone),
            conformal.answer(probability[one], plain),
        )
        assert not ((answer == 0) & (unbent != 0)).any()
        assert not ((answer == 1) & (unbent != 1)).any()
        found = conformal.coverages(answer, truth[one])
        covered.append([found["positives_covered"], found["negatives_covered"]])
    assert np.mean(covered, axis=0).min() > 0.9


def test_constant_perfect_and_inverted_predictors():
    truth, patients = np.repeat([1.0, 0.0], 50), np.arange(100)
    constant = conformal.answer(np.full(100, 0.3), conformal.fit(np.full(100, 0.3), truth, patients, 0.9))
    assert (constant == -1).all()
    perfect = np.where(truth == 1, 0.9, 0.1) + np.arange(100) / 1e4
    zone = conformal.fit(perfect, truth, patients, 0.9)
    assert zone["low"] == zone["high"]
    np.testing.assert_array_equal(conformal.answer(perfect, zone), truth)
    inverted = conformal.answer(1 - perfect, conformal.fit(1 - perfect, truth, patients, 0.9))
    assert (inverted == -1).mean() > 0.7  # it does not know, and does not claim to


def test_too_few_patients_never_exclude_a_class():
    probability, truth = np.concatenate([np.full(8, 0.9), np.full(40, 0.1)]), np.repeat([1.0, 0.0], [8, 40])
    zone = conformal.fit(probability, truth, np.arange(48), 0.9)
    assert zone["low"] == 0
    assert "8 positive patients are too few" in zone["reason"]
    assert set(conformal.answer([0.0, 0.001, 0.95], zone)) == {-1, 1}
    empty = conformal.fit([], [], [], 0.9)
    assert (empty["low"], empty["high"]) == (0, 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.8, 0.95]))
def test_order_and_unknown_rows_play_no_part_and_more_coverage_is_more_uncertain(seed, coverage):
    generator = np.random.default_rng(seed)
    probability, truth, name = films(60, generator)
    zone = conformal.fit(probability, truth, name, coverage)
    order = generator.permutation(len(truth))
    extra = [np.append(one[order], last) for one, last in ((probability, 0.5), (truth, np.nan), (name, 999))]
    assert conformal.fit(*extra, coverage) == pytest.approx(zone)
    assert json.loads(json.dumps(zone)) == zone
    wider = conformal.fit(probability, truth, name, (1 + coverage) / 2)
    sure = conformal.answer(probability, zone) == -1
    assert (conformal.answer(probability, wider) == -1)[sure].all() or zone["low"] == zone["high"]


def test_coverages_by_hand_and_a_wrong_coverage():
    found = conformal.coverages([1, 0, -1, 0, 1, -1], [1, 1, 0, 0, 0, np.nan])
    assert found == pytest.approx({"positives_covered": 0.5, "negatives_covered": 2 / 3, "uncertain": 0.2})
    with pytest.raises(ValueError, match=r"The coverage is 90. Allowed: between 0 and 1"):
        conformal.fit([0.5], [1.0], [0], 90)
