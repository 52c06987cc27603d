"""pathologies/splits/assignment.py: folds. Every patient in one, all alike, and the same from the same data."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathologies.splits.assignment import assign_folds
from tests.pathologies.splits.test_assignment import FINDINGS, random_frame

GOLDEN = "4da02fcdc0aaa555"
frames = st.builds(random_frame, st.integers(5, 60), st.integers(0, 10_000))
counts = st.integers(2, 5)


def patients_of(frame, folds):
    return pd.Series(folds).groupby(frame["patient_id"].to_numpy()).nunique()


@settings(max_examples=40, deadline=None)
@given(frames, counts)
def test_every_row_has_a_fold_and_no_patient_two(frame, count):
    folds = assign_folds(frame, FINDINGS, count)
    assert folds.shape == (len(frame),)
    assert set(folds) == set(range(count))  # none is empty
    assert patients_of(frame, folds).max() == 1


@settings(max_examples=25, deadline=None)
@given(frames, counts, st.integers(0, 10_000))
def test_patients_with_the_same_film_share_a_fold_in_whatever_order_rows_and_pairs_come(frame, count, seed):
    draws = np.random.default_rng(seed)
    same = draws.integers(0, len(frame), (len(frame) // 8, 2))
    together = frame["patient_id"].nunique() - len(same)
    if together < count:
        return
    folds = assign_folds(frame, FINDINGS, count, same=same)
    assert patients_of(frame, folds).max() == 1
    np.testing.assert_array_equal(folds[same[:, 0]], folds[same[:, 1]])
    order = draws.permutation(len(frame))
    place = np.argsort(order)
    shuffled = assign_folds(frame.iloc[order], FINDINGS, count, same=draws.permutation(place[same][:, ::-1]))
    np.testing.assert_array_equal(shuffled, folds[order])


def test_a_chain_of_the_same_films_is_one_patient():
    frame = random_frame(40, 1, most=1)
    chain = np.array([[0, 1], [2, 1], [2, 3], [3, 9]])
    folds = assign_folds(frame, FINDINGS, 5, same=chain)
    assert len(set(folds[[0, 1, 2, 3, 9]])) == 1
    assert len(set(assign_folds(frame, FINDINGS, 5)[[0, 1, 2, 3, 9]])) > 1


@pytest.mark.parametrize("seed", range(3))
def test_folds_are_as_even_as_whole_patients_allow(seed):
    frame = random_frame(150, seed)
    folds = assign_folds(frame, FINDINGS, 5)
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= 6
    for slug in FINDINGS:
        positives = np.bincount(folds[frame[slug] == 1], minlength=5)
        assert positives.max() - positives.min() <= 2, slug


def test_a_rare_finding_is_in_as_many_folds_as_it_has_patients():
    frame = random_frame(100, 4, most=2).assign(hernia=np.float32(0))
    patients = frame["patient_id"].unique()[[3, 30, 60, 77]]
    frame.loc[frame["patient_id"].isin(patients), "hernia"] = 1
    folds = assign_folds(frame, [*FINDINGS, "hernia"], 5)
    assert len(set(folds[frame["hernia"] == 1])) == 4


def test_the_same_data_have_the_same_folds_for_good():
    """Members of a run that were planned on different days must hold out the same films."""
    folds = assign_folds(random_frame(80, 2), FINDINGS, 5)
    assert hashlib.sha256(folds.astype(np.uint8).tobytes()).hexdigest()[:16] == GOLDEN


def test_uncertain_and_blank_cells_move_nobody():
    frame = random_frame(100, 3)
    other = frame.assign(**{slug: frame[slug].where(frame[slug] == 1, 0) for slug in FINDINGS})
    np.testing.assert_array_equal(assign_folds(frame, FINDINGS, 3), assign_folds(other, FINDINGS, 3))


@pytest.mark.parametrize(("count", "message"), [(1, "give at least 2"), (9, "8 patients cannot fill 9 folds")])
def test_what_cannot_be_is_a_sentence(count, message):
    with pytest.raises(ValueError, match=message):
        assign_folds(random_frame(8, 0), FINDINGS, count)
