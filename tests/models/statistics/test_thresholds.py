"""Operating points: every rule against brute force, and the courage to say that no threshold is useful."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from models.statistics import metrics, rate_bounds, thresholds
from models.statistics.metrics import sigmoid
from models.statistics.thresholds import OperatingPoint


def films(rows: int = 300, seed: int = 0, gap: float = 1.5):
    generator = np.random.default_rng(seed)
    truth = (generator.random(rows) < 0.3).astype(float)
    return np.round(sigmoid(generator.normal(gap * truth - 1, 1)), 2), truth


def brute_force(probability, truth):
    """Figures at every threshold that differs, from scikit-learn."""
    for threshold in np.unique(np.concatenate([[0.0], probability + 1e-9])):
        call = probability >= threshold
        sensitivity = reference.recall_score(truth, call)
        specificity = reference.recall_score(truth, call, pos_label=0)
        yield threshold, sensitivity, specificity, reference.fbeta_score(truth, call, beta=2, zero_division=0), call


def test_f2_rule_is_the_best_with_the_floor():
    probability, truth = films()
    point = thresholds.choose(probability, truth)
    best = max(f2 for _, _, specificity, f2, _ in brute_force(probability, truth) if specificity >= 0.5)
    assert point.f2 == pytest.approx(best, abs=1e-9)
    assert point.useful
    assert point.specificity >= 0.5
    counts = metrics.confusion(probability >= point.threshold, truth)
    assert (point.sensitivity, point.precision) == (metrics.sensitivity(counts), metrics.precision(counts))
    assert (point.positives, point.negatives) == (truth.sum(), 300 - truth.sum())


def test_the_other_rules_against_brute_force():
    probability, truth = films(seed=1)
    every = list(brute_force(probability, truth))
    youden = thresholds.choose(probability, truth, "youden")
    assert youden.sensitivity + youden.specificity == pytest.approx(max(s + c for _, s, c, _, _ in every))
    sensitive = thresholds.choose(probability, truth, "estimated sensitivity>=0.9")
    assert sensitive.specificity == pytest.approx(max(c for _, s, c, _, _ in every if s >= 0.9))
    specific = thresholds.choose(probability, truth, "estimated specificity >= .9")
    assert specific.sensitivity == pytest.approx(max(s for _, s, c, _, _ in every if c >= 0.9))
    precise = thresholds.choose(probability, truth, "precision>=0.6")
    reached = [s for _, s, _, _, call in every if reference.precision_score(truth, call, zero_division=0) >= 0.6]
    assert precise.sensitivity == pytest.approx(max(reached))
    cost = thresholds.choose(probability, truth, "cost(5, 1)")
    least = min(5 * ((~call) & (truth == 1)).sum() + (call & (truth == 0)).sum() for *_, call in every)
    missed, alarms = (1 - cost.sensitivity) * cost.positives, (1 - cost.specificity) * cost.negatives
    assert 5 * missed + alarms == pytest.approx(least)


@pytest.mark.parametrize("rule", ["f2", "f1", "youden", "cost(1,1)", "precision>=0.9"])
@pytest.mark.parametrize("kind", ["constant", "inverted", "random"])
def test_predictors_that_know_nothing_have_no_useful_threshold(rule, kind):
    generator = np.random.default_rng(0)
    truth = (generator.random(4000) < 0.3).astype(float)
    score = {"constant": np.full(4000, 0.3), "inverted": 0.9 - 0.8 * truth, "random": generator.random(4000)}[kind]
    point = thresholds.choose(score, truth, rule)
    if kind == "random" and rule in ("youden", "f1", "cost(1,1)", "precision>=0.9"):
        assert point.sensitivity + point.specificity < 1.1  # noise may beat the guess by a hair on its own films
    else:
        assert not point.useful
        assert point.reason.startswith("no useful threshold: ")


def test_all_negative_predictor_is_not_useful():
    truth = np.array([0.0] * 84 + [1.0] * 16)
    point = thresholds.choose(np.zeros(100), truth)
    assert not point.useful
    assert "always positive" in point.reason


@pytest.mark.parametrize(("truth", "words"), [([0, 0], "no positives"), ([1, 1], "no negatives"), ([], "no known")])
def test_one_class(truth, words):
    point = thresholds.choose([0.2, 0.9][: len(truth)], truth)
    assert not point.useful
    assert words in point.reason
    assert point.threshold == 0.5


def test_thresholds_lie_midway_and_ends_hold_for_new_films():
    found = thresholds.candidates([0.2, 0.6, 0.6, 0.4], [0, 1, 0, 1])
    assert found.thresholds == pytest.approx([0, 0.3, 0.5, 1])
    assert found.counts.true_positive.tolist() == [2, 2, 1, 0]
    assert found.counts.false_positive.tolist() == [2, 1, 1, 0]
    assert thresholds.candidates([0.0, 1.0], [0, 1]).thresholds[-1] > 1
    scores = thresholds.candidates([-3.0, 5.0], [0, 1]).thresholds
    assert scores[0] <= -3
    assert scores[1] == 1
    assert scores[2] > 5


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=30))
def test_counts_are_those_of_the_calls(rows):
    score, truth = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    found = thresholds.candidates(score, truth)
    for index, threshold in enumerate(found.thresholds):
        assert thresholds.at(found.counts, index) == metrics.confusion(score >= threshold, truth)


def test_plain_data_round_trip():
    probability, truth = films()
    for point in (thresholds.choose(probability, truth), thresholds.choose([0.1], [0])):
        data = json.loads(json.dumps(point.to_dict(), allow_nan=False))
        again = OperatingPoint.from_dict(data)
        assert again.to_dict() == point.to_dict()
    assert math.isnan(again.f2)
    with pytest.raises(ValueError, match="Unknown operating point key"):
        OperatingPoint.from_dict({"rule": "f2", "treshold": 1})


@pytest.mark.parametrize("rule", ["f3", "sensitivity>=1.5", "cost(1)", "cost(0,1)", "", "precision<0.5"])
def test_unknown_rule(rule):
    with pytest.raises(ValueError, match="Unknown operating point rule"):
        thresholds.choose([0.1, 0.9], [0, 1], rule)


def test_cross_validated_figures_are_humbler_than_those_on_the_same_films():
    optimism = []
    for seed in range(20):
        probability, truth = films(80, seed, gap=0.3)
        patients = np.arange(80)
        inside = thresholds.choose(probability, truth, "youden")
        outside = thresholds.cross_validated_figures(probability, truth, patients, "youden", folds=5, seed=seed)
        optimism.append(inside.sensitivity + inside.specificity - outside["sensitivity"] - outside["specificity"])
    assert np.mean(optimism) > 0.05


def test_calls_follow_the_ranking_only():
    probability, truth = films()
    patients = np.arange(300) % 90
    logit = 4 * np.log(np.clip(probability, 0.005, 0.995) / (1 - np.clip(probability, 0.005, 0.995)))
    one = thresholds.cross_validated_calls(probability, truth, patients)
    assert np.array_equal(one, thresholds.cross_validated_calls(logit, truth, patients))


def reach(rule, parts, draw):
    """Of `parts` parts of the data: the share whose threshold finds .9 of all positives in truth, and its mean."""
    generator, found = np.random.default_rng(0), []
    for _ in range(parts):
        score, truth, patients = draw(generator)
        point = thresholds.choose(score, truth, rule, patients=patients)
        assert point.useful, point.reason
        found.append(0.5 * math.erfc((point.threshold - 1.5) / math.sqrt(2)))  # positives are normal, mean 1.5, sd 1
    return np.mean(np.array(found) >= 0.9), np.mean(found)


def one_film_each(generator, patients=300):
    truth = (generator.random(patients) < 0.4).astype(float)
    return 1.5 * truth + generator.normal(size=patients), truth, np.arange(patients)


def several_films_each(generator, patients=220):
    """1 to 6 films of a patient, whose scores agree (correlation 0.6)."""
    patient = np.repeat(np.arange(patients), generator.choice([1, 2, 6], patients))
    truth = (generator.random(patients) < 0.5).astype(float)[patient]
    own = math.sqrt(0.6) * generator.normal(size=patients)[patient]
    return 1.5 * truth + own + math.sqrt(0.4) * generator.normal(size=len(patient)), truth, patient


@pytest.mark.parametrize("draw", [one_film_each, several_films_each])
def test_a_promised_sensitivity_is_kept_in_95_of_100_parts(draw):
    """400 parts; a rate of .95 has a standard error of .011. The estimate keeps it in about half of them."""
    estimated, _ = reach("estimated sensitivity>=0.9", 400, draw)
    promised, mean = reach("sensitivity>=0.9", 400, draw)
    assert 0.4 < estimated < 0.6
    assert promised >= 0.93
    assert mean < 0.97  # and not by calling everybody ill
    blind, _ = reach("sensitivity>=0.9", 400, lambda generator: (*draw(generator)[:2], None))
    assert draw is one_film_each or blind < 0.9  # films are no patients


def test_the_bound_is_clopper_and_pearsons_and_wilkss():
    """For 29 patients .9^29 = .047 < .05: the lowest positive may just be the threshold. For 46 the second may."""
    for positives, allowed in ((29, 0), (45, 0), (46, 1), (61, 2)):
        score = np.concatenate([np.arange(positives), np.arange(500) - 500.0])
        point = thresholds.choose(score, score >= 0, "sensitivity>=0.9")
        assert point.useful
        assert round((1 - point.sensitivity) * positives) == allowed
        assert point.promise == thresholds.PROMISE
        assert point.lower_bound >= 0.9
    assert thresholds.choose(score, score >= 0, "sensitivity>=0.9").lower_bound == pytest.approx(
        reference_bound(59, 61), abs=1e-6
    )
    mirrored = thresholds.choose(-score, score < 0, "specificity>=0.9")
    assert round((1 - mirrored.specificity) * 61) == 2
    assert mirrored.lower_bound == pytest.approx(reference_bound(59, 61), abs=1e-6)


def reference_bound(hits, trials):
    from scipy.stats import binomtest

    return binomtest(hits, trials, alternative="greater").proportion_ci(0.95, method="exact").low


def test_too_few_patients_promise_nothing_and_say_how_many_would():
    score = np.concatenate([np.arange(28), np.arange(500) - 500.0])
    point = thresholds.choose(score, score >= 0, "sensitivity>=0.9")
    assert not point.useful
    assert point.reason == (
        "no useful threshold: no threshold can promise a sensitivity of 0.9: "
        "28 positive patients, at least 29 are needed"
    )
    assert point.sensitivity == 1
    assert point.specificity == 1  # the highest threshold that reaches every positive, not "always"
    films = np.concatenate([score, np.full(40, 5.0)])
    patients = np.concatenate([np.arange(528), np.full(40, 3)])  # one patient brings 41 films
    crowded = thresholds.choose(films, films >= 0, "sensitivity>=0.9", patients=patients)
    assert "28 positive patients count as 2.7, their films being unequally many, and at least 29" in crowded.reason
    spared = thresholds.choose(-score, score < 0, "specificity>=0.9")
    assert "28 negative patients, at least 29 are needed" in spared.reason
    assert "never that none is" in thresholds.choose(score, score >= 0, "sensitivity>=1").reason


def test_the_effective_number_of_films_lies_between_patients_and_films():
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(80), 5)
    alike = np.argsort(generator.normal(size=80)[patients] + 0.01 * generator.normal(size=400))
    apart = generator.permutation(400)
    same, free = rate_bounds.effective_films(patients[alike]), rate_bounds.effective_films(patients[apart])
    assert same[-1] == free[-1] == 80  # all reached: nothing tells how films agree
    assert same[360] < 100
    assert free[360] > 250
    assert free.max() <= 400
    assert rate_bounds.effective_films(np.arange(50)).tolist() == [50] * 51
    assert rate_bounds.effective_films(np.zeros(9)).tolist() == [1] * 10
    # By hand: patients a a b, the first film reached: variance 2/1 ((1 - 2/3)^2 + (1/3)^2) / 9, then the t quantiles.
    t_1, t_2 = 6.313752, 2.919986
    by_hand = (2 / 9) / (2 * (1 / 9 + 1 / 9) / 9) * (t_2 / t_1) ** 2
    assert rate_bounds.effective_films(["a", "a", "b"])[1] == pytest.approx(max(by_hand, 9 / 5), rel=1e-6)
    assert rate_bounds.fewest_patients(0.9) == 29
    assert rate_bounds.fewest_patients(0.95) == 59
