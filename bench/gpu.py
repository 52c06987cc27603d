"""How much of a GPU do hilum's training steps use, alone and twelve at once on one card?

In: nothing (films of noise are written). Out: a table of images a second, their share of the bare network's, the share
of the card's peak (measured with a large matrix product in the same number format), the share of the time in which
the card was idle (from nvidia-smi), and memory. (a) hilum's own steps from the cache; (b) the same network, number
format and optimiser on one tensor in memory; (a) with `deterministic=true`, whose cost is its share of (a); then (a) in
--processes processes at once for the same time. With --check, exit code 1 unless (a) is at least .90 of (b) and all at
once do at least .95 of what one alone does. Needs neither Ray nor the command line's packages; `--device cpu` with a
small --size shows that it runs.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bench.sides import Setup, answer, ask, started, write_films

OF_LIMIT, OF_ALONE = 0.90, 0.95
ALONE, LIMIT, REPEATABLE = "a hilum", "b limit", "a, deterministic"
COLUMNS = ("side", "images/s", "of (b)", "of (a)", "of the peak", "idle", "GPU GiB")


@dataclass(frozen=True, kw_only=True)
class Result:
    images: float  # a second, of all processes together
    idle: float | None = None  # share of the time; None where nvidia-smi is not there
    memory: float = 0.0  # bytes of the card, all processes


@dataclass
class Watch:
    """Utilisation of the card, looked at while the block runs."""

    busy: list[float] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        words = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
        while not self.done.wait(0.2):
            shown = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
            if shown and shown[0].isdigit():
                self.busy.append(int(shown[0]) / 100)

    @property
    def idle(self) -> float | None:
        return 1 - statistics.mean(self.busy) if self.busy else None


@contextlib.contextmanager
def watching(setup: Setup) -> Iterator[Watch]:
    watch = Watch()
    thread = threading.Thread(target=watch.look, daemon=True)
    if setup.device.startswith("cuda") and shutil.which("nvidia-smi"):
        thread.start()
    try:
        yield watch
    finally:
        watch.done.set()
        if thread.is_alive():
            thread.join()


def together(setup: Setup, processes: int, seconds: float) -> Result:
    """So many processes at once: all are warm before the clock starts, and none begins before the others are warm.

    Each measures its own seconds; the sum of their rates counts, as far as they ran at the same time.
    """
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(started(setup)) for _ in range(processes)]
        for child in children:
            answer(child)
        for child in children:  # once more together: what a step takes when the card is shared
            ask(child, min(seconds, 2.0))
        for child in children:
            answer(child)
        with watching(setup) as watch:
            began = time.perf_counter()
            for child in children:
                ask(child, seconds)
            results = [json.loads(answer(child)) for child in children]
            took = time.perf_counter() - began
    images = sum(one["images"] for one in results) / took  # the slowest counts: no share of the time is left out
    return Result(images=images, idle=watch.idle, memory=sum(one.get("gpu_bytes", 0) for one in results))


def operations(setup: Setup) -> float:
    """Floating point operations of a training step per film: multiplications and additions, forward and backward."""
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = timm.create_model(setup.backbone, num_classes=1, in_chans=1)
    counter = FlopCounterMode(display=False)
    with counter:
        network(torch.zeros(2, 1, setup.size, setup.size)).sum().backward()
    return counter.get_total_flops() / 2


def peak(setup: Setup) -> float:
    """Operations a second of a large matrix product, in a process of its own so that its memory is given back."""
    code = "import sys; from bench.gpu import multiply; print(multiply(*sys.argv[1:]))"
    words = [sys.executable, "-c", code, setup.device, setup.precision]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def multiply(device: str, precision: str) -> float:
    import torch

    cuda = device.startswith("cuda")
    side, rounds = (8192, 30) if cuda else (512, 3)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(rounds):
            left @ right
        if cuda:
            torch.cuda.synchronize()
        best = max(best, rounds * 2 * side**3 / (time.perf_counter() - began))
    return best


def middle(results: Sequence[Result]) -> Result:
    idle = [one.idle for one in results if one.idle is not None]
    return Result(
        images=statistics.median(one.images for one in results),
        idle=statistics.median(idle) if idle else None,
        memory=statistics.median(one.memory for one in results),
    )


def run(setup: Setup, processes: int, seconds: float, rounds: int) -> dict[str, Result]:
    sides = {
        ALONE: (setup, 1),
        LIMIT: (replace(setup, side="limit"), 1),
        REPEATABLE: (replace(setup, deterministic=True), 1),
        f"a, {processes} at once": (setup, processes),
    }
    found: dict[str, list[Result]] = {name: [] for name in sides}
    for index in range(rounds):
        order = list(sides) if index % 2 == 0 else list(sides)[::-1]
        for name in order:
            found[name].append(together(*sides[name], seconds))
    return {name: middle(results) for name, results in found.items()}


def rows(results: dict[str, Result], per_film: float, most: float) -> list[list[str]]:
    alone, limit = results[ALONE].images, results[LIMIT].images
    return [
        [name, f"{one.images:.1f}", f"{one.images / limit:.2f}", f"{one.images / alone:.2f}",
         f"{one.images * per_film / most:.2f}", "" if one.idle is None else f"{one.idle:.2f}",
         f"{one.memory / 2**30:.1f}"]
        for name, one in results.items()
    ]  # fmt: skip


def faults(results: dict[str, Result]) -> list[str]:
    rates = {name: one.images for name, one in results.items() if name != REPEATABLE}  # its cost is told, not judged
    alone, limit, *at_once = rates.values()
    found = [] if alone >= OF_LIMIT * limit else [f"(a) is {alone / limit:.2f} of (b), below {OF_LIMIT}."]
    found += [f"At once they do {all_ / alone:.2f} of one alone, below {OF_ALONE}." for all_ in at_once
              if all_ < OF_ALONE * alone]  # fmt: skip
    return found


def table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """As orchestrator.formatting, which is not asked for here: this runs where only models/ can be imported."""
    widths = [max(len(line[at]) for line in [titles, *lines]) for at in range(len(titles))]
    shown = [[line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
             for line in [titles, *lines]]  # fmt: skip
    return "\n".join("  ".join(cells).rstrip() for cells in shown)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto", help="cuda, cuda:0, cpu (default: auto)")
    parser.add_argument("--backbone", default="resnet18", help="timm model (default resnet18)")
    parser.add_argument("--size", type=int, default=320, help="pixels a side (default 320)")
    parser.add_argument("--batch", type=int, default=32, help="films a step (default 32)")
    parser.add_argument("--films", type=int, default=4096, help="of noise (default 4096)")
    parser.add_argument("--processes", type=int, default=12, help="at once (default 12)")
    parser.add_argument("--seconds", type=float, default=10, help="of every measurement (default 10)")
    parser.add_argument("--rounds", type=int, default=3, help="of all sides, in turn (default 3)")
    parser.add_argument("--check", action="store_true", help="exit 1 where a stated figure is not reached")
    options = parser.parse_args(words)
    from models.config import TrainConfig
    from models.training.device import resolve

    config = resolve(TrainConfig(device=options.device))
    with tempfile.TemporaryDirectory(prefix="hilum-gpu-") as name:
        noise = np.random.default_rng(0).integers(0, 256, (options.films, options.size, options.size), dtype=np.uint8)
        data = write_films(Path(name) / "data", noise)
        setup = Setup(side="hilum", backbone=options.backbone, size=options.size, batch=options.batch, threads=1,
                      precision=config.precision, device=config.device, data=str(data), warm=5)  # fmt: skip
        results = run(setup, options.processes, options.seconds, options.rounds)
    print(f"{options.backbone}, {options.size} pixels, batch {options.batch}, {config.precision} on {config.device}")
    print(table(COLUMNS, rows(results, operations(setup), peak(setup))))
    short = faults(results)
    for fault in short:
        print(fault)
    return int(options.check and bool(short))


if __name__ == "__main__":
    sys.exit(main())
