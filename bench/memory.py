"""What memory do 1, 2 and 4 trainers on one data set take, beside a bare loop of the same network, batch and precision?

In: nothing (films of noise are written). Out: a table of proportional set sizes (PSS: a page that k processes share
counts 1/k in each). `own peak` is the largest PSS of a trainer without its share of the cache, `cache` the largest sum
of all trainers' shares of images.u8, as a part of that file. A trainer here is a whole job: epochs, select,
checkpoints, predictions. With --check, exit code 1 unless the cache counts once however many trainers there are, and no
trainer's own peak is above 1.15 times the bare loop's. Linux only: it reads /proc.
"""

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from bench.sides import Setup, answer, ask, started
from models.config import TrainConfig
from models.files.layout import TargetPaths, read_json, write_json
from models.training.cpu_features import cpu_precision
from orchestrator.formatting import aligned
from orchestrator.planning.memory import estimate
from orchestrator.training.environment import process_environment

OF_BARE, OF_FILE = 1.15, 1.02
JOB = "import sys; from pathlib import Path; from models.process.job import run_job; run_job(*map(Path, sys.argv[1:]))"
COLUMNS = ("trainers", "own peak MiB", "of the bare loop", "cache of its file", "all together MiB")
PAUSE = 0.1  # seconds between two looks at the processes, at least
LOOK = 3  # times as long as a look takes are they left alone: a look at four of 2 GiB takes most of a second
STOPS_WITHIN = 1.0  # seconds; one that waits for a disk takes longer
MIB = 2**20


@dataclass
class Peaks:
    """The largest sizes that were seen, in bytes."""

    own: dict[int, int] = field(default_factory=dict)  # process -> without the cache
    cache: int = 0  # of all processes together
    together: int = 0  # everything


@dataclass(frozen=True, kw_only=True)
class Row:
    trainers: int
    own: float
    bare: float
    cache: float  # share of the file
    together: float

    def cells(self) -> list[str]:
        return [str(self.trainers), f"{self.own / MIB:.0f}", f"{self.own / self.bare:.2f}", f"{self.cache:.2f}",
                f"{self.together / MIB:.0f}"]  # fmt: skip

    def faults(self) -> list[str]:
        found = [] if self.own <= OF_BARE * self.bare else [
            f"{self.trainers} trainers: the largest takes {self.own / self.bare:.2f} times the bare loop, "
            f"above {OF_BARE}."
        ]  # fmt: skip
        if self.cache > OF_FILE:
            found.append(f"{self.trainers} trainers: the cache counts {self.cache:.2f} times.")
        return found


def sizes(process: int, mapped: str = "") -> tuple[int, int]:
    """(PSS, that of the mapping of the file `mapped`) in bytes; zeros for a process that has ended."""
    whole = cache = 0
    try:
        # of a process with 2 GiB a tenth of a second, in which it stands still: `smaps` tells both at once
        with open(f"/proc/{process}/{'smaps' if mapped else 'smaps_rollup'}", encoding="utf-8") as stream:
            inside = False
            for line in stream:
                if line.startswith("Pss:"):
                    size = int(line.split()[1]) * 1024
                    whole, cache = whole + size, cache + size * inside
                elif mapped and not line.partition(" ")[0].endswith(":"):  # the head of the next mapping
                    inside = line.rstrip().endswith(mapped)
    except OSError:
        return 0, 0
    return whole, cache


@contextlib.contextmanager
def held(children: Sequence[subprocess.Popen]) -> Iterator[None]:
    """Stop all meanwhile: a page that one maps after another's share of it was read would count more than once."""
    try:
        for child in children:
            child.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + STOPS_WITHIN
        while any(state(child.pid) not in "TXZ" for child in children) and time.monotonic() < deadline:
            time.sleep(0.001)
        yield
    finally:
        for child in children:
            child.send_signal(signal.SIGCONT)


