"""The learning-rate range test (Smith 2017, section 3.3): which rates teach a network, and which make it diverge.

In: the task of one training. Out: the loss at each of a ramp of rates, and two suggestions. A network of its own takes
the real steps of the training, on films of part `train` alone, and is thrown away; nothing is written. Called by
orchestrator.tuning.lr_finder.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.data.loading import epoch_order
from models.training.loop import Batch, Task, apply_gradients, train_step
from models.training.optimisation import Machine, assemble, freeze
from pathologies.errors import InputError

# The last bias starts at the prevalence, so the first loss is that of a network which knows nothing else. Twice it is
# run away. (Multiples of the lowest loss, which is the custom, mean nothing once a few films are known by heart.)
DIVERGED = 2.0
START = 5  # steps whose mean is the first loss
MEMORY = 0.8  # of the running mean by which the test ends
SPREAD = 0.03  # of the Gaussian that smooths the curve afterwards, as a share of the steps
PASSES = 3  # over the films, where they are few
STEPS = (40, 100)
LEAST_FALL = 5.0  # standard errors of the smoothed loss: over the ramp, chance alone often makes a fall of three


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """The rates, the same factor from each to the next. Six decades hold what any optimiser here can use."""

    low: float = 1e-5
    high: float = 10.0
    steps: int | None = None  # none: a hundred, but of few films fewer, lest the network know them by heart meanwhile

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise InputError(
                f"The rates go from {self.low:g} to {self.high:g}: give a lowest above 0 and a higher one."
            )
        if self.steps is not None and self.steps < 10:
            raise InputError(f"{self.steps} steps are too few to see a curve: give at least 10.")

    def rates(self, updates: int) -> np.ndarray:
        """`updates`: how many an epoch has."""
        return np.geomspace(self.low, self.high, self.steps or int(np.clip(PASSES * updates, *STEPS)))


@dataclass(frozen=True, kw_only=True)
class RangeTest:
    """What the ramp showed. `smoothed` has no lag: a rate's value is the mean of those around it."""

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    diverged: float | None  # the rate at which the loss ran away; None: it did not, up to the highest
    passes: float  # how often every film was seen

    @property
    def lowest(self) -> int:
        return int(np.argmin(self.smoothed))

    @property
    def steepest(self) -> float | None:
        """The rate at which the loss falls fastest per decade; None where it does not fall to speak of."""
        falling = self.smoothed[: self.lowest + 1]
        steps = np.diff(self.losses[: len(falling)])
        noise = math.sqrt(float(np.mean(steps**2)) / 2) if len(steps) else 0.0  # of one loss (von Neumann 1941)
        effective = 2 * math.sqrt(math.pi) * _spread(len(self.losses))  # losses that a Gaussian mean is made of
        if len(falling) < 3 or falling.max() - falling[-1] <= LEAST_FALL * noise / math.sqrt(effective):
            return None
        return float(self.rates[np.argmin(np.gradient(falling))])

    @property
    def tenth(self) -> float | None:
        """A tenth of the rate at which the loss ran away."""
        return None if self.diverged is None else self.diverged / 10

    def to_dict(self) -> dict[str, Any]:
        return {
            "suggestions": {"steepest_descent": self.steepest, "tenth_of_divergence": self.tenth},
            "diverged": self.diverged,
            "passes": self.passes,
            "rates": self.rates.tolist(),
            "losses": self.losses.tolist(),
            "smoothed": self.smoothed.tolist(),
        }


def run_range_test(task: Task, ramp: Ramp, on_step: Callable[[int, int], None] | None = None) -> RangeTest:
    """Take the ramp's steps, or as many as the network bears."""
    truth = task.targets.truth(task.targets.usable("train"))
    if len(np.unique(truth >= 0.5)) < 2:
        raise InputError(f"All {len(truth)} films of part `train` have the same answer: there is nothing to learn.")
    machine = assemble(task.config, truth, task.pixels.size)
    updates = math.ceil(task.targets.epoch_films / (task.config.batch_size * task.config.accumulate))
    batches, rates = _batches(task, machine), ramp.rates(updates)
    losses: list[float] = []
    mean, diverged = 0.0, None
    for step, rate in enumerate(rates):
        losses.append(_step(task, machine, batches, float(rate), step))
        if on_step:
            on_step(step + 1, len(rates))
        mean = losses[0] if not step else MEMORY * mean + (1 - MEMORY) * losses[-1]
        if not math.isfinite(mean) or mean > DIVERGED * np.mean(losses[:START]):
            diverged = float(rate)
            break
    values = np.asarray(losses)
    return RangeTest(
        rates=rates[: len(values)],
        losses=values,
        smoothed=smooth(values),
        diverged=diverged,
        passes=len(values) / updates,
    )


def smooth(losses: np.ndarray) -> np.ndarray:
    """Gaussian means of the curve; what ran away counts as DIVERGED times the first, not to drown what came before."""
    start = losses[:START][np.isfinite(losses[:START])]
    ceiling = DIVERGED * float(start.mean()) if len(start) else 0.0
    values = np.clip(np.nan_to_num(losses, nan=ceiling, posinf=ceiling), None, ceiling)
    place = np.arange(len(values))
    weight = np.exp(-0.5 * ((place[:, None] - place) / _spread(len(values))) ** 2)
    return weight @ values / weight.sum(axis=1)


def _spread(steps: int) -> float:
    return max(SPREAD * steps, 1.0)


def _batches(task: Task, machine: Machine) -> Iterator[Batch]:
    """The training's own batches and their places, epoch after epoch."""
    positions, size = task.targets.usable("train"), task.config.batch_size
    epoch = 0
    while True:
        order = epoch_order(task.targets, positions, task.config, epoch)
        machine.network.train()
        freeze(machine.network, task.config, epoch)
        for step in range(len(order) // size):
            yield order[step * size :][:size], (task.config.seed, epoch, step)
        epoch += 1


def _step(task: Task, machine: Machine, batches: Iterator, rate: float, update: int) -> float:
    """The mean loss of one update at this rate, before it."""
    for group in machine.optimiser.param_groups:
        group["lr"] = rate * group["share"]
    group = [next(batches) for _ in range(task.config.accumulate)]
    found = [float(train_step(task, machine, *batch, group)[0]) for batch in group]
    apply_gradients(machine, task.config, update)
    return float(np.mean(found))
