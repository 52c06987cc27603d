import math

import numpy as np
import pytest
from sklearn import metrics as reference

from models.training.selection import log_loss, selection_rule, shared_summary, summary


def part(positives, negatives):
    return np.array([1.0] * positives + [0.0] * negatives)


@pytest.mark.parametrize(
    ("positives", "negatives", "name"),
    [(20, 20, "auc"), (19, 500, "log_loss"), (500, 19, "log_loss"), (1, 0, "log_loss"), (0, 50, "last_epoch")],
)
def test_the_rule_follows_the_counts(positives, negatives, name):
    rule = selection_rule(part(positives, negatives))
    assert rule.name == name
    assert f"{positives} positives and {negatives} negatives" in rule.reason


def test_every_rule_is_better_when_higher():
    truth = part(30, 30)
    good, bad = truth * 4 - 2, 2 - truth * 4
    assert selection_rule(truth).score(good, truth, 0) == 1.0
    assert selection_rule(truth).score(bad, truth, 0) == 0.0
    few = part(5, 30)
    rule = selection_rule(few)
    assert rule.score(few * 4 - 2, few, 0) > rule.score(2 - few * 4, few, 0)
    last = selection_rule(part(0, 30))
    assert last.score(np.zeros(30), part(0, 30), 4) > last.score(np.zeros(30), part(0, 30), 3)


def test_log_loss_is_scikit_learns():
    draws = np.random.default_rng(0)
    truth, logit = part(40, 60), draws.normal(size=100)
    probability = 1 / (1 + np.exp(-logit))
    assert log_loss(logit, truth) == pytest.approx(reference.log_loss(truth, probability), abs=1e-12)


def test_an_infinite_logit_costs_nothing_where_it_is_right_and_all_where_it_is_not():
    truth = np.array([1.0, 0.0, 1.0, 0.0])
    right = np.array([np.inf, -np.inf, 0.3, -0.2])
    others = log_loss(right[2:], truth[2:])
    assert log_loss(right, truth) == pytest.approx(others / 2)
    for wrong in ([-np.inf, -1, 1, -1], [1, np.inf, 1, -1]):
        assert log_loss(np.array(wrong), truth) == np.inf
    assert log_loss(np.array([np.inf]), np.array([0.7])) == np.inf
    assert math.isnan(log_loss(np.array([np.nan, 1]), truth[:2]))
    rule = selection_rule(part(5, 30))
    logit = np.zeros(35)
    logit[0] = -np.inf
    assert rule.score(logit, part(5, 30), 0) == -np.inf < rule.score(np.zeros(35), part(5, 30), 1)


def test_a_model_that_never_says_yes_has_recall_zero_and_no_precision():
    figures = summary("select", np.full(100, -9.0), part(16, 84))
    assert figures["select_recall"] == 0
    assert math.isnan(figures["select_precision"])
    assert figures["select_auc"] == 0.5
    assert (figures["select_positives"], figures["select_negatives"]) == (16, 84)


def test_a_part_without_positives_is_undefined_not_an_error():
    figures = summary("select", np.zeros(10), part(0, 10))
    assert all(math.isnan(figures[f"select_{name}"]) for name in ("auc", "average_precision", "recall"))


def columns(*parts_of_both):
    """Films x targets; shorter columns are unknown at the end."""
    parts = [part(positives, negatives) for positives, negatives in parts_of_both]
    longest = max(map(len, parts))
    return np.column_stack([np.pad(one, (0, longest - len(one)), constant_values=np.nan) for one in parts])


@pytest.mark.parametrize(
    ("counts", "name", "used"),
    [
        (((20, 30), (25, 21), (19, 400)), "mean_auc", (0, 1)),
        (((19, 30), (0, 40), (1, 400)), "mean_log_loss", (0, 2)),
        (((0, 30), (0, 40)), "last_epoch", ()),
    ],
)
def test_a_shared_network_is_chosen_by_the_targets_that_can_be_scored(counts, name, used):
    rule = selection_rule(columns(*counts))
    assert (rule.name, rule.columns) == (name, used)


def test_the_shared_score_is_the_mean_of_the_targets_own():
    truth = columns((30, 30), (20, 25), (3, 50))
    logit = np.random.default_rng(0).normal(size=truth.shape) + np.nan_to_num(truth)
    own = []
    for column in (0, 1):
        known = ~np.isnan(truth[:, column])
        own.append(reference.roc_auc_score(truth[known, column], logit[known, column]))
    assert selection_rule(truth).score(logit, truth, 0) == pytest.approx(np.mean(own))
    row = shared_summary("select", logit, truth, ["a", "b", "c"])
    assert row["targets"]["b"]["select_auc"] == pytest.approx(own[1])
    assert row["select_auc"] == pytest.approx(np.mean([row["targets"][slug]["select_auc"] for slug in "abc"]))
    assert (row["select_positives"], row["select_negatives"]) == (53, 105)
    few = columns((5, 20), (4, 25))
    rule = selection_rule(few)
    good, bad = np.nan_to_num(few) * 4 - 2, 2 - np.nan_to_num(few) * 4
    assert rule.score(good, few, 0) > rule.score(bad, few, 0)
