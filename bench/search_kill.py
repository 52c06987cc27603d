"""A search that is killed on the way: is every trial finished exactly once, and none trained past a checkpoint again?

In: a prepared data set, or nothing (then a small phantom is drawn). Out: a table; with --check, exit code 1 where a
stated figure is not reached. The driver gets SIGKILL at even shares of the trials, always while a trial has a
checkpoint, and in the last round one training process does. Then finished trials are trained again from their config.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.search_course import (
    Course,
    Standing,
    history_lines,
    run_to_the_end,
    run_until,
    take_standings,
    wait_for_orphans,
)
from models.config import parse_settings
from models.files.layout import TargetPaths, read_json
from orchestrator.datasets.labelled import read_material
from orchestrator.formatting import aligned
from orchestrator.tuning.study import SearchRequest, open_search
from orchestrator.tuning.trials import ranked, read_trials


@dataclass(kw_only=True)
class Result:
    """What was seen. Every list should be empty, every figure as asked for."""

    finished: int = 0
    kills: int = 0
    killed_trials: int = 0
    continued: int = 0
    begun_when_killed: int = 0
    seconds: float = 0.0
    orphan_seconds: float = 0.0
    attempts: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    finished_twice: list[str] = field(default_factory=list)
    trained_again: list[str] = field(default_factory=list)
    repeated: list[tuple[str, float, float]] = field(default_factory=list)

    def faults(self, course: Course) -> list[str]:
        """Sentences; empty when all that was promised was seen."""
        found = []
        if self.lost:
            found.append(f"not finished: {', '.join(self.lost)}")
        if self.finished_twice:
            found.append(f"finished more than once: {', '.join(self.finished_twice)}")
        if self.trained_again:
            found.append(f"trained again before their checkpoint: {', '.join(self.trained_again)}")
        if self.kills < course.kills:
            found.append(f"{self.kills} of {course.kills} kills took place")
        if not self.continued and course.kills:
            found.append("no trial went on from a checkpoint, so the kills showed nothing")
        if len(self.repeated) < course.repeats:
            found.append(f"only {len(self.repeated)} trials could be trained again")
        found += [f"{name}: {old!r}, again {new!r}" for name, old, new in self.repeated if old != new]
        return found


def run_course(course: Course) -> Result:
    """Search, kill, go on, compare."""
    result, standings = Result(), []
    total, started = course.trials * len(course.targets), time.monotonic()
    for turn in range(1, course.kills + 1):
        if run_until(course, max(1, turn * total // (course.kills + 1))):
            result.kills += 1
            result.orphan_seconds = max(result.orphan_seconds, wait_for_orphans(course.out))
            standings.append(take_standings(course))
    result.killed_trials = run_to_the_end(course, kill_one=course.kills > 0)
    result.seconds = time.monotonic() - started
    _judge(course, standings, result)
    _repeat(course, result)
    return result


def _judge(course: Course, standings: list[dict[str, Standing]], result: Result) -> None:
    for search in course.searches:
        trials = read_trials(search)
        result.lost += [f"{search.slug}/{n}" for n in set(range(course.trials)) ^ {trial.number for trial in trials}]
        for trial in trials:
            name, newest = f"{search.slug}/{trial.number}", trial.paths.newest_attempt()
            result.statuses[trial.status] = result.statuses.get(trial.status, 0) + 1
            if trial.outcome is None:
                result.lost.append(name)
                continue
            result.finished += 1
            result.attempts += newest.number if newest else 0
            if newest and trial.outcome["attempt"] != newest.number:
                result.finished_twice.append(f"{name} (begun again after its end)")
            for standing in (one[name] for one in standings if name in one):
                _judge_one(name, trial.paths, standing, result)


def _judge_one(name: str, paths: TargetPaths, standing: Standing, result: Result) -> None:
    if standing.outcome is not None:
        if paths.outcome.read_bytes() != standing.outcome:
            result.finished_twice.append(f"{name} (its outcome changed)")
        return
    result.begun_when_killed += 1
    if not standing.checkpointed:
        return
    later = range(standing.attempt + 1, paths.newest_attempt().number + 1)
    histories = [rows for rows in (history_lines(paths.attempt(number).history) for number in later) if rows]
    if not histories and read_json(paths.outcome)["status"] == "stopped":  # it had been told to stop by its peers
        result.continued += 1
        return
    # the rows hold each epoch's measured seconds: an epoch trained a second time cannot have the same row
    if histories and all(rows[: len(standing.checkpointed)] == standing.checkpointed for rows in histories):
        result.continued += 1
    else:
        result.trained_again.append(name)


def _repeat(course: Course, result: Result) -> None:
    """The best finished trial of each finding in turn, then the next best, as many as asked for."""
    material = read_material(course.dataset)
    settings = parse_settings(f"{name}={value}" for name, value in course.settings.items())
    searches = {}
    for paths in course.searches:
        request = SearchRequest(dataset=course.dataset, out=course.out, settings=settings)
        searches[paths.slug] = open_search(request, paths.slug, material, "cpu")
    best = [(place, trial) for paths in course.searches for place, trial in enumerate(ranked(read_trials(paths)))]
    for _, trial in sorted(best, key=lambda pair: pair[0])[: course.repeats]:
        folder = course.out / "repeated" / trial.slug / str(trial.number)
        again = searches[trial.slug].repeat(trial.number, folder)
        result.repeated.append((f"{trial.slug}/{trial.number}", trial.score, again["select_score"]))


def make_phantom(folder: Path, patients: int, size: int) -> Path:
    """A prepared phantom in `folder`/dataset, by the commands that a user would give."""
    films, dataset = folder / "films", folder / "dataset"
    commands = [
        ["phantom", films, "--patients", patients, "--seed", 0],
        ["prepare", "chexpert", "--labels", films / "train.csv", "--images", films, "--out", dataset, "--size", size,
         "--frontal"],
    ]  # fmt: skip
    for command in commands:
        subprocess.run([sys.executable, "-m", "orchestrator.cli", *map(str, command)], check=True, capture_output=True)
    return dataset


def result_table(course: Course, result: Result) -> str:
    asked = course.trials * len(course.targets)
    rows = [
        ("trials finished exactly once", f"{result.finished} of {asked}"),
        ("their ends", ", ".join(f"{count} {status}" for status, count in sorted(result.statuses.items()))),
        ("driver killed", result.kills),
        ("training processes killed besides", result.killed_trials),
        ("under way at a kill", result.begun_when_killed),
        ("of these continued from a checkpoint", result.continued),
        ("attempts in all", result.attempts),
        ("last process gone after a kill", f"{result.orphan_seconds:.1f} s"),
        ("whole search", f"{result.seconds:.0f} s"),
    ]
    rows += [(f"{name} trained again", f"{old!r} / {new!r}") for name, old, new in result.repeated]
    return aligned(("search, killed", ""), rows)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.search_kill", description=__doc__)
    parser.add_argument("--dataset", type=Path, help="a prepared data set; none: a phantom is drawn")
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is written; must be new")
    parser.add_argument("--targets", default="pleural_effusion,cardiomegaly,edema")
    parser.add_argument("--trials", type=int, default=8, help="per finding")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--patients", type=int, default=120, help="of the phantom")
    parser.add_argument("--size", type=int, default=32, help="of the phantom, pixels a side")
    parser.add_argument("--set", action="append", default=[], help="name=value of a training setting; repeatable")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a promise is not kept")
    options = parser.parse_args(words)
    settings = {"backbone": "test_resnet", "epochs": "3", "precision": "fp32", "device": "cpu"}
    settings |= dict(word.split("=", 1) for word in options.set)
    if options.out.exists():
        parser.error(f"{options.out} exists; give a new folder")
    dataset = options.dataset or make_phantom(options.out, options.patients, options.size)
    course = Course(
        dataset=dataset, out=options.out / "run", targets=tuple(options.targets.split(",")), trials=options.trials,
        settings=settings, kills=options.kills,
    )  # fmt: skip
    result = run_course(course)
    faults = result.faults(course)
    print(result_table(course, result))
    print("\n".join(faults) or "Every promise was kept.")
    return int(bool(options.check and faults))


if __name__ == "__main__":
    sys.exit(main())
