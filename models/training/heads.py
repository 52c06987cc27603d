"""A head fitted on the features of a frozen encoder: regularised logistic regression, or one hidden layer.

In: features of the films taught, their targets, a fold for each film (all films of a patient in one). Out: a Head, how
strongly it is regularised and how that was chosen. Called by models.process.head_job. The strength is the one whose
log-loss on left-out folds is least, of equals the strongest; the films that later judge the head are not among them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.network.encoder import Head

# Penalties, per film, on half the squared weights of standardised features: from strong to weak, so that each fit
# begins where the last one ended.
STRENGTHS = {
    "linear": tuple(10.0 ** (power / 2) for power in range(2, -9, -1)),
    "hidden": (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001),
}
WITHOUT_CHOICE = 0.1  # where no fold can be left out with both classes on either side
ENOUGH = 3  # weaker penalties in a row without a better score end the search: they cost most and gain nothing
HIDDEN = 32  # units
COMPONENTS = 128  # of the features, that the hidden layer looks at: their principal ones
STEPS = {"linear": 300, "hidden": 60}  # of L-BFGS at most; few are needed but where the penalty is weak
DOUBLE = 2**25  # numbers: up to so many features are computed with in double precision


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What a head learns from."""

    features: np.ndarray  # films x F, float32
    value: np.ndarray  # 1, 0, or in between
    weight: np.ndarray  # of each film in the loss
    fold: np.ndarray  # which fold of patients


@dataclass(frozen=True, kw_only=True)
class Fitted:
    head: Head
    hidden: int  # units of its hidden layer; 0 without one
    strength: float
    loss: float  # of the left-out folds; NaN without a choice
    losses: dict[float, float]  # by strength
    folds: int  # that were left out in turn


@dataclass(frozen=True, kw_only=True)
class _Space:
    """Where a head is fitted: standardised features, or their principal components; `matrix` and `shift` lead there."""

    points: Tensor  # films x K
    matrix: Tensor  # F x K
    shift: Tensor  # K, to be taken off afterwards


def fit_head(kind: str, taught: Taught, seed: int, alive: Callable[[], None] = lambda: None) -> Fitted:
    """`alive` is called between fits; it may raise."""
    space = _space(kind, taught.features)
    value, weight = (torch.from_numpy(one).to(space.points) for one in (taught.value, taught.weight))
    start = _start(kind, space.points.shape[1], float((weight @ value) / weight.sum()), seed)
    folds = [one for one in np.unique(taught.fold) if _both_sides(taught, taught.fold == one)]
    losses = _cross_validate(kind, space.points, value, weight, taught.fold, folds, start, alive) if folds else {}
    strength = min(losses, key=lambda one: (losses[one], -one)) if losses else WITHOUT_CHOICE
    found = start
    for one in [one for one in STRENGTHS[kind] if one > strength] if kind == "linear" else []:
        found = _minimise(kind, found, space.points, value, weight, one)
        alive()
    found = _minimise(kind, found, space.points, value, weight, strength)
    return Fitted(
        head=_as_head(kind, found, space),
        hidden=0 if kind == "linear" else HIDDEN,
        strength=strength,
        loss=losses.get(strength, float("nan")),
        losses=losses,
        folds=len(folds),
    )


def _cross_validate(
    kind: str, points: Tensor, value: Tensor, weight: Tensor, fold: np.ndarray, folds: Sequence[int], start: np.ndarray,
    alive: Callable[[], None],
) -> dict[float, float]:  # fmt: skip
    """The mean loss of the films left out, by strength."""
    left_out = [torch.from_numpy(fold == one) for one in folds]
    found, losses, worse = [start] * len(folds), {}, 0
    for strength in STRENGTHS[kind]:
        total = 0.0
        for number, out in enumerate(left_out):
            begin = found[number] if kind == "linear" else start
            found[number] = _minimise(kind, begin, points, value, torch.where(out, 0.0, weight), strength)
            total += float(
                _loss(kind, torch.from_numpy(found[number]).to(points), points[out], value[out]) @ weight[out]
            )
            alive()
        losses[strength] = total / float(sum(weight[out].sum() for out in left_out))
        worse = 0 if losses[strength] == min(losses.values()) else worse + 1
        if worse == ENOUGH:
            break
    return losses


def _both_sides(taught: Taught, out: np.ndarray) -> bool:
    """Whether the films outside the fold have both classes, and the fold has any film."""
    rest = taught.value[~out] >= 0.5
    return bool(out.any() and rest.any() and not rest.all())


