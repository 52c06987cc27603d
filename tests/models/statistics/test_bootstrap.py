"""Patient bootstrap: the same figures as the plain metrics, resample by resample, and intervals that cover."""

import math
import time

import numpy as np
import pytest

from models.statistics import bootstrap, metrics, reliability
from models.statistics.bootstrap import PatientBootstrap
from models.statistics.metrics import sigmoid


def films(patients: int = 60, per_patient: int = 3, seed: int = 0):
    """(probability, truth, patient ids) with tied scores and films of one patient that resemble each other."""
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), per_patient)
    logit = generator.normal(-1, 1, patients)[patient] + generator.normal(0, 0.5, len(patient))
    truth = (generator.random(len(patient)) < sigmoid(logit)).astype(float)
    return np.round(sigmoid(logit), 2), truth, np.array([f"patient{number:05d}" for number in patient])


def test_every_resample_equals_the_weighted_metric():
    probability, truth, patient = films()
    truth[::7] = np.nan
    drawn = PatientBootstrap(patient, resamples=20, seed=1)
    ranks = drawn.rank_scores(probability, truth)
    calls = drawn.call_scores(probability >= 0.3, truth)
    errors = drawn.probability_scores(probability, truth)
    assert drawn.counts[:, 0].tolist() == [1] * 60
    assert set(drawn.counts.sum(axis=0)) == {60}
    for column in range(21):
        weight = drawn.counts[drawn.patient, column].astype(float)
        counts = metrics.confusion(probability >= 0.3, truth, weight)
        expected = {
            "auc": metrics.auc(probability, truth, weight),
            "average_precision": metrics.average_precision(probability, truth, weight),
            "sensitivity": metrics.sensitivity(counts),
            "specificity": metrics.specificity(counts),
            "precision": metrics.precision(counts),
            "f1": metrics.f_beta(counts, 1),
            "f2": metrics.f_beta(counts, 2),
            "accuracy": metrics.accuracy(counts),
            "brier": metrics.brier(probability, truth, weight),
            "log_loss": metrics.log_loss(probability, truth, weight),
        }
        figures = {**ranks, **calls, **errors}
        for name, value in expected.items():
            assert figures[name][column] == pytest.approx(value, abs=1e-12), name
    assert errors["ece"][0] == pytest.approx(reliability.ece(probability, truth), abs=1e-12)


def test_soft_truth_and_blocks(monkeypatch):
    probability, truth, patient = films()
    whole = PatientBootstrap(patient, resamples=30).rank_scores(probability, 0.8 * truth)
    assert whole["auc"][0] == pytest.approx(metrics.auc(probability, 0.8 * truth))
    monkeypatch.setattr(bootstrap, "BLOCK", 1000)
    blocked = PatientBootstrap(patient, resamples=30).rank_scores(probability, 0.8 * truth)
    assert np.array_equal(whole["auc"], blocked["auc"], equal_nan=True)


def test_order_of_rows_changes_nothing_and_the_seed_everything():
    probability, truth, patient = films()
    order = np.random.default_rng(5).permutation(len(truth))
    one = bootstrap.patient_intervals(probability, truth, patient, threshold=0.3, resamples=50)
    two = bootstrap.patient_intervals(probability[order], truth[order], patient[order], threshold=0.3, resamples=50)
    assert one["auc"] == two["auc"]
    assert one["sensitivity"] == two["sensitivity"]
    assert one["auc"] != bootstrap.patient_intervals(probability, truth, patient, resamples=50, seed=1)["auc"]


def test_patients_give_wider_intervals_than_films():
    probability, truth, patient = films(patients=40, per_patient=1)
    probability, truth, patient = (np.repeat(column, 10) for column in (probability, truth, patient))
    clustered = bootstrap.patient_intervals(probability, truth, patient)["auc"]
    by_film = bootstrap.patient_intervals(probability, truth, np.arange(len(truth)))["auc"]
    assert clustered.high - clustered.low > 2 * (by_film.high - by_film.low)


