"""Jobs that go on from another of the same run: when they may start, and what becomes of them where that one failed.

In: the jobs that wait. Out: those to start now, those to start after one has ended, outcomes of those that cannot.
Called by the launcher.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from models.files.layout import write_json
from orchestrator.planning.job_config import Job


class Dependants:
    """One for each command. `jobs`: all that wait; what a job goes on from is among them, or finished."""

    def __init__(self, jobs: Sequence[Job] = ()) -> None:
        waiting = {job.name for job in jobs}
        self.held: dict[str, list[Job]] = {}
        self.ready: list[Job] = []
        self.without_start: dict[str, dict[str, Any]] = {}  # the outcomes of those that could not
        for job in jobs:
            if job.branch and job.branch.source in waiting:
                self.held.setdefault(job.branch.source, []).append(job)
            else:
                self.ready.append(job)

    def after(self, job: Job, outcome: Mapping[str, Any]) -> tuple[list[Job], list[Job]]:
        """Now that `job` has ended: (those to start, those that cannot, each with its outcome written).

        What --force would have removed at the start of a training stays, and with it the outcome that lies there.
        """
        waiting = self.held.pop(job.name, [])
        if outcome["status"] == "ok":
            return waiting, []
        for one in waiting:
            self.without_start[one.name] = _could_not(one, outcome)
            if not one.replace_earlier:
                write_json(one.paths.outcome, self.without_start[one.name])
        return [], waiting


def sources_first(jobs: Sequence[Job]) -> list[Job]:
    """Those that others wait for before all the rest; else the order stays."""
    awaited = {job.branch.source for job in jobs if job.branch}
    return sorted(jobs, key=lambda job: job.name not in awaited)


def _could_not(job: Job, outcome: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "status": "failed",
        "error": (
            f"It goes on from {job.branch.source}, which ended as {outcome['status']}: {outcome.get('error') or ''} "
            f"Mend that one (its outcome.json has the traceback); the same command then trains both."
        ),
        "traceback": "",
        "ended": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **dict.fromkeys(
            ("attempt", "pid", "host", "started", "peak_memory_bytes", "best_epoch", "select_score", "selection_rule")
        ),
    }
