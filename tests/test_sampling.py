"""Oversampling: the weights keep their promise, on arbitrary labels, and no row is duplicated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pathologies.sampling import combination_of, epoch_draws, target_weights, vector_weights

LABELS = arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 11)),
    elements=st.sampled_from([0.0, 1.0, 0.5, float("nan")]),
)


def test_rare_combination_is_drawn_the_minimum_number_of_times():
    labels = np.zeros((1000, 3), np.float32)
    labels[:200, 0] = 1
    labels[198:200, 1] = 1  # two rows of a rare combination
    weights = vector_weights(labels, 50)
    assert weights[:198].tolist() == [1] * 198
    assert weights[198:200].tolist() == [25, 25]
    assert epoch_draws(weights) == 1048
    rng = np.random.default_rng(0)
    drawn = rng.choice(1000, size=200 * epoch_draws(weights), p=weights / weights.sum())
    assert np.isin(drawn, (198, 199)).sum() / 200 == pytest.approx(50, rel=0.05)


@settings(max_examples=60, deadline=None)
@given(LABELS, st.integers(1, 30))
def test_every_combination_reaches_the_minimum(labels, minimum):
    weights = vector_weights(labels, minimum)
    group = combination_of(labels == 1)
    assert (np.bincount(group, weights) >= minimum - 1e-9).all()
    assert len(weights) == len(labels)
    assert (weights >= 1).all()
    np.testing.assert_allclose(weights[np.bincount(group)[group] >= minimum], 1)


@settings(max_examples=60, deadline=None)
@given(LABELS)
def test_combinations_are_those_of_the_positives(labels):
    _, expected = np.unique(labels == 1, axis=0, return_inverse=True)
    group = combination_of(labels == 1)
    assert (group[:, None] == group).tolist() == (expected.ravel()[:, None] == expected.ravel()).tolist()


def test_bound_on_one_row():
    labels = np.float32([[1], [0], [0]])
    assert vector_weights(labels, 100, most=8).tolist() == [8, 8, 8]
    with pytest.raises(ValueError, match="Allowed: 1 or more"):
        vector_weights(labels, 0)
    with pytest.raises(ValueError, match="rows x findings"):
        vector_weights(labels[:, 0], 3)


def test_no_rows():
    assert vector_weights(np.zeros((0, 3)), 5).tolist() == []
    assert epoch_draws(np.zeros(0)) == 0


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([0.0, 1.0, 0.25, float("nan")])),
    st.floats(0.05, 0.95),
)
def test_positives_get_their_share(values, share):
    weights = target_weights(values, share)
    known = ~np.isnan(values)
    assert (weights[~known] == 0).all()
    assert weights.sum() == pytest.approx(known.sum())
    hard = np.isin(values[known], (0, 1)).all()
    if hard and 0 < values[known].sum() < known.sum():
        assert weights[values == 1].sum() == pytest.approx(share * known.sum())


def test_one_class_only_is_drawn_alike():
    assert target_weights(np.float32([1, 1, np.nan])).tolist() == [1, 1, 0]
    assert target_weights(np.float32([0, 0])).tolist() == [1, 1]


def test_soft_label_counts_as_part_of_a_positive():
    low, high = target_weights(np.float32([0, 0, 0, 0.2, 0.8]))[3:]
    assert low < high


def test_share_must_leave_room_for_both():
    with pytest.raises(ValueError, match="between 0 and 1"):
        target_weights(np.float32([0, 1]), 1.0)