def _minimise(
    kind: str, start: np.ndarray, points: Tensor, value: Tensor, weight: Tensor, strength: float
) -> np.ndarray:
    """Parameters of least mean loss and penalty, from `start`; deterministic for a number of threads."""
    from scipy.optimize import minimize

    total, width = weight.sum(), points.shape[1]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.from_numpy(flat).to(points).requires_grad_()
        loss = _loss(kind, parameters, points, value) @ weight / total
        whole = loss + strength / 2 * _penalised(kind, parameters, width).square().sum()
        (gradient,) = torch.autograd.grad(whole, parameters)
        return float(whole.detach()), gradient.double().numpy()

    tolerance = 1e-7 if points.dtype == torch.float64 else 1e-5
    options = {"maxiter": STEPS[kind], "gtol": tolerance, "ftol": tolerance / 100}
    return minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x


def _loss(kind: str, parameters: Tensor, points: Tensor, value: Tensor) -> Tensor:
    """Of every film."""
    return functional.binary_cross_entropy_with_logits(_logits(kind, parameters, points), value, reduction="none")


def _logits(kind: str, parameters: Tensor, points: Tensor) -> Tensor:
    if kind == "linear":
        return points @ parameters[:-1] + parameters[-1]
    weights, biases, last, bias = _parts(parameters, points.shape[1])
    return functional.relu(points @ weights.T + biases) @ last + bias


def _parts(parameters: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a hidden layer: its weights and biases, those of the last layer."""
    weights, biases, last, bias = parameters.split([HIDDEN * width, HIDDEN, HIDDEN, 1])
    return weights.reshape(HIDDEN, width), biases, last, bias


def _penalised(kind: str, parameters: Tensor, width: int) -> Tensor:
    """The weights without the biases."""
    if kind == "linear":
        return parameters[:-1]
    weights, _, last, _ = _parts(parameters, width)
    return torch.cat([weights.reshape(-1), last])


def _start(kind: str, width: int, prevalence: float, seed: int) -> np.ndarray:
    """Weights of 0, or drawn for a hidden layer; the last bias at the log-odds of the prevalence."""
    prevalence = min(max(prevalence, 1e-4), 1 - 1e-4)
    bias = [np.log(prevalence / (1 - prevalence))]
    if kind == "linear":
        return np.concatenate([np.zeros(width), bias])
    draws = np.random.default_rng(seed)
    weights = draws.normal(scale=width**-0.5, size=HIDDEN * width)
    return np.concatenate([weights, np.zeros(HIDDEN), draws.normal(scale=HIDDEN**-0.5, size=HIDDEN), bias])


def _space(kind: str, features: np.ndarray) -> _Space:
    """Every feature at mean 0 and spread 1 over the films taught; one that never changes counts for nothing."""
    points = torch.from_numpy(np.ascontiguousarray(features))
    points = points.double() if points.numel() <= DOUBLE else points.clone()
    mean, spread = points.mean(dim=0), points.std(dim=0, correction=0)
    scale = torch.where(spread > 1e-6 * (1 + mean.abs()), 1 / spread.clamp(min=1e-12), 0.0)
    points.sub_(mean).mul_(scale)
    if kind == "linear":
        return _Space(points=points, matrix=torch.diag(scale), shift=mean * scale)
    components = _components(points)
    matrix = scale[:, None] * components
    return _Space(points=points @ components, matrix=matrix, shift=mean @ matrix)


def _components(points: Tensor) -> Tensor:
    """F x K: the principal directions, all divided by the same number, so that a component's mean square is 1."""
    values, vectors = torch.linalg.eigh((points.T @ points / len(points)).double())
    kept = min(COMPONENTS, *points.shape)
    values, vectors = values[-kept:].flip(0), vectors[:, -kept:].flip(1)
    signs = torch.sign(vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)))  # eigh leaves them open
    return (vectors * signs / values.clamp(min=0).mean().sqrt().clamp(min=1e-12)).to(points)


def _as_head(kind: str, found: np.ndarray, space: _Space) -> Head:
    """The head on the features as they are: the way into the space becomes part of its first layer."""
    parameters = torch.from_numpy(found)
    matrix, shift = space.matrix.double(), space.shift.double()
    width = len(shift)
    head = Head(len(matrix), 0 if kind == "linear" else HIDDEN).requires_grad_(False)
    first = head.layers[0]
    if kind == "linear":
        weights, biases = parameters[None, :-1], parameters[-1:]
    else:
        weights, biases, last, bias = _parts(parameters, width)
        head.layers[-1].weight.copy_(last[None])
        head.layers[-1].bias.copy_(bias)
    first.weight.copy_(weights @ matrix.T)
    first.bias.copy_(biases - weights @ shift)
    return head
