"""A search under attack: start its driver, kill it or one of its trainings, and note how the trials stand.

In: a Course. Out: RUN, disturbed; the state of every trial while nothing runs. Called by bench.search_kill and a test.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open

from models.files.layout import RunPaths, TargetPaths, read_json_lines
from orchestrator.tuning.trials import SearchPaths

POLL_SECONDS = 0.05
GRACE_SECONDS = 60  # for the processes of a killed driver to end


@dataclass(frozen=True, kw_only=True)
class Course:
    """One search and how it is disturbed."""

    dataset: Path
    out: Path
    targets: tuple[str, ...]
    trials: int = 8
    settings: dict[str, object] = field(default_factory=dict)
    kills: int = 2
    repeats: int = 3

    @property
    def searches(self) -> list[SearchPaths]:
        return [SearchPaths(RunPaths(self.out), slug) for slug in self.targets]

    def command(self) -> list[str]:
        words = [f"{name}={value}" for name, value in self.settings.items()]
        return [
            sys.executable, "-m", "orchestrator.cli", "tune", str(self.dataset), "--out", str(self.out),
            "--targets", ",".join(self.targets), "--trials", str(self.trials),
            *(part for word in words for part in ("--set", word)),
        ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One trial as a kill left it."""

    outcome: bytes | None
    attempt: int
    checkpointed: list[str]  # the history rows that its checkpoint vouches for


def take_standings(course: Course) -> dict[str, Standing]:
    """Every trial's state, while nothing runs."""
    return {
        f"{search.slug}/{number}": _standing(search.trial(number))
        for search in course.searches
        for number in search.numbers()
    }


def _standing(paths: TargetPaths) -> Standing:
    newest = paths.newest_attempt()
    rows: list[str] = []
    for number in range(newest.number if newest else 0, 0, -1):
        attempt = paths.attempt(number)
        if attempt.checkpoint.exists() and not rows:
            rows = history_lines(attempt.history)[: checkpointed_rows(attempt.checkpoint)]
    outcome = paths.outcome.read_bytes() if paths.outcome.exists() else None
    return Standing(outcome=outcome, attempt=newest.number if newest else 0, checkpointed=rows)


def checkpointed_rows(path: Path) -> int:
    """How many finished epochs a checkpoint holds; 0 where it is none."""
    with contextlib.suppress(OSError, SafetensorError, KeyError), safe_open(path, framework="np") as stored:
        return int(json.loads(stored.metadata()["progress"])["history_rows"])
    return 0


def history_lines(path: Path) -> list[str]:
    return [json.dumps(row, sort_keys=True) for row in read_json_lines(path)]


def run_until(course: Course, finished: int) -> bool:
    """Kill the driver when so many trials have ended and another one has a checkpoint; False if it ended before."""
    with _driver(course) as driver:
        while driver.poll() is None:
            if _finished(course) >= finished and _under_way(course):
                driver.send_signal(signal.SIGKILL)
                driver.wait()
                return True
            time.sleep(POLL_SECONDS)
    return False


def run_to_the_end(course: Course, kill_one: bool) -> int:
    """Number of training processes killed on the way: one, at its first checkpoint, if that is asked for."""
    killed = 0
    with _driver(course) as driver:
        while driver.poll() is None:
            if kill_one and not killed and _under_way(course):
                trainers = [pid for pid, name in processes_of(course.out) if "ImplicitFunc" in name]
                if trainers:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(trainers[0], signal.SIGKILL)
                        killed = 1
            time.sleep(POLL_SECONDS)
    return killed


@contextlib.contextmanager
def _driver(course: Course) -> Iterator[subprocess.Popen]:
    course.out.mkdir(parents=True, exist_ok=True)
    with (course.out / "driver.log").open("a") as log:
        driver = subprocess.Popen(course.command(), stdout=log, stderr=log)
        try:
            yield driver
        finally:
            driver.kill()
            driver.wait()


def _finished(course: Course) -> int:
    return sum(search.trial(number).outcome.exists() for search in course.searches for number in search.numbers())


def _under_way(course: Course) -> bool:
    """Whether a trial without an outcome has a checkpoint in its newest attempt."""
    for search in course.searches:
        for number in search.numbers():
            paths = search.trial(number)
            newest = paths.newest_attempt()
            if newest and newest.checkpoint.exists() and not paths.outcome.exists():
                return True
    return False


def processes_of(run: Path) -> list[tuple[int, str]]:
    """(pid, command line) of the processes that a search on this run has started."""
    mark, found = f"HILUM_RUN={run.resolve()}".encode(), []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
    return found


def wait_for_orphans(run: Path) -> float:
    started = time.monotonic()
    while processes_of(run):
        if time.monotonic() - started > GRACE_SECONDS:
            raise RuntimeError(f"Processes outlive their killed driver: {processes_of(run)}")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - started
