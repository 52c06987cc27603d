"""Calibration error, its chance level, the reliability bins and the calibration line."""

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from models.statistics import reliability
from models.statistics.metrics import sigmoid


def calibrated(rows: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    logit = generator.normal(-1, 1.5, rows)
    return logit, (generator.random(rows) < sigmoid(logit)).astype(float)


def test_bins_equal_those_of_scikit_learn():
    logit, truth = calibrated(1000)
    points = reliability.reliability_bins(sigmoid(logit), truth)
    observed, probability = calibration_curve(truth, sigmoid(logit), n_bins=10, strategy="quantile")
    assert points.mass == pytest.approx(np.full(10, 100))
    assert points.observed == pytest.approx(observed, abs=1e-9)
    assert points.probability == pytest.approx(probability, abs=1e-9)


def test_ece_of_a_constant_is_its_distance_from_the_prevalence():
    truth = np.array([1.0] * 30 + [0.0] * 70)
    assert reliability.ece(np.full(100, 0.5), truth) == pytest.approx(0.2)
    assert reliability.ece(np.full(100, 0.3), truth) == pytest.approx(0.0)
    assert reliability.ece(np.zeros(100), truth) == pytest.approx(0.3)  # "never" is wrong by the prevalence
    assert math.isnan(reliability.ece([], []))


def test_a_value_lies_in_the_bin_of_the_middle_of_its_mass():
    """2, 7 and 1 rows: the middles of their masses are 1, 5.5 and 9.5 of 10."""
    probability = np.repeat([0.1, 0.5, 0.9], [2, 7, 1])
    assert reliability.bin_index(probability, np.ones(10), bins=2).tolist() == [0] * 2 + [1] * 8


def test_ece_ignores_the_order_of_the_rows_and_counts_weights():
    logit, truth = calibrated(300)
    probability, order = np.round(sigmoid(logit), 1), np.random.default_rng(1).permutation(300)
    assert reliability.ece(probability[order], truth[order]) == pytest.approx(reliability.ece(probability, truth))
    twice = reliability.ece(np.repeat(probability, 2), np.repeat(truth, 2))
    assert reliability.ece(probability, truth, np.full(300, 2.0)) == pytest.approx(twice)


def test_chance_level_is_what_calibrated_probabilities_show():
    errors = []
    for seed in range(60):
        logit, truth = calibrated(400, seed)
        errors.append(reliability.ece(sigmoid(logit), truth))
    chance = reliability.ece_chance(sigmoid(logit), truth)
    assert chance == pytest.approx(np.mean(errors), abs=0.005)
    assert chance == reliability.ece_chance(sigmoid(logit), truth)  # seeded
    assert reliability.ece(sigmoid(3 * logit), truth) > 2 * chance
    assert reliability.ece_chance(sigmoid(calibrated(40_000)[0]), np.zeros(40_000)) < 0.01
    assert math.isnan(reliability.ece_chance([], []))


def test_calibration_line_equals_scikit_learn_and_finds_the_truth():
    logit, truth = calibrated(3000)
    slope, intercept = reliability.calibration_line(2 * logit + 1, truth)
    fitted = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(2 * logit[:, None] + 1, truth)
    assert slope == pytest.approx(fitted.coef_[0, 0], abs=1e-6)
    assert intercept == pytest.approx(fitted.intercept_[0], abs=1e-6)
    assert slope == pytest.approx(0.5, abs=0.05)
    assert reliability.calibration_line(-logit, truth)[0] == pytest.approx(-1, abs=0.1)


@pytest.mark.parametrize(
    ("logit", "truth"), [([1, 2], [0, 0]), ([1, 1, 1], [0, 1, 0]), ([-1, 0, 2, 3], [0, 0, 1, 1]), ([], [])]
)
def test_calibration_line_that_does_not_exist_is_nan(logit, truth):
    assert all(math.isnan(value) for value in reliability.calibration_line(logit, truth))


def test_log_odds_of_certainty_are_finite():
    assert reliability.log_odds([0, 0.5, 1]) == pytest.approx([-30, 0, 30])
    logit = reliability.log_odds([0, 1, 0.4, 0.6, 0.2])
    assert np.isfinite(reliability.calibration_line(logit, [0, 1, 1, 0, 1])).all()
