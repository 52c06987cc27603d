"""Scores of the positive class: equal to scikit-learn's, and honest about predictors that know nothing."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from models.statistics import metrics
from models.statistics.metrics import Confusion


def table(seed: int, rows: int = 200):
    generator = np.random.default_rng(seed)
    truth = (generator.random(rows) < 0.2).astype(float)
    truth[:2] = 0, 1
    probability = np.round(np.clip(generator.normal(0.3 + 0.2 * truth, 0.2), 0, 1), 2)  # rounding makes ties
    return probability, truth, generator.integers(0, 4, rows).astype(float)


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn(seed):
    probability, truth, weight = table(seed)
    call = probability >= 0.4
    counts = metrics.confusion(call, truth, weight)
    close = {"rel": 0, "abs": 1e-9}
    with_weight = {"sample_weight": weight}
    expected = {
        metrics.auc(probability, truth, weight): reference.roc_auc_score(truth, probability, **with_weight),
        metrics.average_precision(probability, truth, weight): reference.average_precision_score(
            truth, probability, **with_weight
        ),
        metrics.brier(probability, truth, weight): reference.brier_score_loss(truth, probability, **with_weight),
        metrics.log_loss(probability, truth, weight): reference.log_loss(truth, probability, **with_weight),
        metrics.recall(counts): reference.recall_score(truth, call, **with_weight),
        metrics.specificity(counts): reference.recall_score(truth, call, pos_label=0, **with_weight),
        metrics.precision(counts): reference.precision_score(truth, call, **with_weight),
        metrics.f_beta(counts, 1): reference.f1_score(truth, call, **with_weight),
        metrics.f_beta(counts, 2): reference.fbeta_score(truth, call, beta=2, **with_weight),
        metrics.accuracy(counts): reference.accuracy_score(truth, call, **with_weight),
    }
    assert len(expected) == 10
    for ours, theirs in expected.items():
        assert ours == pytest.approx(theirs, **close)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-5, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30),
)
def test_auc_is_the_share_of_ordered_pairs(rows):
    score, truth, weight = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    pairs = total = 0.0
    for i in range(len(rows)):
        for j in range(len(rows)):
            if truth[i] == 1 and truth[j] == 0:
                total += weight[i] * weight[j]
                pairs += weight[i] * weight[j] * ((score[i] > score[j]) + (score[i] == score[j]) / 2)
    expected = pairs / total if total else math.nan
    assert metrics.auc(score, truth, weight) == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_constant_predictor_knows_nothing():
    _, truth, _ = table(0)
    constant = np.full(len(truth), 0.3)
    assert metrics.auc(constant, truth) == 0.5
    assert metrics.average_precision(constant, truth) == pytest.approx(truth.mean())


def test_never_has_no_recall_and_no_precision_whatever_its_accuracy():
    truth = np.array([0.0] * 84 + [1.0] * 16)
    counts = metrics.confusion(np.zeros(100), truth)
    assert metrics.accuracy(counts) == 0.84
    assert metrics.recall(counts) == 0
    assert math.isnan(metrics.precision(counts))
    assert metrics.f_beta(counts, 1) == metrics.f_beta(counts, 2) == 0


def test_inverted_predictor_is_under_chance_not_over():
    probability, truth, _ = table(1)
    straight, inverted = metrics.auc(probability, truth), metrics.auc(-probability, truth)
    assert straight > 0.6
    assert inverted == pytest.approx(1 - straight)
    assert metrics.average_precision(-probability, truth) < metrics.average_precision(probability, truth)


def test_random_predictor_is_at_chance():
    generator = np.random.default_rng(3)
    truth = (generator.random(20_000) < 0.1).astype(float)
    score = generator.random(20_000)
    assert metrics.auc(score, truth) == pytest.approx(0.5, abs=0.02)
    assert metrics.average_precision(score, truth) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("truth", "reason"),
    [([0, 0], "no positives"), ([1, 1], "no negatives"), ([np.nan] * 2, "no known labels"), ([0, 1], None)],
)
def test_one_class_is_undefined_with_its_reason(truth, reason):
    assert metrics.undefined_reason(truth) == reason
    assert math.isnan(metrics.auc([0.1, 0.9], truth)) == (reason is not None)


def test_one_class_leaves_the_other_figures_undefined_not_zero():
    counts = metrics.confusion([1, 0], [0, 0])
    assert math.isnan(metrics.recall(counts))
    assert math.isnan(metrics.f_beta(counts))
    assert metrics.specificity(counts) == 0.5
    assert math.isnan(metrics.average_precision([0.1, 0.9], [0, 0]))
    assert math.isnan(metrics.brier([], []))
    assert math.isnan(metrics.log_loss([], []))


def test_unknown_rows_and_zero_weights_change_nothing():
    probability, truth, _ = table(2)
    more = np.append(probability, [0.9, 0.8]), np.append(truth, [np.nan, 0.0]), np.append(np.ones(len(truth)), [1, 0])
    for score in (metrics.auc, metrics.average_precision, metrics.brier, metrics.log_loss):
        assert score(*more) == pytest.approx(score(probability, truth), abs=1e-15)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="got -1. Apply a label contract"):
        metrics.auc([0.1, 0.2], [0, -1])
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        metrics.auc([0.1, np.nan], [0, 1])
    with pytest.raises(ValueError, match="Not a probability: values from -1 to 3"):
        metrics.brier([-1, 3], [0, 1])
    with pytest.raises(ValueError, match="Apply a threshold"):
        metrics.confusion([0.3, 1], [0, 1])
    with pytest.raises(ValueError, match="one length"):
        metrics.auc([0.1], [0, 1])


def test_simple_answers():
    truth = np.array([1.0, 0, 0, 0, np.nan])
    answers = metrics.simple_answers(truth)
    assert answers["never"]["recall"] == 0
    assert math.isnan(answers["never"]["precision"])
    assert answers["never"]["accuracy"] == 0.75
    assert answers["always"]["recall"] == 1
    assert answers["always"]["precision"] == 0.25
    assert answers["always"]["f2"] == pytest.approx(5 * 0.25 / (4 * 0.25 + 1))
    assert answers["prevalence"]["f1"] == pytest.approx(0.25)
    assert answers["prevalence"]["brier"] == pytest.approx(0.25 * 0.75)
    for name, constant in (("never", 0.0), ("always", 1.0), ("prevalence", 0.25)):
        assert answers[name]["brier"] == pytest.approx(metrics.brier(np.full(5, constant), truth))
    assert answers["never"]["log_loss"] == math.inf
    assert answers["prevalence"]["log_loss"] == pytest.approx(metrics.log_loss(np.full(5, 0.25), truth))
    assert all(math.isnan(answer["brier"]) for answer in metrics.simple_answers([np.nan]).values())


def test_soft_truth_counts_in_parts():
    score, soft = np.array([0.2, 0.7, 0.7]), np.array([0.0, 1.0, 0.25])
    doubled = metrics.auc([0.2, 0.7, 0.7, 0.7], [0, 1, 1, 0], [1, 1, 0.25, 0.75])
    assert metrics.auc(score, soft) == pytest.approx(doubled)


def test_confusion_of_arrays_gives_arrays():
    counts = Confusion(
        true_positive=np.array([1.0, 0.0]),
        false_positive=np.array([1.0, 0.0]),
        true_negative=np.array([2.0, 3.0]),
        false_negative=np.array([0.0, 1.0]),
    )
    assert metrics.precision(counts) == pytest.approx([0.5, math.nan], nan_ok=True)
    assert metrics.f_beta(counts, 1) == pytest.approx([2 / 3, 0])


def test_sigmoid_does_not_overflow():
    assert metrics.sigmoid([-1000, 0, 1000]) == pytest.approx([0, 0.5, 1])
