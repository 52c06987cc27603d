"""What the training of networks cost: epochs, image passes, seconds.

In: trained networks of a run. Out: a Cost of one side of a comparison, and how two of them relate. Called by
`orchestrator.evaluation.compare_runs`. A film that goes through a network once, forwards and backwards, is an image
pass; passes times pixels stand for the arithmetic where both sides have the same backbone.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from models.data.targets import Targets
from models.files.layout import read_json, read_json_lines
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
    networks = {str(one.paths.root): one for one in members}.values()
    passes, pixels, seconds = 0, 0, 0.0
    for one in networks:
        seen = _films(one) * one.outcome["epochs_trained"]
        size = one.config["image_size"] or read_json(one.paths.config)["data"]["size"]
        passes, pixels, seconds = passes + seen, pixels + seen * size**2, seconds + _seconds(one)
    return Cost(
        networks=len(networks),
        epochs=epochs_of(networks),
        passes=passes,
        pixels=pixels,
        seconds=seconds,
        backbones=tuple(sorted({one.config["backbone"] for one in networks})),
    )


def epochs_of(members: Iterable[Trained]) -> tuple[int, ...]:
    return tuple(sorted({one.outcome["epochs_trained"] for one in members}))


def compute_ratio(first: Cost, second: Cost) -> tuple[float, str]:
    """(compute of the first over that of the second, what it was counted in)."""
    if first.backbones == second.backbones and len(first.backbones) == 1 and second.pixels:
        return first.pixels / second.pixels, "image passes times pixels"
    return first.seconds / max(second.seconds, 1e-9), "seconds, since the backbones differ"


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


def _films(one: Trained) -> int:
    """Films in one of its epochs; the last batch is filled up."""
    films, batch = Targets.load(one.paths.targets).epoch_films, one.config["batch_size"]
    return -(-films // batch) * batch


def _seconds(one: Trained) -> float:
    attempt = one.paths.newest_attempt()
    return sum(row["seconds"] for row in read_json_lines(attempt.history)) if attempt else 0.0
