"""What the launcher costs: `hilum train` for twelve equal targets against twelve plain processes that do the same.

In: nothing (a data set of noise is written). Out: a table; with --check, exit code 1 where `hilum train` takes more
than 5 % longer, or where the targets were too short for that figure, which is one for targets of a minute. The plain
side is a pool of `python -c "run_job(...)"` over folders planned alike, with the same number at a time and the same
environment. What is fair: both sides pay a fresh process and its imports for every target, since a script that trained
all in one process would not be what is compared; planning, and Ray's start and end, are on the bill of `hilum train`
alone. The sides alternate; medians are compared.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from models.config import TrainConfig
from models.files.layout import DatasetPaths, RunPaths, read_json, read_json_lines
from orchestrator.formatting import aligned
from orchestrator.planning.plan import TrainRequest, plan_run
from orchestrator.training.environment import process_environment
from pathologies.findings.catalog import CHEXPERT_TARGETS

ALLOWED = 0.05
A_MINUTE = 45.0  # seconds of training at least, for the figure to say anything
SETTINGS = {"backbone": "test_resnet", "batch_size": 8, "device": "cpu", "precision": "fp32", "threads": 1}
PLAIN = "import sys; from models.process.job import run_job; run_job(*sys.argv[1:])"
COLUMNS = ("side", "wall s", "start-up s", "import s", "training s", "write s", "dispatch s")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One side of one round. Everything but `wall` and `start` is a mean over the targets."""

    wall: float
    start: float  # from the command to the first process
    imports: float  # of models.process.job; a process of its own each
    training: float  # from the job's start to its outcome, without the writing
    write: float  # from the last epoch to the outcome
    dispatch: float  # the rest of a slot's time for a target: a process that begins and ends, and the driver's turn

    def cells(self, side: str) -> list[str]:
        values = (self.wall, self.start, self.imports, self.training, self.write, self.dispatch)
        return [side, *(f"{value:.2f}" for value in values)]


@dataclass(frozen=True, kw_only=True)
class Course:
    dataset: Path
    folder: Path
    targets: tuple[str, ...]
    epochs: int
    at_once: int

    def settings(self) -> dict[str, Any]:
        return SETTINGS | {"epochs": self.epochs}


def environment(course: Course) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    size = read_json(DatasetPaths(course.dataset).manifest)["size"]
    return kept | process_environment(TrainConfig(**course.settings()), 0, size)


def plain_side(course: Course, out: Path) -> Timing:
    """The folders are planned before the clock starts: a plain script would have its settings in hand, too."""
    request = TrainRequest(dataset=course.dataset, out=out, targets=course.targets, settings=course.settings())
    jobs = plan_run(request, "cpu")

    def one(job: Any) -> None:
        words = [sys.executable, "-c", PLAIN, str(course.dataset), str(job.paths.root)]
        subprocess.run(words, env=environment(course), check=True)

    began = time.time()
    with ThreadPoolExecutor(course.at_once) as pool:
        list(pool.map(one, jobs))
    return timing(course, RunPaths(out), began, time.time(), first=began)


