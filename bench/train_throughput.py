"""How near do hilum's training steps come to the bare network, and how far are they from the classic loop?

In: nothing (phantom films are drawn into --work or a temporary folder). Out: a table of images a second and ratios.
(a) hilum's own steps from the cache, augmentation included; (b) the same network, number format and optimiser on one
tensor in memory, the limit; (c) one file decoded and augmented for every item with Pillow and torchvision in a
DataLoader with workers, fp32, NCHW; (d) the same in bf16 (fp32 where the processor does not compute in bf16, since it
is faster there) and channels_last. Threads and workers of (c) and (d) are tried out first. Every figure is taken in a
fresh process, the sides alternate, medians are compared. With --check, exit code 1 unless for every network and kind of
file (a) is at least .92 of (b), 2.2 times (c) and not below (d). The figure for (c) was stated for a processor that
computes in bf16; on another (b) itself may stay below it, and a line says so.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from bench.sides import Setup, cores, rate, write_films
from models.training.cpu_features import cpu_precision
from orchestrator.formatting import aligned

OF_LIMIT, OF_CLASSIC, OF_SAME_FORMAT = 0.92, 2.2, 1.0
LARGE = 1024  # side of the PNG films, as NIH gives them out
KINDS = ("jpeg", "png")
COLUMNS = ("network, files", "a hilum", "b limit", "c classic", "d its best", "a / b", "a / c", "a / d", "b / c")


@dataclass(frozen=True, kw_only=True)
class Course:
    folder: Path
    backbones: tuple[str, ...]
    size: int
    batch: int
    seconds: float
    rounds: int

    def setup(self, side: str, backbone: str, **changes: object) -> Setup:
        plain = Setup(side=side, backbone=backbone, size=self.size, batch=self.batch, threads=cores(),
                      precision=cpu_precision(), data=str(self.folder / "cache"))  # fmt: skip
        return replace(plain, **changes)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Images a second of the four sides: medians of the rounds."""

    name: str
    hilum: float
    limit: float
    classic: float
    same: float

    @property
    def ratios(self) -> tuple[float, float, float]:
        return self.hilum / self.limit, self.hilum / self.classic, self.hilum / self.same

    def cells(self) -> list[str]:
        rates = (self.hilum, self.limit, self.classic, self.same)
        return [self.name, *(f"{value:.1f}" for value in rates), *(f"{value:.2f}" for value in self.ratios),
                f"{self.limit / self.classic:.2f}"]  # fmt: skip

    def faults(self) -> list[str]:
        """The stated figures that are not reached."""
        of_limit, of_classic, of_same = self.ratios
        found = [] if of_limit >= OF_LIMIT else [f"{self.name}: (a) is {of_limit:.2f} of (b), below {OF_LIMIT}."]
        if of_classic < OF_CLASSIC:
            text = f"{self.name}: (a) is {of_classic:.2f} times (c), below {OF_CLASSIC}."
            if self.limit < OF_CLASSIC * self.classic:
                text += f" Here no loop can be: (b), the network alone, is {self.limit / self.classic:.2f} times (c)."
            found.append(text)
        if of_same < OF_SAME_FORMAT:
            found.append(f"{self.name}: (a) is {of_same:.2f} of (d), below it.")
        return found


def draw(folder: Path, count: int, size: int, large: int = LARGE) -> None:
    """The same phantom films as a cache, as JPEG of the network's size and as large PNG; what is there is kept."""
    if (folder / "cache" / "manifest.json").exists():
        return
    from pathologies.phantom.writer import PhantomConfig, write_phantom

    shutil.rmtree(folder / "phantom", ignore_errors=True)
    write_phantom(folder / "phantom", PhantomConfig(patients=count, size=large, workers=cores()))
    films = []
    for kind in KINDS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(sorted((folder / "phantom" / "train").rglob("*.jpg"))[:count]):
        with Image.open(path) as film:
            square = film.convert("L").resize((large, large))
        small = square.resize((size, size), Image.Resampling.BOX)
        square.save(folder / "png" / f"{index:04d}.png")
        small.save(folder / "jpeg" / f"{index:04d}.jpg", quality=90)
        films.append(np.asarray(small))
    write_films(folder / "cache", np.stack(films))


