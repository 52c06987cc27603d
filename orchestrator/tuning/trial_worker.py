"""The body of one trial, in a process of its own: the one trainer, reporting each epoch to Tune.

In: the paths that the searcher handed out. Out: the trial's files. Called by Tune in an actor; imports little, since
every trial is a fresh process.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.files.layout import TargetPaths, read_json_lines


def run_trial(handed: Mapping[str, Any]) -> None:
    """Train from where the trial's checkpoint stands; Tune ends it inside `report` when it is worse than its peers."""
    from ray import tune

    from models.process.job import run_job
    from models.process.resume import ended_as

    paths = TargetPaths(Path(handed["trial"]))
    if ended_as(paths.root):  # this process was started again after the trial had ended
        return
    rows = epochs_of(paths)
    for epoch, score in best_so_far(rows):  # what the scheduler was told before a kill, it is told again
        tune.report({"epoch": epoch, "select_score": score})

    def on_epoch(row: dict[str, Any]) -> None:
        rows[row["epoch"] - 1 :] = [row]  # a row without its checkpoint is trained again
        epoch, score = best_so_far(rows)[-1]
        tune.report({"epoch": epoch, "select_score": score})

    run_job(Path(handed["dataset"]), paths.root, on_epoch)


def epochs_of(paths: TargetPaths) -> list[dict[str, Any]]:
    """The history rows of the newest attempt that has any."""
    newest = paths.newest_attempt()
    for number in range(newest.number if newest else 0, 0, -1):
        rows = read_json_lines(paths.attempt(number).history)
        if rows:
            return rows
    return []


def best_so_far(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """(epoch, best score up to it): what a search is told of a trial under way."""
    best, told = -math.inf, []
    for row in rows:
        if row["select_score"] is not None:
            best = max(best, row["select_score"])
        told.append((row["epoch"], best))
    return told
