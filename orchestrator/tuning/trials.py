"""The trials of a search as files: what was tried, how it ended, what is kept, what becomes a member.

In: RUN/trials/<slug>/<number>/, each a target folder as `hilum train` makes them. Out: trials, their ranking, members
of the run. These files are the ledger of a search: no other record decides what is done. Called by
orchestrator.tuning.tune.
"""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.config import TrainConfig
from models.files.layout import TEMPORARY_PREFIX, RunPaths, TargetPaths, read_json, remove_folder, write_json
from orchestrator.planning.plan import Job
from orchestrator.tuning.trial_worker import best_so_far, epochs_of
from pathologies.errors import InputError

STOPPED = "stopped"  # ended early, being worse than its peers: finished, but nothing to combine or predict with
COPIED = ("config", "targets", "weights", "predictions")


@dataclass(frozen=True)
class SearchPaths:
    """One finding's search; its trials are `RunPaths.trials`."""

    run: RunPaths
    slug: str

    @property
    def root(self) -> Path:
        return self.trial(0).root.parent

    @property
    def description(self) -> Path:
        return self.root / "search.json"

    @property
    def scratch(self) -> Path:
        """What Tune writes while it runs; nothing is ever read from it."""
        return self.root / ".tune"

    def trial(self, number: int) -> TargetPaths:
        return self.run.trials(self.slug, number)

    def numbers(self) -> list[int]:
        """The trials that have a configuration, in order."""
        folders = self.root.iterdir() if self.root.is_dir() else ()
        numbers = sorted(int(folder.name) for folder in folders if folder.name.isdigit())
        return [number for number in numbers if self.trial(number).config.exists()]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One number of a search as its files tell."""

    slug: str
    number: int
    paths: TargetPaths
    config: Mapping[str, Any]
    outcome: Mapping[str, Any] | None

    @property
    def status(self) -> str:
        return self.outcome["status"] if self.outcome else "running"

    @property
    def score(self) -> float | None:
        """On part `select` under the reference contract, better when higher; None before the end or after a failure."""
        return self.outcome.get("select_score") if self.outcome else None


def read_trial(search: SearchPaths, number: int) -> Trial:
    paths = search.trial(number)
    outcome = read_json(paths.outcome) if paths.outcome.exists() else None
    config = read_json(paths.config)["config"]
    return Trial(slug=search.slug, number=number, paths=paths, config=config, outcome=outcome)


def read_trials(search: SearchPaths) -> list[Trial]:
    return [read_trial(search, number) for number in search.numbers()]


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The finished trials that ended well, the best first; of equals the earlier one."""
    well = [trial for trial in trials if trial.status == "ok" and trial.score is not None]
    return sorted(well, key=lambda trial: (-trial.score, trial.number))


def stop_trial(paths: TargetPaths) -> None:
    """The search ends a trial: its epoch and its score so far become its outcome."""
    rows = epochs_of(paths)
    reached, score = best_so_far(rows)[-1]
    best = next((row["epoch"] for row in rows if row["select_score"] == score), None)
    ended = {"best_epoch": best, "select_score": score, "epochs_trained": reached}
    write_json(paths.outcome, _end(paths, STOPPED, None) | ended)


def bury_trial(paths: TargetPaths, error: str) -> None:
    """The process of a trial died once too often: the death is its outcome."""
    if not paths.outcome.exists():
        write_json(paths.outcome, _end(paths, "died", error))


def drop_checkpoints(trials: Sequence[Trial], keep: int) -> None:
    """Keep the weights of the `keep` best trials and the checkpoints of unfinished ones; no other can still matter.

    Trials come and the best remain the best, so weights dropped here are never wanted again for the same `keep`.
    """
    for trial in trials:
        if trial.outcome is None:
            continue
        newest = trial.paths.newest_attempt()
        for number in range(1, newest.number + 1 if newest else 1):
            trial.paths.attempt(number).checkpoint.unlink(missing_ok=True)
            for path in (trial.paths.attempt(number).best, *trial.paths.attempt(number).snapshots()):
                path.unlink(missing_ok=True)
    kept = {trial.number for trial in ranked(trials)[:keep]}
    for trial in trials:
        if trial.outcome is not None and trial.number not in kept:
            for path in (trial.paths.weights, *trial.paths.snapshots()):
                path.unlink(missing_ok=True)


def adopt_trials(run: Path | str, slug: str, count: int) -> tuple[list[Job], tuple[str, ...]]:
    """Make the `count` best trials members of the run, without training: RUN/<slug>/<member>/ as `hilum train` does.

    Members made from trials by an earlier call give way to these; members that were trained keep their numbers. Returns
    the jobs for `plan.json` and the names that are no longer there. Errors: no trial ended well; its weights are gone.
    """
    paths = RunPaths(Path(run))
    best = ranked(read_trials(SearchPaths(paths, slug)))[:count]
    if not best:
        raise InputError(f"No trial of {slug} in {paths.root} ended well, so none can become a member.")
    bare = [str(trial.number) for trial in best if not trial.paths.weights.exists()]
    if bare:
        raise InputError(
            f"The weights of {slug}'s trials {', '.join(bare)} were dropped: too few were kept. "
            f"Adopt fewer, or search with --keep {count} from the beginning."
        )
    gone = [member for member in _members(paths, slug) if _came_from_a_trial(paths.target(slug, member))]
    for member in gone:
        remove_folder(paths.target(slug, member).root)
    taken, jobs = set(_members(paths, slug)), []
    free = (number for number in range(len(taken) + count) if number not in taken)
    for trial, member in zip(best, free, strict=False):
        jobs.append(_adopt(trial, paths.target(slug, member), member))
    return jobs, tuple(f"{slug}/{member}" for member in gone)


def _adopt(trial: Trial, goal: TargetPaths, member: int) -> Job:
    """The folder appears whole, under its name, or not at all."""
    goal.root.parent.mkdir(parents=True, exist_ok=True)
    new = TargetPaths(goal.root.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"))
    new.root.mkdir()
    for name in COPIED:
        shutil.copyfile(getattr(trial.paths, name), getattr(new, name))
    for path in trial.paths.snapshots():
        shutil.copyfile(path, new.root / path.name)
    shutil.copytree(trial.paths.attempts, new.attempts)
    write_json(new.config, read_json(trial.paths.config) | {"member": member})
    write_json(new.outcome, dict(trial.outcome) | {"trial": trial.number})
    os.replace(new.root, goal.root)
    config = TrainConfig(**trial.config)
    return Job(slug=trial.slug, member=member, paths=goal, config=config, finished=True)


def _members(run: RunPaths, slug: str) -> list[int]:
    folder = run.target(slug, 0).root.parent
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def _came_from_a_trial(paths: TargetPaths) -> bool:
    return paths.outcome.exists() and "trial" in read_json(paths.outcome)


def _end(paths: TargetPaths, status: str, error: str | None) -> dict[str, Any]:
    attempt = paths.newest_attempt()
    nothing = ("pid", "host", "started", "peak_memory_bytes", "best_epoch", "select_score", "selection_rule")
    return {
        **dict.fromkeys(nothing),
        "status": status,
        "error": error,
        "attempt": attempt.number if attempt else None,
        "ended": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
