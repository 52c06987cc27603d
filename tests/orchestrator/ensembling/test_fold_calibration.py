"""Fitted on single answers out of fold, used on the mean of the folds' networks: how far is that off?

A simulation of five networks that agree as those of five folds of nih-sample did (correlation .84 to .97; there .90).
"""

import numpy as np
import pytest

from models.statistics import conformal, metrics, reliability
from models.statistics.blending import align_folds
from models.statistics.calibration import Calibration
from orchestrator.ensembling.calibration_fit import fit_finding
from tests.fake_run import QUICK

FOLDS, FILMS, NEW = 5, 1500, 8000


def films(draws: np.random.Generator, count: int, own: float, shift: np.ndarray, stretch: np.ndarray):
    """(truth, networks x films logits): what all networks see alike, and what each sees by itself."""
    truth = (draws.random(count) < 0.2).astype(float)
    alike = 1.4 * truth + draws.normal(size=count)
    return truth, shift[:, None] + stretch[:, None] * (alike + own * draws.normal(size=(FOLDS, count)))


def judged(own: float, spread: float, align: bool = True) -> dict[str, float]:
    """The figures of the mean of the networks on new films, the mean over three simulations."""
    found = []
    for seed in range(3):
        draws = np.random.default_rng(seed)
        shift, stretch = 1.5 * spread * draws.normal(size=FOLDS), np.exp(spread * draws.normal(size=FOLDS))
        truth, logits = films(draws, FILMS, own, shift, stretch)
        fold = np.arange(FILMS) % FOLDS
        score = logits[fold, np.arange(FILMS)]
        entry = fit_finding(align_folds(score, fold) if align else score, truth, np.arange(FILMS).astype(str), QUICK)
        truth, logits = films(draws, NEW, own, shift, stretch)
        calibration, zone = Calibration.from_dict(entry["calibration"]), entry["conformal"]
        probability = calibration.apply(logits.mean(axis=0))
        covered = conformal.coverages(conformal.answer(probability, zone), truth)
        found.append({
            "agreement": np.corrcoef(logits)[np.triu_indices(FOLDS, 1)].mean(),
            "slope": reliability.calibration_line(reliability.log_odds(probability), truth)[0],
            "ece": reliability.ece(probability, truth),
            "auc_gain": metrics.auc(probability, truth) - np.mean([metrics.auc(one, truth) for one in logits]),
            "covered": min(covered["positives_covered"], covered["negatives_covered"]),
        })  # fmt: skip
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


@pytest.mark.parametrize(("own", "agreement"), [(0.2, 0.97), (0.5, 0.84)])
def test_the_mean_is_a_little_surer_than_it_says_and_its_zones_cover_what_they_promise(own, agreement):
    found = judged(own, spread=0)
    assert found["agreement"] == pytest.approx(agreement, abs=0.015)
    assert found["auc_gain"] > 0
    expected = (1 + own**2) / (1 + own**2 / FOLDS)  # the variance of a network over that of their mean, in a class
    assert found["slope"] == pytest.approx(expected, abs=0.08)
    assert found["slope"] < 1.25  # above 1: too careful
    assert found["ece"] < 0.04
    assert found["covered"] > 0.89


def test_networks_on_scales_of_their_own_are_off_unless_they_are_aligned():
    plain, aligned = judged(0.35, 0.25, align=False), judged(0.35, 0.25)
    assert plain["slope"] > aligned["slope"] + 0.08
    assert aligned["slope"] == pytest.approx(1.1, abs=0.08)  # as without scales of their own
