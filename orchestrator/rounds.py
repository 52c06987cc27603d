"""The rounds of a run on one machine's cores: none of them stands idle while there is something to do.

In: the jobs that wait and what the nodes offer. Out: the same jobs, each with the CPUs that it asks of Ray and the
tokens that its process waits for before it trains. Called by the launcher. Two things cost idle cores. Before its first
step a process takes some ten seconds to begin and to import torch: so Ray starts one more than may train, and
orchestrator.turns lets it in. And five trainings on two cores would take three rounds, with one core idle in the third;
with the last three at a time they take two and a half. Threads, and so the bytes of the weights, stay what they are:
the system's scheduler shares the cores.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.plan import Job
from orchestrator.turns import Tokens

STEPS = 10_000  # Ray counts in ten-thousandths of a CPU


def in_rounds(jobs: Sequence[Job], nodes: Sequence[Mapping[str, Any]], gpus: float) -> list[Job]:
    """One process ahead; and where the last of several rounds would leave cores idle, it shares with the one before.

    Only for trainings alike on the CPUs of one node that nobody else uses; memory is Ray's to count, as before.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    threads = {job.config.threads * job.config.ranks for job in jobs}
    if gpus or len(alive) != 1 or len(threads) != 1:
        return list(jobs)
    cpus = alive[0].get("CPU", 0)
    slots = int(cpus // threads.pop())
    if not slots or len(jobs) <= slots:
        return list(jobs)
    sharing = slots + len(jobs) % slots if len(jobs) % slots else 0
    of = math.lcm(slots, sharing or 1)
    whole = [_with(job, cpus, slots + 1, Tokens(of // slots, of)) for job in jobs[: len(jobs) - sharing]]
    last = [_with(job, cpus, sharing, Tokens(of // sharing, of)) for job in jobs[len(jobs) - sharing :]]
    return whole + last


def _with(job: Job, cpus: float, at_once: int, tokens: Tokens) -> Job:
    return dataclasses.replace(job, cpus=math.floor(STEPS * cpus / at_once) / STEPS, tokens=tokens)


def in_turn(job: Job) -> Job:
    """The same without being ahead: Ray starts it once a training has ended."""
    return dataclasses.replace(job, cpus=None)