def test_traps_stay_at_chance_or_undefined():
    probability, truth, patient = films()
    constant = bootstrap.patient_intervals(np.full(len(truth), 0.2), truth, patient, threshold=0.5, resamples=200)
    assert (constant["auc"].value, constant["auc"].low, constant["auc"].high) == (0.5, 0.5, 0.5)
    assert constant["sensitivity"].value == 0
    assert 0 < constant["sensitivity"].high < 0.15  # none of a few dozen patients is not "never, for certain"
    assert math.isnan(constant["precision"].value)
    assert math.isnan(constant["precision"].low)
    inverted = bootstrap.patient_intervals(1 - probability, truth, patient, resamples=200)["auc"]
    assert inverted.high < 0.5
    random = np.random.default_rng(0).random(len(truth))
    chance = bootstrap.patient_intervals(random, truth, patient, resamples=200)["auc"]
    assert chance.low < 0.5 < chance.high


def test_one_class_is_nan_without_a_warning():
    found = bootstrap.patient_intervals([0.1, 0.2, 0.3], [0, 0, np.nan], ["a", "b", "c"], threshold=0.15, resamples=20)
    assert math.isnan(found["auc"].value)
    assert math.isnan(found["auc"].low)
    assert found["auc"].defined == 0
    assert found["specificity"].value == 0.5
    nothing = bootstrap.patient_intervals([0.1], [np.nan], ["a"], threshold=0.5, resamples=20)
    assert all(math.isnan(figure.value) for figure in nothing.values())


def test_certainty_from_few_patients_is_not_claimed():
    truth = np.array([1.0] * 5 + [0.0] * 50)
    found = bootstrap.patient_intervals(truth * 0.8, truth, np.arange(55), threshold=0.5, resamples=100)
    # Clopper and Pearson (1934) for 5 of 5: (0.025)^(1/5)
    assert found["sensitivity"].low == pytest.approx(0.4782, abs=1e-4)
    assert found["auc"].value == found["auc"].high == 1
    assert found["auc"].low == pytest.approx(0.4782, abs=1e-4)


def test_scores_that_are_no_probabilities_get_no_brier():
    _, truth, patient = films()
    assert set(bootstrap.patient_intervals(truth * 3 - 1, truth, patient, resamples=5)) == {"auc", "average_precision"}


def test_paired_difference_is_narrower_than_two_intervals():
    probability, truth, patient = films()
    other = np.clip(probability + np.random.default_rng(2).normal(0, 0.05, len(truth)), 0, 1)
    drawn = PatientBootstrap(patient)
    difference = bootstrap.paired_difference(drawn, probability, other, truth)
    assert difference.value == pytest.approx(metrics.auc(probability, truth) - metrics.auc(other, truth))
    alone = bootstrap.interval(drawn.rank_scores(probability, truth)["auc"])
    assert difference.high - difference.low < (alone.high - alone.low) / 2
    same = bootstrap.paired_difference(drawn, probability, probability, truth, "brier")
    assert (same.value, same.low, same.high) == (0, 0, 0)
    with pytest.raises(ValueError, match="Unknown metric 'f1'"):
        bootstrap.paired_difference(drawn, probability, other, truth, "f1")


def test_the_p_value_says_what_the_interval_says():
    """Below .05 exactly where the 95 % interval leaves out 0, up to the one resample that is counted in addition."""
    generator = np.random.default_rng(0)
    for shift in np.linspace(-4, 4, 41):
        figures = np.concatenate([[shift], generator.normal(shift, 1, 1999)])
        found, p = bootstrap.interval(figures), bootstrap.p_value(figures)
        if min(abs(found.low), abs(found.high)) > 0.05:
            assert (p < 0.05) == (found.low > 0 or found.high < 0)
        assert p == pytest.approx(math.erfc(abs(shift) / math.sqrt(2)), abs=0.08)
    assert bootstrap.p_value(np.zeros(100)) == 1
    assert bootstrap.p_value(np.full(1000, 3.0)) == pytest.approx(2 / 1000)
    assert math.isnan(bootstrap.p_value([0.1, np.nan, np.nan, np.nan, 0.2]))
    assert math.isnan(bootstrap.p_value([np.nan, 0.1, 0.2]))


def test_the_noise_of_resampling_is_taken_off_a_calibration_error():
    """Resamples of .03 to .07 around .03: their mean is .02 too high, and an error is never below 0."""
    figures = np.concatenate([[0.03], np.linspace(0.03, 0.07, 101)])
    found = bootstrap.error_interval(figures)
    assert (found.low, found.high) == pytest.approx((0.011, 0.049))
    assert found.value == 0.03
    held = bootstrap.error_interval(np.array([0.01, 0.0, 0.05, 0.1]))  # less .04 each: 0, not -.04, then .01 and .06
    assert held.low == pytest.approx(0.0005)


