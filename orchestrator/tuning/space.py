"""The search space: which fields of TrainConfig a search varies, over what range, and why that range.

In: a finding's labels, its default configuration, what the user fixed, and the trials so far. Out: the dimensions that
can matter for this finding, and the next trial's values. Called by orchestrator.tuning.tune.

Not in the table, on purpose: `backbone` and `image_size` (they decide what a trial costs; give them with --set, and let
an ensemble's members differ in them), `epochs` (a search must not buy its gain with compute), `seed` (its effect is
noise, and a search would choose the luckiest), `snapshots` (further members change no score of a trial).
"""

import math
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FEWEST_NEGATIVES = 20  # explicit ones in `train`, below which blanks cannot be left out
STARTUP_TRIALS = 8  # drawn at random before the sampler has something to learn from


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One field of TrainConfig: a range (`low` to `high`, on a log scale or not) or a set of choices."""

    field: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()
    reason: str

    def contains(self, value: Any) -> bool:
        return value in self.choices if self.choices else self.low <= value <= self.high


SPACE: tuple[Dimension, ...] = (
    Dimension(
        field="learning_rate", low=1e-4, high=1e-2, log=True,
        reason="AdamW on a ResNet: below 1e-4 a dozen epochs do not suffice, above 1e-2 the loss diverges",
    ),
    Dimension(
        field="weight_decay", low=1e-3, high=0.3, log=True,
        reason="decoupled decay, a decade and a half around 0.05: none to too much for a small data set",
    ),
    Dimension(
        field="batch_size", choices=(16, 32, 64),
        reason="with one learning rate range these differ fourfold in noise; larger ones starve rare findings of steps",
    ),
    Dimension(
        field="warmup", low=0.05, high=0.5,
        reason="share of the rising learning rate; one-cycle's authors use up to half",
    ),
    Dimension(
        field="loss", choices=("bce", "focal", "asymmetric"),
        reason="the focal loss was made for many easy negatives (Lin et al. 2017), as rare findings have them; the "
        "asymmetric one lets go of them alone (Ridnik et al. 2021), and of negatives that may be wrong labels",
    ),
    Dimension(
        field="positive_weight", choices=("none", "balanced"),
        reason="weighting the positives up is the usual answer to imbalance, and often no better for ranking",
    ),
    Dimension(
        field="sampler", choices=("natural", "balanced"),
        reason="the other answer to imbalance: both classes equally often",
    ),
    Dimension(
        field="label_smoothing", low=0.0, high=0.1,
        reason="report labels are wrong in some per cent of the films; beyond 0.1 probabilities lose their meaning",
    ),
    Dimension(
        field="dropout", low=0.0, high=0.5,
        reason="none to half of the last layer, the range of the literature",
    ),
    Dimension(
        field="rotation", low=0.0, high=15.0,
        reason="films are tilted by a few degrees; beyond 15 no radiographer would have taken them",
    ),
    Dimension(
        field="translation", low=0.0, high=0.12,
        reason="beyond an eighth of the side the costophrenic angles leave the film",
    ),
    Dimension(
        field="scaling", low=0.0, high=0.25,
        reason="patients' sizes and the distance of the tube differ by about a quarter",
    ),
    Dimension(
        field="brightness", low=0.0, high=0.4,
        reason="exposure differs between devices; beyond 0.4 standard deviations a lung turns into an effusion",
    ),
    Dimension(
        field="contrast", low=0.0, high=0.4,
        reason="post-processing differs between vendors; beyond it, as for the brightness",
    ),
    Dimension(
        field="noise", low=0.0, high=0.3,
        reason="quantum noise differs with the dose; beyond 0.3 standard deviations fine lines of the lung drown in it",
    ),
    Dimension(
        field="erasing", low=0.0, high=0.5,
        reason="a blanked rectangle keeps a network from one landmark; its authors blank in up to half of the pictures "
        "(Zhong et al. 2020), and a small finding may lie under it",
    ),
    Dimension(
        field="mixup", low=0.0, high=0.4,
        reason="its authors gain with alpha between 0.1 and 0.4 and underfit beyond (Zhang et al. 2018)",
    ),
    Dimension(
        field="averaging", choices=(0.0, 0.99, 0.999),
        reason="none, or the mean of about the last hundred or thousand steps; a longer one would hold the start",
    ),
    Dimension(
        field="augment_probability", low=0.5, high=1.0,
        reason="how many of the training films are changed at all; the strengths go down to 0 by themselves",
    ),
    Dimension(
        field="uncertain", choices=("zeros", "ones", "ignore", "soft(0.55,0.85)", "soft(0,0.3)"),
        reason="no policy is best for all findings (Irvin et al. 2019); the soft ranges are Pham et al.'s (2021)",
    ),
    Dimension(
        field="blank", choices=("zero", "ignore"),
        reason="most labels of a report are blank: taken as negative they are many and some are wrong",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a sampler learns of one trial: its values; `score` once there is one, and the epoch that it is of."""

    values: Mapping[str, Any]
    state: str  # ok, stopped, failed, running
    score: float | None = None
    epoch: int = 0


