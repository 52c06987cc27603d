"""Calibration: probabilities that mean what they say, a ranking that stays, and honesty where nothing can be fitted."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from models.statistics import calibration, metrics, reliability
from models.statistics.calibration import METHODS, Calibration
from models.statistics.metrics import sigmoid


def crooked(rows: int = 2000, seed: int = 0, patients: int | None = None):
    """Logits that are three times too sure of themselves and shifted by 2, with the truth and patients."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(-1, 1.5, rows)
    truth = (generator.random(rows) < sigmoid(honest)).astype(float)
    return 3 * honest + 2, truth, generator.integers(0, patients or rows, rows)


@pytest.mark.parametrize("method", METHODS)
def test_round_trip_through_json_and_range(method):
    logit, truth, patient = crooked(400)
    fitted = calibration.fit(logit, truth, patient, method)
    again = Calibration.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    wide = fitted.apply([-np.inf, -1e6, 0, 1e6, np.inf])
    assert np.all((wide >= 0) & (wide <= 1))
    assert np.all(np.diff(wide) >= 0)
    assert fitted.prevalence == pytest.approx(truth.mean())


@pytest.mark.parametrize("method", ["temperature", "platt", "beta", "prior", "identity"])
def test_auc_is_unchanged_to_the_bit(method):
    logit, truth, patient = crooked()
    logit = logit.astype(np.float32)
    fitted = calibration.fit(logit, truth, patient, method)
    assert metrics.auc(fitted.apply(logit), truth) == metrics.auc(logit, truth)


@settings(deadline=None)
@given(
    st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40, unique=True), st.floats(0.05, 5), st.floats(-5, 5)
)
def test_strictly_increasing(logits, slope, intercept):
    ordered = np.sort(np.array(logits, dtype=np.float64))
    ordered = ordered[np.diff(ordered, prepend=-99) > 1e-5]
    assert np.all(np.diff(Calibration(method="platt", slope=slope, intercept=intercept).apply(ordered)) > 0)


def test_plain_sigmoid_where_probabilities_live():
    logit = np.linspace(-12, 12, 101)
    assert Calibration(method="identity").apply(logit) == pytest.approx(sigmoid(logit), abs=1e-15)


@pytest.mark.parametrize("method", ["platt", "beta", "isotonic"])
def test_out_of_fold_probabilities_are_calibrated(method):
    logit, truth, patient = crooked(4000, patients=1500)
    before = reliability.ece(sigmoid(logit), truth)
    after = calibration.cross_validated(logit, truth, patient, method)
    assert before > 0.1
    assert reliability.ece(after, truth) < 0.03
    assert 0.8 < reliability.calibration_line(reliability.log_odds(after), truth)[0] < 1.25
    assert metrics.brier(after, truth) < metrics.brier(sigmoid(logit), truth)


def test_platt_and_temperature_find_the_planted_line():
    logit, truth, patient = crooked(20_000)
    fitted = calibration.fit(logit, truth, patient, "platt")
    assert fitted.slope == pytest.approx(1 / 3, abs=0.01)
    assert fitted.intercept == pytest.approx(-2 / 3, abs=0.04)
    assert calibration.fit(logit - 2, truth, patient, "temperature").slope == pytest.approx(1 / 3, abs=0.01)


def test_isotonic_agrees_with_scikit_learn():
    logit, truth, _ = crooked(500)
    fitted = calibration.fit(logit, truth, None, "isotonic")
    expected = IsotonicRegression().fit(logit, truth).predict(logit)
    inner = (expected > 0.01) & (expected < 0.98)  # the extremes are held off 0 and 1
    assert len(np.unique(expected[inner])) > 5
    assert fitted.apply(logit)[inner] == pytest.approx(expected[inner], abs=1e-9)
    assert np.all((fitted.apply(logit) > 0) & (fitted.apply(logit) < 1))


def test_few_positives_move_the_mean_only():
    logit, truth, patient = crooked(300)
    rare = truth * (np.cumsum(truth) <= 19)
    fitted = calibration.fit(logit, rare, patient, "platt")
    assert (fitted.method, fitted.slope) == ("prior", 1.0)
    assert "19 positives" in fitted.reason
    assert fitted.apply(logit).mean() == pytest.approx((19 + 1) / (300 + 2), abs=1e-6)
    assert calibration.fit(logit, np.full(300, np.nan), patient).method == "identity"
    assert 0 < calibration.fit(logit, np.zeros(300), patient).apply(logit).mean() < 0.01