def test_holm_by_hand():
    """Four tests: .005 x 4, .01 x 3, .03 x 2, and .04 x 1, which is no smaller than the one before."""
    found = bootstrap.holm([0.01, 0.04, np.nan, 0.03, 0.005])
    assert found == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)
    assert bootstrap.holm([0.5, 0.9]).tolist() == [1, 1]
    assert bootstrap.holm([]).tolist() == []
    assert bootstrap.fewest_resamples(12) == 480
    assert bootstrap.holm([2 / 481] * 12).max() < 0.05 <= bootstrap.holm([2 / 480] * 12).max()


def test_among_twelve_findings_without_a_difference_one_is_rarely_called_real():
    """Two equally good scores of each of 12 findings: some 95 % interval leaves out 0 in 4 of 10 comparisons."""
    generator, uncorrected, corrected = np.random.default_rng(1), 0, 0
    for run in range(40):
        drawn = PatientBootstrap(np.arange(60), resamples=600, seed=run)
        p = []
        for _ in range(12):
            truth = (generator.random(60) < 0.4).astype(float)
            one, other = (truth + generator.normal(size=60) for _ in range(2))
            p.append(bootstrap.p_value(drawn.rank_scores(one, truth)["auc"] - drawn.rank_scores(other, truth)["auc"]))
        uncorrected += min(p) < 0.05
        corrected += bootstrap.holm(p).min() < 0.05
    assert uncorrected >= 12
    assert corrected <= 5


def test_folds_keep_patients_whole_and_spread_positives():
    _, truth, patient = films()
    fold = bootstrap.patient_folds(patient, truth, 5, seed=3)
    assert all(len(set(fold[patient == name])) == 1 for name in set(patient))
    positives = [len(set(patient[(fold == one) & (truth > 0)])) for one in range(5)]
    assert max(positives) - min(positives) <= 1
    order = np.random.default_rng(0).permutation(len(truth))
    assert np.array_equal(bootstrap.patient_folds(patient[order], truth[order], 5, seed=3), fold[order])
    with pytest.raises(ValueError, match="at least 2 folds"):
        bootstrap.patient_folds(patient, truth, 1)


def test_a_thousand_resamples_of_500_studies_are_quick():
    probability, truth, patient = films(patients=500, per_patient=1)
    started = time.process_time()
    bootstrap.patient_intervals(probability, truth, patient, threshold=0.3)
    assert time.process_time() - started < 2  # measured 0.03 s


@pytest.mark.slow
def test_the_interval_covers_at_its_rate():
    """Correlated films of 150 patients; the truth is the figure of 20,000 such patients."""

    def draw(patients, generator):
        patient = np.repeat(np.arange(patients), 3)
        ill = generator.random(patients) < 0.3
        score = (
            ill[patient] * 1.2 + generator.normal(0, 0.8, patients)[patient] + generator.normal(0, 0.6, 3 * patients)
        )
        return sigmoid(score - 1), ill[patient].astype(float), patient

    generator = np.random.default_rng(0)
    score, truth, _ = draw(20_000, generator)
    call = metrics.confusion(score >= 0.5, truth)
    population = {
        "auc": metrics.auc(score, truth),
        "average_precision": metrics.average_precision(score, truth),
        "sensitivity": metrics.sensitivity(call),
        "specificity": metrics.specificity(call),
        "precision": metrics.precision(call),
        "f1": metrics.f_beta(call, 1),
        "f2": metrics.f_beta(call, 2),
        "brier": metrics.brier(score, truth),
    }
    hits = dict.fromkeys(population, 0)
    runs = 400
    for run in range(runs):
        found = bootstrap.patient_intervals(*draw(150, generator), threshold=0.5, resamples=400, seed=run)
        for name, value in population.items():
            hits[name] += found[name].low <= value <= found[name].high
    rates = {name: count / runs for name, count in hits.items()}
    # 95 % with a standard error of 1.1 %; percentile intervals run a little short at this size
    assert all(0.91 <= rate <= 0.985 for rate in rates.values()), rates
