"""The search space: each row names a field, the defaults lie in it, and proposals come from the files alone."""

import dataclasses
import math

import numpy as np
import pytest

from models.config import TrainConfig, build_config
from orchestrator.tuning.space import SPACE, STARTUP_TRIALS, Dimension, Told, propose, space_for
from pathologies.findings.catalog import load_catalog
from pathologies.findings.policy import LabelPolicy

DEFAULTS = TrainConfig(uncertain="ignore", blank="zero").to_dict()
MIXED = np.array([1.0, 0.0, -1.0, np.nan] * 30)


def fields(space):
    return [one.field for one in space]


def test_every_dimension_is_a_field_and_every_edge_of_it_is_a_configuration():
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    assert len(set(fields(SPACE))) == len(SPACE)
    for one in SPACE:
        assert one.field in known
        assert len(one.reason) > 20
        for value in one.choices or (one.low, one.high):
            assert getattr(build_config({one.field: value}), one.field) == value
            if one.field in ("uncertain", "blank"):  # spelt as a policy spells itself, else it would not be recognised
                assert getattr(LabelPolicy(**{one.field: value}), one.field) == value
        assert one.choices or one.low < one.high


def test_the_defaults_and_every_finding_s_own_settings_are_a_point_of_the_space():
    for pathology in load_catalog().values():
        settings = dict(pathology.training) | pathology.policy.to_dict()
        config = build_config(settings).to_dict()
        for one in space_for(MIXED, config, ()):
            assert one.contains(config[one.field]), (pathology.slug, one.field)


def test_what_is_fixed_or_cannot_change_anything_is_left_out():
    assert fields(space_for(MIXED, DEFAULTS, ())) == fields(SPACE)
    assert "dropout" not in fields(space_for(MIXED, DEFAULTS, ("dropout", "epochs")))
    assert {"uncertain", "blank"}.isdisjoint(fields(space_for(np.array([1.0, 0.0] * 30), DEFAULTS, ())))
    without_negatives = np.array([1.0, -1.0, np.nan] * 30)
    assert "blank" not in fields(space_for(without_negatives, DEFAULTS, ()))
    assert "uncertain" in fields(space_for(without_negatives, DEFAULTS, ()))


def test_a_range_grows_to_hold_the_default():
    unusual = DEFAULTS | {"rotation": 20.0, "batch_size": 24, "uncertain": "soft(0.1,0.2)", "weight_decay": 0.0}
    space = {one.field: one for one in space_for(MIXED, unusual, ())}
    assert space["rotation"].high == 20
    assert 24 in space["batch_size"].choices
    assert "soft(0.1,0.2)" in space["uncertain"].choices
    assert space["weight_decay"].low == 1e-3  # 0 has no logarithm: that default is not told to the sampler
    told = [Told(values=unusual, state="ok", score=0.7)]
    assert propose(tuple(space.values()), told, 1, (0, "edema"))["weight_decay"] >= 1e-3


def test_a_proposal_depends_on_its_arguments_alone():
    told = [Told(values=DEFAULTS, state="ok", score=0.7, epoch=3)]
    first = propose(SPACE, told, 1, (0, "edema"))
    assert first == propose(SPACE, told, 1, (0, "edema"))
    assert all(one.contains(first[one.field]) for one in SPACE)
    for other in ((2, (0, "edema")), (1, (1, "edema")), (1, (0, "fracture"))):
        assert propose(SPACE, told, *other) != first


LINE = (Dimension(field="learning_rate", low=1e-4, high=1e-1, log=True, reason=""),)


def searched(seed, trials=40):
    told = []
    for number in range(trials):
        values = propose(LINE, told, number, (seed, "edema"))
        told.append(Told(values=values, state="ok", score=-distance(values["learning_rate"])))
    return [distance(one.values["learning_rate"]) for one in told]


def distance(rate):
    return abs(math.log10(rate / 3e-3))


def test_the_sampler_learns_from_what_it_is_told():
    """Random rates lie 0.75 decades from the optimum on average; the later proposals must lie much nearer."""
    late = np.mean([searched(seed)[20:] for seed in range(3)])
    early = np.mean([searched(seed)[:STARTUP_TRIALS] for seed in range(12)])
    assert early == pytest.approx(0.75, abs=0.2)
    assert late < 0.4


def test_failed_trials_are_worse_than_all_others():
    """Rates above 1e-2 fail: few of the later proposals lie there."""
    told = []
    for number in range(40):
        values = propose(LINE, told, number, (0, "edema"))
        bad = values["learning_rate"] > 1e-2
        told.append(Told(values=values, state="failed" if bad else "ok", score=None if bad else 0.5 + number % 3 / 100))
    assert sum(one.state == "failed" for one in told[20:]) <= 3


@pytest.mark.parametrize("state", ["running", "stopped", "failed", "ok"])
@pytest.mark.parametrize("score", [None, math.nan, 0.7])
def test_any_state_of_a_trial_can_be_told(state, score):
    assert propose(LINE, [Told(values=DEFAULTS, state=state, score=score, epoch=1)], 1, (0, "edema"))