@pytest.mark.parametrize("method", ["temperature", "platt", "beta"])
def test_no_signal_is_said_and_the_ranking_kept(method):
    logit, truth, patient = crooked(600)
    inverted = -np.where(truth > 0, np.abs(logit), -np.abs(logit))
    fitted = calibration.fit(inverted, truth, patient, method)
    assert fitted.reason.startswith("no signal")
    probability = fitted.apply(inverted)
    assert np.ptp(probability) < 0.01
    assert probability.mean() == pytest.approx(truth.mean(), abs=0.01)
    assert metrics.auc(probability, truth) == metrics.auc(inverted, truth)


def test_constant_and_separable_scores_do_not_break_it():
    truth = np.tile([0.0, 1.0], 40)
    for method in METHODS:
        flat = calibration.fit(np.full(80, 0.7), truth, None, method)
        assert np.isfinite(flat.apply([0.7])).all()
        split = calibration.fit(10 * truth - 5, truth, None, method)
        assert split.apply([5.0])[0] > 0.9
        assert split.apply([5.0])[0] < 1
    assert "no signal" in calibration.fit(np.full(80, 0.7), truth, None, "platt").reason
    # Platt's target for 40 positives: 41 / 42
    assert calibration.fit(10 * truth - 5, truth, None, "platt").apply([5.0])[0] == pytest.approx(41 / 42, abs=1e-6)
    assert calibration.fit(10 * truth - 5, truth, None, "platt").apply([-5.0])[0] == pytest.approx(1 / 42, abs=1e-6)


def test_smoothing_counts_patients_not_films():
    truth = np.tile([0.0, 1.0], 200)
    by_film = calibration.fit(10 * truth - 5, truth, np.arange(400))
    few = calibration.fit(10 * truth - 5, truth, np.arange(400) % 10)
    assert by_film.apply([5.0])[0] > few.apply([5.0])[0]


def test_cross_validation_never_sees_the_own_patient():
    """Identical films of one patient carry a label of pure noise: in-sample isotonic learns it, out of fold cannot."""
    generator = np.random.default_rng(0)
    patient = np.repeat(np.arange(100), 5)
    logit, truth = np.repeat(generator.normal(size=100), 5), np.repeat(generator.integers(0, 2, 100), 5).astype(float)
    inside = calibration.fit(logit, truth, patient, "isotonic").apply(logit)
    outside = calibration.cross_validated(logit, truth, patient, "isotonic")
    assert metrics.log_loss(inside, truth) < 0.693
    assert metrics.log_loss(outside, truth) > metrics.log_loss(inside, truth)


def test_patient_weights():
    weight = calibration.patient_weight(["a", "a", "a", "b"])
    assert weight == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    logit, truth, _ = crooked(200)
    doubled = calibration.fit(np.tile(logit, 2), np.tile(truth, 2), np.tile(np.arange(200), 2))
    weighted = calibration.fit(logit, truth, np.arange(200), weight=np.full(200, 2.0))
    assert weighted.slope == pytest.approx(doubled.slope)


def test_prevalence_correction_undoes_balanced_sampling():
    logit, truth, patient = crooked(40_000, seed=1)
    keep = (truth == 1) | (np.random.default_rng(0).random(len(truth)) < truth.mean() / (1 - truth.mean()))
    balanced = calibration.fit(logit[keep], truth[keep], patient[keep])
    corrected = calibration.with_prevalence(balanced, float(truth.mean()))
    assert reliability.ece(balanced.apply(logit), truth) > 0.1
    assert reliability.ece(corrected.apply(logit), truth) < 0.02
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibration.with_prevalence(balanced, 1.0)


def test_errors():
    with pytest.raises(ValueError, match="Unknown calibration 'plat'"):
        calibration.fit([0.0], [1.0], None, "plat")
    with pytest.raises(ValueError, match="must rise"):
        Calibration(method="platt", slope=-1.0)
    with pytest.raises(ValueError, match="logits are NaN"):
        Calibration(method="identity").apply([np.nan])
    with pytest.raises(ValueError, match="infinite"):
        calibration.fit([np.inf, 0.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="Unknown calibration key 'gain'"):
        Calibration.from_dict({"method": "platt", "gain": 1})