def hilum_side(course: Course, out: Path) -> Timing:
    words = [sys.executable, "-m", "orchestrator.cli", "train", str(course.dataset), "--out", str(out), "--targets",
             ",".join(course.targets), "--from-scratch", "--folds", "1"]  # fmt: skip
    words += [word for name, value in course.settings().items() for word in ("--set", f"{name}={value}")]
    began = time.time()
    subprocess.run(words, env=environment(course), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ended = time.time()
    first = next(row["time"] for row in read_json_lines(RunPaths(out).ledger) if row["event"] == "begin")
    return timing(course, RunPaths(out), began, ended, first)


def timing(course: Course, run: RunPaths, began: float, ended: float, first: float) -> Timing:
    inside, writing = [], []
    for slug in course.targets:
        paths = run.target(slug, 0)
        outcome = read_json(paths.outcome)
        if outcome["status"] != "ok":
            raise RuntimeError(f"{slug}: {outcome['error']}")
        last = paths.attempt(outcome["attempt"]).history.stat().st_mtime
        started, done = (datetime.fromisoformat(outcome[name]).timestamp() for name in ("started", "ended"))
        inside.append(done - started)
        writing.append(done - last)
    imports = import_seconds()
    a_slot = (ended - first) * course.at_once / len(course.targets)
    write = statistics.mean(writing)
    return Timing(
        wall=ended - began,
        start=first - began,
        imports=imports,
        training=statistics.mean(inside) - write,
        write=write,
        dispatch=a_slot - statistics.mean(inside) - imports,
    )


def import_seconds() -> float:
    """One look, with the files in memory; on a machine under load it is what a process alone would take."""
    code = "import time; a = time.perf_counter(); import models.process.job; print(time.perf_counter() - a)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def epochs_for(course: Course, seconds: float) -> int:
    """So many that a target takes about `seconds`: measured on one target, import and all."""
    probe = Course(**(vars(course) | {"epochs": 6, "targets": course.targets[:1]}))
    out = course.folder / "probe"
    plain_side(probe, out)
    rows = read_json_lines(next((out / course.targets[0] / "0" / "attempts").iterdir()) / "history.jsonl")
    epoch = statistics.median(row["seconds"] for row in rows[1:])
    outcome = read_json(RunPaths(out).target(course.targets[0], 0).outcome)
    inside = datetime.fromisoformat(outcome["ended"]) - datetime.fromisoformat(outcome["started"])
    epoch = max(epoch, inside.total_seconds() / len(rows) / 2)  # `select` and checkpoints belong to an epoch as well
    shutil.rmtree(out)
    return max(2, round(seconds / epoch))


def run(seconds: float, rounds: int, targets: int, at_once: int) -> tuple[list[Timing], list[Timing], int]:
    from tests.small_data import make_dataset

    with tempfile.TemporaryDirectory(prefix="hilum-overhead-") as name:
        folder = Path(name)
        dataset = make_dataset(folder / "dataset", CHEXPERT_TARGETS, films=360)
        course = Course(dataset=dataset, folder=folder, targets=CHEXPERT_TARGETS[:targets], epochs=2, at_once=at_once)
        course = Course(**(vars(course) | {"epochs": epochs_for(course, seconds)}))
        plain, ours = [], []
        for index in range(rounds):
            sides = [(plain, plain_side), (ours, hilum_side)]
            for results, side in sides if index % 2 == 0 else sides[::-1]:
                out = folder / f"{side.__name__}{index}"
                results.append(side(course, out))
                print(f"round {index + 1}, {side.__name__.replace('_', ' ')}: {results[-1].wall:.1f} s", flush=True)
                shutil.rmtree(out)
        return plain, ours, course.epochs


def middle(rows: Sequence[Timing]) -> Timing:
    return Timing(**{name: statistics.median(getattr(row, name) for row in rows) for name in vars(rows[0])})


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="that a target takes, about (default 60)")
    parser.add_argument("--rounds", type=int, default=3, help="of both sides, in turn (default 3)")
    parser.add_argument("--targets", type=int, default=12, choices=range(1, 13), metavar="1..12")
    parser.add_argument(
        "--at-once", type=int, default=os.cpu_count() or 1, help="processes (default: the CPUs, as Ray)"
    )
    parser.add_argument("--check", action="store_true", help=f"exit 1 above {ALLOWED:.0%}%")
    options = parser.parse_args(words)
    plain, ours, epochs = run(options.seconds, options.rounds, options.targets, options.at_once)
    print(f"{options.targets} targets of {epochs} epochs, {options.at_once} at a time, medians of {options.rounds}")
    print(aligned(COLUMNS, [middle(plain).cells("plain processes"), middle(ours).cells("hilum train")]))
    more = middle(ours).wall / middle(plain).wall - 1
    print(f"hilum train takes {more:+.1%}; at most {ALLOWED:.0%} is wanted when a target takes a minute.")
    short = middle(plain).training < A_MINUTE
    if short:
        print(f"The targets took {middle(plain).training:.0f} s: too short for that. Give a larger --seconds.")
    return int(options.check and (short or more > ALLOWED))


if __name__ == "__main__":
    sys.exit(main())
