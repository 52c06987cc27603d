"""`hilum train` under attack: a driver that is given again whenever it ends, a cluster that is mended, and kills.

In: a Course and a cluster. Out: what was killed, and whether it was at work; RUN, finished. Called by bench.chaos.
"""

import math
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.loopback import Loopback, Part, below, command, end, started
from models.config import TrainConfig
from models.files.layout import DatasetPaths, RunPaths, read_json
from orchestrator.training.environment import process_environment

PROJECT = Path(__file__).resolve().parent.parent
MEAN_GAP_SECONDS = 20.0
# Of ten minutes, at least.
WANTED: Mapping[str, int] = {"training": 5, "driver": 3, "worker raylet": 2, "head": 1}
WANTED_MINUTES = 10
POLL_SECONDS = 0.2
QUICK_SECONDS, QUICK_ENDS = 30, 12  # so many commands in a row that end so soon get nowhere


@dataclass(frozen=True, kw_only=True)
class Course:
    """What is trained. The same words make the undisturbed run, but for the folder and the address."""

    dataset: Path
    targets: tuple[str, ...]
    settings: Mapping[str, object]
    log: Path

    def command(self, out: Path, *more: str) -> list[str]:
        words = [sys.executable, "-m", "orchestrator.cli", "train", str(self.dataset), "--out", str(out), "--targets",
                 ",".join(self.targets), "--from-scratch", "--folds", "1", *more]  # fmt: skip
        return words + [word for name, value in self.settings.items() for word in ("--set", f"{name}={value}")]

    def start(self, words: list[str], environment: dict[str, str]) -> subprocess.Popen:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            return subprocess.Popen(words, cwd=PROJECT, env=environment, start_new_session=True, stdout=log, stderr=log)


@dataclass(kw_only=True)
class Attack:
    """One run on one cluster. `kills` counts those that hit running work; there are no others."""

    course: Course
    cluster: Loopback
    out: Path
    kills: Counter = field(default_factory=Counter)
    commands: int = 0
    codes: Counter = field(default_factory=Counter)  # exit codes of the commands that ended by themselves
    driver: subprocess.Popen | None = None
    given: float = 0.0
    quick: int = 0

    def disturb(self, seconds: float, seed: int, say: Callable[[str], None]) -> bool:
        """Kill for so long; False when everything was finished before that."""
        draws, kinds = random.Random(seed), deck(seconds / 60, seed)
        kind, began = next(kinds), time.monotonic()
        due = began + draws.expovariate(1 / MEAN_GAP_SECONDS)
        while time.monotonic() < began + seconds:
            if self.finished():
                return False
            self._tend()
            if time.monotonic() >= due and self._kill(kind, draws):
                self.kills[kind] += 1
                say(f"{time.monotonic() - began:6.1f} s  {kind} killed")
                kind, due = next(kinds), time.monotonic() + draws.expovariate(1 / MEAN_GAP_SECONDS)
            time.sleep(POLL_SECONDS)
        return True

    def finish(self, seconds: float) -> None:
        """Let it end undisturbed. Errors: RuntimeError when it does not."""
        deadline = time.monotonic() + seconds
        while not self.finished() or self._at_work():
            self._tend()
            if time.monotonic() > deadline:
                raise RuntimeError(f"Not finished {seconds:.0f} s after the last kill; see {self.course.log}.")
            time.sleep(POLL_SECONDS)
        if self.driver is not None:
            self.codes[self.driver.returncode] += 1

    def finished(self) -> bool:
        return all(self._done(slug) for slug in self.course.targets)

    def _done(self, slug: str) -> bool:
        outcome = RunPaths(self.out).target(slug, 0).outcome
        return outcome.exists() and read_json(outcome).get("status") == "ok"

    def _at_work(self) -> bool:
        return self.driver is not None and self.driver.poll() is None

    def _tend(self) -> None:
        """Mend the cluster; once it is whole, give the command again if it has ended."""
        whole = self.cluster.tend()
        if self._at_work():
            return
        if self.driver is not None and self.driver.returncode >= 0:
            self.codes[self.driver.returncode] += 1
            self.quick = self.quick + 1 if time.monotonic() - self.given < QUICK_SECONDS else 0
            if self.quick >= QUICK_ENDS:
                raise RuntimeError(f"The command ends at once, {self.quick} times in a row; see {self.course.log}.")
        self.driver = None
        if whole and not self.finished():
            self.driver = self.course.start(
                self.course.command(self.out, "--address", self.cluster.address), self.cluster.environment()
            )
            self.commands, self.given = self.commands + 1, time.monotonic()

    def _kill(self, kind: str, draws: random.Random) -> bool:
        """SIGKILL one of this kind, provided that it hits running work; else nothing happens."""
        work = self._work() if self._at_work() else {}
        if not work:
            return False
        if kind == "training":
            end(draws.choice(sorted(work)))
        elif kind == "driver":
            for pid in (*below(self.driver.pid), self.driver.pid):
                end(pid)
            self.driver.wait()
        else:
            part = self.cluster.head if kind == "head" else draws.choice(sorted(set(work.values()), key=_name))
            self.cluster.kill(part)
            part.process.wait()
        return True

    def _work(self) -> dict[int, Part]:
        """Training processes that have begun: the newest attempt at their target is younger than they are."""
        found = {}
        for part in self.cluster.workers:
            for pid, job in self.cluster.trainings(part).items():
                newest = RunPaths(self.out).target(*_target(job)).newest_attempt()
                begun = newest and newest.checkpoint.exists() and newest.checkpoint.stat().st_mtime > started(pid)
                if begun and not self._done(_target(job)[0]) and command(pid):
                    found[pid] = part
        return found


def _name(part: Part) -> str:
    return part.name


def _target(job: str) -> tuple[str, int]:
    slug, _, member = job.partition("/")
    return slug, int(member)


def wanted(minutes: float) -> dict[str, int]:
    """At least so many of each kind, in proportion, rounded up."""
    return {kind: math.ceil(count * minutes / WANTED_MINUTES - 1e-9) for kind, count in WANTED.items()}


def deck(minutes: float, seed: int) -> Iterator[str]:
    """Kinds in random order, the wanted ones first, then over and over in the same proportion."""
    draws, counts = random.Random(seed + 1), wanted(minutes)
    while True:
        cards = [kind for kind, count in counts.items() for _ in range(count)]
        draws.shuffle(cards)
        yield from cards
        counts = dict(WANTED)


def plain_environment(course: Course) -> dict[str, str]:
    """For a run without a cluster."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONHASHSEED")}
    size = read_json(DatasetPaths(course.dataset).manifest)["size"]
    return kept | process_environment(TrainConfig(**course.settings), 0, size)
