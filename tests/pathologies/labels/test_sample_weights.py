"""Oversampling: the weights keep their promise, on arbitrary labels, and no row is duplicated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pathologies.labels.sample_weights import combination_of, target_weights, vector_epoch, vector_weights

LABELS = arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 11)),
    elements=st.sampled_from([0.0, 1.0, 0.5, float("nan")]),
)


def test_rare_combination_weighs_as_much_as_the_minimum():
    labels = np.zeros((1000, 3), np.float32)
    labels[:200, 0] = 1
    labels[198:200, 1] = 1  # two rows of a rare combination
    weights = vector_weights(labels, 50)
    assert weights[:198].tolist() == [1] * 198
    assert weights[198:200].tolist() == [25, 25]
    assert weights.sum() == 1048


def test_two_hundred_single_rows_come_twenty_times_each():
    combination = np.r_[np.zeros(800, int), np.arange(200) + 7]
    order = vector_epoch(combination, 20, np.random.default_rng(0))
    assert np.bincount(order).tolist() == [1] * 800 + [20] * 200
    assert (np.diff(order[:100]) != 0).mean() > 0.9, "in random order, not a row's draws side by side"


@settings(max_examples=60, deadline=None)
@given(LABELS, st.integers(1, 30), st.integers(0, 9))
def test_an_epoch_has_the_minimum_of_every_combination_and_every_row_alike(labels, minimum, seed):
    group = combination_of(labels == 1)
    times = np.bincount(vector_epoch(group, minimum, np.random.default_rng(seed)), minlength=len(group))
    assert np.bincount(group, times).tolist() == np.maximum(np.bincount(group), minimum).tolist()
    weights = vector_weights(labels, minimum)
    assert (times >= np.floor(weights + 1e-9)).all()
    assert (times <= np.ceil(weights - 1e-9)).all()


def test_which_row_comes_once_more_is_drawn():
    """Three rows of a combination, ten draws: one of them has the fourth, each in a third of the epochs."""
    draws = np.random.default_rng(0)
    epochs = [np.bincount(vector_epoch(np.zeros(3, int), 10, draws)) for _ in range(600)]
    assert {tuple(sorted(times)) for times in epochs} == {(3, 3, 4)}
    more = np.sum([times == 4 for times in epochs], axis=0)
    assert (np.abs(more - 200) < 4 * np.sqrt(600 * 2 / 9)).all()


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


def test_what_is_no_minimum_and_no_table_of_labels():
    labels = np.float32([[1], [0], [0]])
    for refused in (lambda: vector_weights(labels, 0), lambda: vector_epoch(np.zeros(3), 0, np.random.default_rng(0))):
        with pytest.raises(ValueError, match="Allowed: 1 or more"):
            refused()
    with pytest.raises(ValueError, match="rows x findings"):
        vector_weights(labels[:, 0], 3)


def test_no_rows():
    assert vector_weights(np.zeros((0, 3)), 5).tolist() == []
    assert vector_epoch(np.zeros(0), 5, np.random.default_rng(0)).tolist() == []


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
