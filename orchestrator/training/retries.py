"""What becomes of a training that came to no end: which ones are started again, and as what.

In: a job and how its process ended. Out: the job to start again, or None: then its outcome stands. Called by the
launcher. Deaths and hangs are not here: Ray starts those again by itself, as often as `retries` says.
"""

import dataclasses
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from models.files.layout import read_json, write_json
from orchestrator.planning.batch_backoff import REDUCED, halve, what_it_needs
from orchestrator.planning.plan import Job

INTERRUPTED = "interrupted"  # asked to end, with its checkpoint written and, unless it always is, no outcome
MOST_INTERRUPTIONS = 100  # of one job in one command: each costs a step at most


class Retries:
    """Counts per job; one for each command."""

    def __init__(self) -> None:
        self.interruptions: Counter[str] = Counter()

    def again(self, job: Job, status: str) -> tuple[Job, str] | None:
        """(the job to start, why), its old outcome removed; None where the outcome is the last word."""
        if status == INTERRUPTED:
            self.interruptions[job.name] += 1
            if self.interruptions[job.name] <= MOST_INTERRUPTIONS:
                return job, "was asked to end, and goes on"
            _say_who_asks(job, self.interruptions[job.name])
            return None
        if status != "oom":
            return None
        smaller = halve(job.paths)
        if smaller is None:
            _say_what_it_needs(job)
            return None
        job.paths.outcome.unlink(missing_ok=True)
        why = f"out of memory: goes on with batch_size={smaller.batch_size}, accumulate={smaller.accumulate}"
        return dataclasses.replace(job, config=smaller), why


def _say_who_asks(job: Job, times: int) -> None:
    """A training that was asked to end left no outcome: that it always is becomes the outcome."""
    attempt = job.paths.newest_attempt()
    error = (
        f"The training process was asked to end (SIGTERM) {times} times, and each time started again. Something ends "
        "it again and again: a scheduler's limit, a spot machine, a supervisor. Its checkpoint is kept: find out "
        "who sends the signal, and give the same command again to go on."
    )
    nothing = ("traceback", "pid", "host", "started", "peak_memory_bytes", "best_epoch", "select_score")
    facts = {"status": INTERRUPTED, "error": error, "attempt": attempt.number if attempt else None}
    ended = datetime.now(UTC).isoformat(timespec="milliseconds")
    write_json(job.paths.outcome, dict.fromkeys(nothing) | facts | {"ended": ended})


def _say_what_it_needs(job: Job) -> None:
    outcome: dict[str, Any] = read_json(job.paths.outcome)
    reduced = read_json(job.paths.config).get(REDUCED)
    tried = f" The batch was made smaller already, from {reduced['batch_size']}." if reduced else ""
    outcome["error"] = f"{outcome.get('error') or 'Out of memory.'} {what_it_needs(job.paths)}{tried}"
    write_json(job.paths.outcome, outcome)