def space_for(
    labels: np.ndarray, defaults: Mapping[str, Any], fixed: Collection[str], table: Sequence[Dimension] = SPACE
) -> tuple[Dimension, ...]:
    """The dimensions that can change something: not what the user fixed, nor a policy for labels that do not occur.

    `labels`: the raw labels of the finding in part `train` (1, 0, -1, -2, NaN). A range is widened to hold the default,
    so that the defaults are a point of the space.
    """
    idle = set(fixed)
    if not (labels == -1).any():
        idle.add("uncertain")
    if not np.isnan(labels).any() or (labels == 0).sum() < FEWEST_NEGATIVES:
        idle.add("blank")
    return tuple(_holding(one, defaults[one.field]) for one in table if one.field not in idle)


def propose(space: Sequence[Dimension], told: Sequence[Told], number: int, seed: tuple[int, str]) -> dict[str, Any]:
    """The values of trial `number`, by Optuna's tree-structured Parzen estimator over the trials told of.

    Depends on the arguments alone: there is no sampler whose state a kill could lose.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    root, slug = seed
    draw = np.random.SeedSequence([root, zlib.crc32(slug.encode()), number]).generate_state(1)[0]
    sampler = optuna.samplers.TPESampler(
        seed=int(draw), n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = {one.field: _distribution(one) for one in space}
    study.add_trials([_told(one, distributions) for one in told if all(d.contains(one.values[d.field]) for d in space)])
    return dict(study.ask(distributions).params)


def _holding(dimension: Dimension, default: Any) -> Dimension:
    if dimension.contains(default):
        return dimension
    described = vars(dimension)
    if dimension.choices:
        return Dimension(**described | {"choices": (*dimension.choices, default)})
    if dimension.log and default <= 0:  # no logarithm; this default is just not told to the sampler
        return dimension
    return Dimension(**described | {"low": min(dimension.low, default), "high": max(dimension.high, default)})


def _distribution(dimension: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _told(one: Told, distributions: Mapping[str, Any]) -> Any:
    """A trial for Optuna: one stopped early counts by the epoch that it reached, one that failed as worse than all."""
    from optuna.trial import TrialState, create_trial

    known = {"params": {name: one.values[name] for name in distributions}, "distributions": dict(distributions)}
    has_score = one.score is not None and math.isfinite(one.score)
    if one.state == "ok" and has_score:
        return create_trial(value=one.score, **known)
    if one.state == "running":
        return create_trial(state=TrialState.RUNNING, **known)
    steps = {one.epoch: one.score} if has_score else {}
    return create_trial(state=TrialState.PRUNED, intermediate_values=steps, **known)
