"""models/statistics/calibration.py: a parent at least as probable as its likeliest child."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.statistics.calibration import raise_parents
from pathologies.findings.catalog import descendants

PARENTS = {"opacity": [], "lesion": ["opacity"], "mass": ["lesion"], "edema": ["opacity"], "fracture": []}
SLUGS = list(PARENTS)


def test_children_of_children_count():
    assert descendants("opacity", PARENTS) == ["lesion", "mass", "edema"]
    assert descendants("mass", PARENTS) == []
    raised = raise_parents([[0.1, 0.2, 0.7, 0.3, 0.9]], SLUGS, PARENTS)
    np.testing.assert_array_equal(raised, [[0.7, 0.7, 0.7, 0.3, 0.9]])


def test_parents_that_are_not_predicted_play_no_part():
    np.testing.assert_array_equal(raise_parents([[0.2, 0.8]], ["edema", "fracture"], PARENTS), [[0.2, 0.8]])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_consistent_only_upwards_once_is_enough_and_the_order_is_free(seed):
    draws = np.random.default_rng(seed)
    probability = draws.random((20, len(SLUGS)))
    raised = raise_parents(probability, SLUGS, PARENTS)
    for child, parents in PARENTS.items():
        for parent in parents:
            assert (raised[:, SLUGS.index(parent)] >= raised[:, SLUGS.index(child)]).all()
    assert (raised >= probability).all()
    leaves = [SLUGS.index(slug) for slug in ("mass", "edema", "fracture")]
    np.testing.assert_array_equal(raised[:, leaves], probability[:, leaves])
    np.testing.assert_array_equal(raise_parents(raised, SLUGS, PARENTS), raised)
    order = draws.permutation(len(SLUGS))
    shuffled = raise_parents(probability[:, order], [SLUGS[at] for at in order], PARENTS)
    np.testing.assert_array_equal(shuffled, raised[:, order])


def test_a_circle_is_an_error():
    with pytest.raises(ValueError, match="The parents go in a circle: a lies below itself"):
        raise_parents([[0.1, 0.2]], ["a", "b"], {"a": ["b"], "b": ["a"]})
