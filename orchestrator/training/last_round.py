"""The last round of a run: no core stands idle in it while others work.

In: the jobs that wait and what the nodes offer. Out: the same jobs, each with the CPUs that it asks of Ray. Called by
the launcher. Five trainings on two cores would take three rounds, with one core idle in the third; with the last three
at a time they take two and a half. Threads, and so the bytes of the weights, stay what they are: the system's scheduler
shares the cores.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.training.plan import Job

STEPS = 10_000  # Ray counts in ten-thousandths of a CPU


def whole_rounds(jobs: Sequence[Job], nodes: Sequence[Mapping[str, Any]], gpus: float) -> list[Job]:
    """Where the last of several rounds would leave cores idle, its trainings and those of the round before share.

    Only for trainings alike on the CPUs of one node that nobody else uses; memory is Ray's to count, as before.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    threads = {job.config.threads * job.config.ranks for job in jobs}
    if gpus or len(alive) != 1 or len(threads) != 1:
        return list(jobs)
    each = threads.pop()
    slots = int(alive[0].get("CPU", 0) // each)
    if not slots or len(jobs) <= slots or not len(jobs) % slots:
        return list(jobs)
    at_once = slots + len(jobs) % slots
    share = math.floor(STEPS * each * slots / at_once) / STEPS
    return [*jobs[:-at_once], *(dataclasses.replace(job, cpus=share) for job in jobs[-at_once:])]
