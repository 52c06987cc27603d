"""What the training of networks cost: epochs, image passes, seconds.

In: trained networks of a run. Out: a Cost of one side of a comparison, and how two of them relate. Called by
`orchestrator.evaluation.compare_runs`. A film that goes through a network once, forwards and backwards, is an image
pass; passes times pixels stand for the arithmetic where both sides have the same backbone. A network that branched out
of a shared one has cost the shared one's epochs up to there too; they count once for all that branched.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from models.data.targets import Targets
from models.files.layout import RunPaths, TargetPaths, read_json, read_json_lines
from orchestrator.ensembling.members import Trained

EQUAL = 1.1  # compute within this ratio is called equal


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one side; a network that several findings share is counted once."""

    networks: int
    epochs: tuple[int, ...]  # that were trained, each number once, rising
    passes: int  # of images through a network in training
    pixels: int  # passes times pixels of a film
    seconds: float  # of training steps
    backbones: tuple[str, ...]

    def describe(self) -> str:
        count = "1 network" if self.networks == 1 else f"{self.networks} networks"
        return (
            f"{count}, {span_of(self.epochs)} epochs, {self.passes:,} image passes, {self.seconds:,.0f} s of training"
        )


def cost_of(members: Iterable[Trained]) -> Cost:
    """The cost of the networks behind these members."""
    networks = {str(one.paths.root): one for one in members}
    spent = {root: _Spent.on(one) for root, one in networks.items()}
    for one in networks.values():
        if _branched_at(one):
            start = RunPaths(one.paths.root.parents[1]).shared(int(one.outcome["branched_from"]["job"].split("/")[1]))
            if str(start.root) not in spent:
                spent[str(start.root)] = _Spent.of(start, read_json(start.config)["config"], _branched_at(one))
    return Cost(
        networks=len(networks),
        epochs=epochs_of(networks.values()),
        passes=sum(one.passes for one in spent.values()),
        pixels=sum(one.pixels for one in spent.values()),
        seconds=sum(one.seconds for one in spent.values()),
        backbones=tuple(sorted({one.config["backbone"] for one in networks.values()})),
    )


def epochs_of(members: Iterable[Trained]) -> tuple[int, ...]:
    """Of each network, those before it branched included."""
    return tuple(sorted({one.outcome["epochs_trained"] + _branched_at(one) for one in members}))


def _branched_at(one: Trained) -> int:
    return (one.outcome.get("branched_from") or {"epoch": 0})["epoch"]


def compute_ratio(first: Cost, second: Cost) -> tuple[float, str]:
    """(compute of the first over that of the second, what it was counted in)."""
    trained = first.pixels and second.pixels  # heads train no pixel
    if trained and first.backbones == second.backbones and len(first.backbones) == 1:
        return first.pixels / second.pixels, "image passes times pixels"
    why = "since the backbones differ" if trained else "since heads train no network"
    return first.seconds / max(second.seconds, 1e-9), f"seconds, {why}"


def relation(names: tuple[str, str], costs: tuple[Cost, Cost]) -> str:
    """Whether a comparison is at equal epochs or at equal compute, and how to make the other one."""
    ratio, unit = compute_ratio(*costs)
    alike = costs[0].epochs == costs[1].epochs and len(costs[0].epochs) == 1
    even = 1 / EQUAL <= ratio <= EQUAL
    epochs = f"at equal epochs ({costs[0].epochs[0]})" if alike else "not at equal epochs"
    compute = "at equal compute" if even else "not at equal compute"
    text = f"This is {epochs} and {compute}: {names[0]} took {ratio:.2f} times the compute of {names[1]} ({unit})."
    if alike and not even:
        cheap, factor = (names[1], ratio) if ratio > 1 else (names[0], 1 / ratio)
        more = round(costs[0].epochs[0] * factor)
        text += f" For equal compute train {cheap} with --set epochs={more} in another run, and compare that one."
    return text


def span_of(numbers: tuple[int, ...]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


@dataclass(frozen=True, kw_only=True)
class _Spent:
    """On one training, or its first epochs."""

    passes: int
    pixels: int
    seconds: float

    @classmethod
    def on(cls, one: Trained) -> "_Spent":
        if one.head:  # no film goes through a network
            return cls(passes=0, pixels=0, seconds=one.outcome["seconds"])
        return cls.of(one.paths, one.config, one.outcome["epochs_trained"])

    @classmethod
    def of(cls, paths: TargetPaths, config: Mapping[str, Any], epochs: int) -> "_Spent":
        films, batch = Targets.load(paths.targets).epoch_films, config["batch_size"]
        passes = -(-films // batch) * batch * epochs  # the last batch of an epoch is filled up
        size = config["image_size"] or read_json(paths.config)["data"]["size"]
        attempt = paths.newest_attempt()
        history = read_json_lines(attempt.history)[:epochs] if attempt else []
        return cls(passes=passes, pixels=passes * size**2, seconds=sum((row["seconds"] for row in history), 0.0))
