"""models/statistics/blending.py: members and findings combined into one score."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.statistics import blending
from models.statistics.blending import Blend
from models.statistics.metrics import auc, sigmoid


def draw(films=400, noise=(1.0, 1.0, 1.0), seed=0):
    """Truth, and a column per entry of `noise`: 3 x truth + noise."""
    draws = np.random.default_rng(seed)
    truth = (draws.random(films) < 0.4).astype(float)
    return np.column_stack([3 * truth + one * draws.normal(size=films) for one in noise]), truth


def test_means_by_hand():
    columns = np.array([[0.0, 2.0], [-1.0, 1.0]])
    np.testing.assert_allclose(Blend().apply(columns), [1.0, 0.0])
    mean = Blend(method=blending.MEAN_OF_PROBABILITIES).apply(columns)
    np.testing.assert_allclose(sigmoid(mean), [(0.5 + sigmoid(2.0)) / 2, 0.5])


def test_ranks_by_hand_and_of_a_single_film():
    known = blending.distribution([3.0, 1.0, 2.0, 2.0])
    assert known == ((1.0, 1 / 5), (2.0, 2.5 / 5), (3.0, 4 / 5))
    np.testing.assert_allclose(blending.rank([0.0, 1.5, 9.0], known), [0.2, 0.35, 0.8])
    fitted = blending.fit(blending.MEAN_OF_RANKS, np.array([[3.0], [1.0], [2.0], [2.0]]), np.array([1.0, 0, 0, 1]))
    assert sigmoid(fitted.apply([[2.0]]))[0] == pytest.approx(0.5)


def test_a_long_column_is_stored_in_few_points_and_ranks_alike():
    values = np.random.default_rng(0).normal(size=30_000)
    known = blending.distribution(values)
    assert len(known) <= blending.KNOTS
    exact = (np.argsort(np.argsort(values)) + 1) / (len(values) + 1)
    assert np.abs(blending.rank(values, known) - exact).max() < 2 / blending.KNOTS


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_ranks_do_not_care_how_a_member_counts(seed):
    columns, truth = draw(60, seed=seed)
    bent = columns.copy()
    bent[:, 1] = np.exp(columns[:, 1])
    one, other = (blending.fit(blending.MEAN_OF_RANKS, each, truth).apply(each) for each in (columns, bent))
    np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("method", blending.METHODS[:4])
def test_with_a_single_member_every_blend_keeps_its_ranking(method):
    columns, truth = draw(noise=(1.0,))
    score = blending.fit(method, columns, truth).apply(columns)
    assert auc(score, truth) == pytest.approx(auc(columns[:, 0], truth), abs=1e-12)


@pytest.mark.parametrize("method", blending.METHODS[:4])
def test_three_members_beat_the_mean_single_one_and_an_inverted_one_does_not_help(method):
    columns, truth = draw(noise=(3.0, 3.0, 3.0))
    mean = np.mean([auc(one, truth) for one in columns.T])
    assert auc(blending.fit(method, columns, truth).apply(columns), truth) > mean + 0.02
    worse = np.column_stack([columns, -columns[:, 0]])
    assert auc(blending.fit(method, worse, truth).apply(worse), truth) < 1


def test_greedy_picks_the_good_member_among_nine_random_ones():
    for seed in range(5):
        columns, truth = draw(300, noise=(2.0,), seed=seed)
        random = np.random.default_rng(seed + 100).normal(size=(300, 9)) * 3
        weights = blending.fit(blending.GREEDY, np.column_stack([random, columns]), truth).weights
        assert np.argmax(weights) == 9
        assert weights[9] > 0.5
        assert sum(weights) == pytest.approx(1)


def test_greedy_stops_before_it_fits_the_noise():
    """A whiff of noise can order a few films better by chance; that is not worth a member."""
    for seed in range(5):
        columns, truth = draw(300, noise=(3.0,), seed=seed)
        whiff = 0.02 * np.random.default_rng(seed).normal(size=300)
        assert blending.greedy_weights(np.column_stack([columns[:, 0], columns[:, 0] + whiff]), truth) in (
            (1, 0),
            (0, 1),
        )


def test_greedy_without_positives_takes_all_alike():
    assert blending.greedy_weights(np.zeros((5, 4)), np.zeros(5)) == (0.25,) * 4


def test_stacking_uses_what_another_finding_knows_and_shrinks_what_it_does_not():
    draws = np.random.default_rng(1)
    own, truth = draw(2000, noise=(3.0,))
    telling = (2 * truth + draws.normal(size=2000))[:, None]
    noise = draws.normal(size=(2000, 5))
    inputs = ("edema", "pneumonia", *"abcde")
    stack = blending.fit(blending.STACKING, np.column_stack([own, telling, noise]), truth, inputs)
    assert stack.inputs == inputs
    assert stack.weights[1] > 0.5
    assert np.abs(stack.weights[2:]).max() < 0.2
    score = stack.apply(np.column_stack([own, telling, noise]))
    assert auc(score, truth) > auc(own[:, 0], truth) + 0.02
    assert abs(sigmoid(score).mean() - truth.mean()) < 0.01  # a logistic regression with intercept: on average right


def test_stacking_holds_the_others_on_a_short_lead_and_its_own_logit_not(monkeypatch):
    own, truth = draw(150, noise=(3.0,))
    columns = np.column_stack([own, np.random.default_rng(0).normal(size=(150, 10))])
    held = blending.fit(blending.STACKING, columns, truth, tuple("abcdefghijk"))
    monkeypatch.setattr(blending, "RIDGE", 0.0)
    free = blending.fit(blending.STACKING, columns, truth, tuple("abcdefghijk"))
    assert np.abs(held.weights[1:]).sum() < 0.9 * np.abs(free.weights[1:]).sum()
    assert held.weights[0] == pytest.approx(free.weights[0], rel=0.1)


def test_stacking_on_its_own_finding_is_a_plain_logistic_regression():
    """scikit-learn without a penalty, to three digits: the trace of a penalty on the own weight moves little."""
    from sklearn.linear_model import LogisticRegression

    own, truth = draw(noise=(3.0,))
    stack = blending.fit(blending.STACKING, own, truth, ("edema",))
    plain = LogisticRegression(C=np.inf, tol=1e-8).fit(own, truth)
    assert stack.weights[0] == pytest.approx(plain.coef_[0, 0], rel=1e-3)
    assert stack.intercept == pytest.approx(plain.intercept_[0], rel=1e-3)


@pytest.mark.parametrize("method", blending.METHODS)
def test_a_blend_survives_json(method):
    columns, truth = draw()
    fitted = blending.fit(method, columns, truth, ("a", "b", "c"))
    again = Blend.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    np.testing.assert_array_equal(again.apply(columns), fitted.apply(columns))


def test_errors_say_what_is_known():
    with pytest.raises(ValueError, match=r"Unknown blend 'median'. Known: mean of logits"):
        Blend(method="median")
    with pytest.raises(ValueError, match=r"Unknown blend key 'weight'. Known: .*weights"):
        Blend.from_dict({"method": blending.GREEDY, "weight": [1]})
    with pytest.raises(ValueError, match=r"A blend of 2 columns \(greedy selection\) was given 3"):
        Blend(method=blending.GREEDY, weights=(0.5, 0.5)).apply(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="3 columns for the findings none"):
        blending.fit(blending.STACKING, *draw())