def tuned(course: Course, same_format: bool, kind: str) -> Setup:
    """The classic loop with the threads and workers that are fastest here, tried on the first network."""
    n = cores()
    changes = {"data": str(course.folder / kind)}
    changes |= {} if same_format else {"precision": "fp32", "channels_last": False}
    pairs = sorted({(n, n), (n, 1), (max(n - 1, 1), 1)})
    setups = [course.setup("classic", course.backbones[0], threads=threads, workers=workers, **changes)
              for threads, workers in pairs]  # fmt: skip
    return max(setups, key=lambda setup: rate(setup, course.seconds / 2))


def run(course: Course, kinds: Sequence[str]) -> list[Row]:
    classic = {(name, kind): tuned(course, name == "same", kind) for name in ("classic", "same") for kind in kinds}
    for (_, kind), one in classic.items():
        layout = "channels_last" if one.channels_last else "NCHW"
        print(f"classic loop, {kind}, {one.precision}, {layout}: {one.threads} threads, {one.workers} workers")
    rows = []
    for backbone in course.backbones:
        setups = {(name, ""): course.setup(name, backbone) for name in ("hilum", "limit")}
        setups |= {key: replace(setup, backbone=backbone) for key, setup in classic.items()}
        rows += rows_of(backbone, kinds, measured(setups, course))
    return rows


def measured(setups: Mapping[tuple[str, str], Setup], course: Course) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], list[float]] = {key: [] for key in setups}
    for index in range(course.rounds):
        order = list(setups) if index % 2 == 0 else list(setups)[::-1]
        for key in order:
            found[key].append(rate(setups[key], course.seconds))
    return {key: statistics.median(values) for key, values in found.items()}


def rows_of(backbone: str, kinds: Sequence[str], rates: Mapping[tuple[str, str], float]) -> list[Row]:
    return [
        Row(
            name=f"{backbone}, {kind}",
            hilum=rates["hilum", ""],
            limit=rates["limit", ""],
            classic=rates["classic", kind],
            same=rates["same", kind],
        )
        for kind in kinds
    ]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.train_throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--backbones", default="resnet18,resnet34", help="timm models (default resnet18,resnet34)")
    parser.add_argument("--size", type=int, default=320, help="pixels a side (default 320)")
    parser.add_argument("--batch", type=int, default=32, help="films a step (default 32)")
    parser.add_argument("--films", type=int, default=128, help="files of each kind (default 128)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of files (default jpeg,png)")
    parser.add_argument("--large", type=int, default=LARGE, help=f"side of the PNG films (default {LARGE})")
    parser.add_argument("--seconds", type=float, default=15, help="of every measurement (default 15)")
    parser.add_argument("--rounds", type=int, default=3, help="of all sides, in turn (default 3)")
    parser.add_argument("--work", type=Path, help="a folder for the films, used again if they are there")
    parser.add_argument("--check", action="store_true", help="exit 1 where a stated figure is not reached")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="hilum-throughput-") as temporary:
        folder = options.work or Path(temporary)
        draw(folder, options.films, options.size, options.large)
        course = Course(folder=folder, backbones=tuple(options.backbones.split(",")), size=options.size,
                        batch=options.batch, seconds=options.seconds, rounds=options.rounds)  # fmt: skip
        rows = run(course, options.kinds.split(","))
    print(f"images a second, {options.size} pixels, batch {options.batch}, {cores()} CPUs, hilum in {cpu_precision()}, "
          f"medians of {options.rounds}")  # fmt: skip
    print(aligned(COLUMNS, [row.cells() for row in rows]))
    faults = [fault for row in rows for fault in row.faults()]
    for fault in faults:
        print(fault)
    return int(options.check and bool(faults))


if __name__ == "__main__":
    sys.exit(main())