def state(process: int) -> str:
    """Its letter of proc(5); X for one that is gone."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as stream:
            return stream.read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def watch(children: Sequence[subprocess.Popen], mapped: str, peaks: Peaks, done: threading.Event) -> None:
    pause = PAUSE
    while not done.wait(pause):
        began = time.monotonic()
        with held(children if len(children) > 1 else ()):
            seen = {child.pid: sizes(child.pid, mapped) for child in children}
        pause = max(PAUSE, LOOK * (time.monotonic() - began))
        for process, (whole, cache) in seen.items():
            peaks.own[process] = max(peaks.own.get(process, 0), whole - cache)
        peaks.cache = max(peaks.cache, sum(cache for _, cache in seen.values()))
        peaks.together = max(peaks.together, sum(whole for whole, _ in seen.values()))


def watched(children: Sequence[subprocess.Popen], mapped: str = "") -> Peaks:
    """Look until all have ended."""
    peaks, done = Peaks(), threading.Event()
    thread = threading.Thread(target=watch, args=(children, mapped, peaks, done))
    thread.start()
    try:
        for child in children:
            child.wait()
    finally:
        done.set()
        thread.join()
    return peaks


def bare(setup: Setup, steps: int) -> int:
    """Peak of the bare loop: the network, one batch, forward, backward, update."""
    peaks, done = Peaks(), threading.Event()
    with started(setup) as child:
        thread = threading.Thread(target=watch, args=([child], "", peaks, done))
        thread.start()
        try:
            answer(child)
            for _ in range(steps):
                ask(child, 0)
                answer(child)
            time.sleep(2 * PAUSE)
        finally:
            done.set()
            thread.join()
    return peaks.own[child.pid]


def trainers(dataset: Path, folder: Path, config: TrainConfig, size: int, count: int) -> Peaks:
    """So many jobs at once, each with a seed of its own."""
    environment = os.environ | process_environment(config, 0, size) | {"HILUM_PROCESS": "training"}
    from tests.small_data import make_targets

    truth, children = np.load(dataset.parent / "truth.npy"), []
    roots = [folder / f"{count}-{index}-{time.monotonic_ns()}" for index in range(count)]
    for index, root in enumerate(roots):
        root.mkdir(parents=True)
        make_targets(truth).save(TargetPaths(root).targets)
        write_json(TargetPaths(root).config, {"config": asdict(config) | {"seed": index}})
        children.append(subprocess.Popen([sys.executable, "-c", JOB, str(dataset), str(root)], env=environment))
    peaks = watched(children, str(dataset / "images.u8"))
    for root in roots:
        outcome = read_json(TargetPaths(root).outcome)
        if outcome["status"] != "ok":
            raise RuntimeError(outcome["error"])
    return peaks


def make_data(folder: Path, films: int, size: int) -> Path:
    from tests.small_data import write_dataset

    truth = (np.arange(films) % 5 < 2).astype(float)
    np.save(folder / "truth.npy", truth)
    noise = np.random.default_rng(0).integers(0, 256, (films, size, size), dtype=np.uint8)
    return write_dataset(folder / "dataset", {"pneumonia": truth}, noise)


def run(config: TrainConfig, size: int, films: int, counts: Sequence[int], rounds: int) -> list[Row]:
    setup = Setup(side="limit", backbone=config.backbone, size=size, batch=config.batch_size, threads=config.threads,
                  precision=config.precision)  # fmt: skip
    alone: list[int] = []
    found: dict[int, list[Peaks]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory(prefix="hilum-memory-") as name:
        folder = Path(name).resolve()
        dataset = make_data(folder, films, size)
        file = (dataset / "images.u8").stat().st_size
        for _ in range(rounds):
            alone.append(bare(setup, 1))
            for count in counts:
                found[count].append(trainers(dataset, folder, config, size, count))
    return [
        Row(
            trainers=count,
            own=statistics.median(max(one.own.values()) for one in peaks),
            bare=statistics.median(alone),
            cache=statistics.median(one.cache for one in peaks) / file,
            together=statistics.median(one.together for one in peaks),
        )
        for count, peaks in found.items()
    ]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", default="resnet18", help="timm model (default resnet18)")
    parser.add_argument("--size", type=int, default=320, help="pixels a side (default 320)")
    parser.add_argument("--batch", type=int, default=32, help="films a step (default 32)")
    parser.add_argument("--films", type=int, default=288, help="of noise; five of nine are trained on (default 288)")
    parser.add_argument("--trainers", default="1,2,4", help="how many at once (default 1,2,4)")
    parser.add_argument("--precision", default=cpu_precision(), help="fp32 or bf16 (default: as `auto` here)")
    parser.add_argument("--rounds", type=int, default=2, help="of all, in turn (default 2)")
    parser.add_argument("--check", action="store_true", help="exit 1 where a stated figure is not reached")
    options = parser.parse_args(words)
    config = TrainConfig(backbone=options.backbone, batch_size=options.batch, precision=options.precision, epochs=1,
                         device="cpu", threads=1)  # fmt: skip
    counts = [int(word) for word in options.trainers.split(",")]
    rows = run(config, options.size, options.films, counts, options.rounds)
    print(f"{config.backbone}, {options.size} pixels, batch {config.batch_size}, {config.precision}")
    job = estimate(config, options.size, options.films).host
    print(f"the bare loop takes {rows[0].bare / MIB:.0f} MiB, a job is estimated at {job / MIB:.0f}")
    print(aligned(COLUMNS, [row.cells() for row in rows]))
    faults = [fault for row in rows for fault in row.faults()]
    for fault in faults:
        print(fault)
    return int(options.check and bool(faults))


if __name__ == "__main__":
    sys.exit(main())
