"""What becomes of a training that came to no end: which ones are started again, and as what.

In: a job and how its process ended. Out: the job to start again, or None: then its outcome stands. Called by the
launcher. Deaths and hangs are not here: Ray starts those again by itself, as often as `retries` says.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from models.paths import read_json, write_json
from orchestrator.plan import Job
from orchestrator.reduction import REDUCED, halve, what_it_needs
from orchestrator.rounds import in_turn

INTERRUPTED = "interrupted"  # asked to end, with its checkpoint written and no outcome
MOST_INTERRUPTIONS = 100  # of one job in one command: each costs a step at most


class Retries:
    """Counts per job; one for each command. `attempts`: the number of each job's newest one before the command."""

    def __init__(self, attempts: Mapping[str, int] | None = None) -> None:
        self.interruptions: Counter[str] = Counter()
        self.attempts = dict(attempts or {})

    def again(self, job: Job, status: str) -> tuple[Job, str] | None:
        """(the job to start, why), its old outcome removed; None where the outcome is the last word."""
        began = self._began(job)
        if status == INTERRUPTED:
            self.interruptions[job.name] += 1
            allowed = self.interruptions[job.name] <= MOST_INTERRUPTIONS
            return (job, "was asked to end, and goes on") if allowed else None
        if status != "oom":
            return None
        if job.tokens and job.cpus is not None and not began:
            job.paths.outcome.unlink(missing_ok=True)
            return in_turn(job), "the memory was full before its turn: starts once a training has ended"
        smaller = halve(job.paths)
        if smaller is None:
            _say_what_it_needs(job)
            return None
        job.paths.outcome.unlink(missing_ok=True)
        why = f"out of memory: goes on with batch_size={smaller.batch_size}, accumulate={smaller.accumulate}"
        return dataclasses.replace(job, config=smaller), why

    def _began(self, job: Job) -> bool:
        """Whether this process came to an attempt of its own: else the memory that was full was that of others."""
        newest, before = job.paths.newest_attempt(), self.attempts.get(job.name, 0)
        self.attempts[job.name] = newest.number if newest else 0
        return self.attempts[job.name] > before


def _say_what_it_needs(job: Job) -> None:
    outcome: dict[str, Any] = read_json(job.paths.outcome)
    reduced = read_json(job.paths.config).get(REDUCED)
    tried = f" The batch was made smaller already, from {reduced['batch_size']}." if reduced else ""
    outcome["error"] = f"{outcome.get('error') or 'Out of memory.'} {what_it_needs(job.paths)}{tried}"
    write_json(job.paths.outcome, outcome)
