"""How long a training will take, and so which comes first: one estimate for the launcher and the doctor.

In: a config, how many films it trains on and looks at, a measured time or none. Out: trained films (a film that is only
looked at counts a third), and the jobs of a run, longest first. The order matters at the end of a run only: a long
training that starts last keeps one slot busy while the others are idle.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from models.config import TrainConfig
from models.data.targets import Targets
from models.files.layout import read_json, read_json_lines
from orchestrator.planning.memory import film_bytes
from orchestrator.planning.plan import Job

STEPS = 10_000  # Ray counts in ten-thousandths of a CPU
FORWARD_SHARE = 1 / 3  # of a training step's time: the backward pass costs about twice the forward pass


def trained_films(config: TrainConfig, films: int, watched: int, predicted: int, epochs: int | None = None) -> float:
    """Films of training steps that take as long as all: training, `select` after every epoch, the predictions."""
    epochs = config.epochs if epochs is None else epochs
    trained = epochs * (films // config.batch_size) * config.batch_size
    return trained + FORWARD_SHARE * (epochs * watched + predicted)


def effort(config: TrainConfig, films: int, watched: int, predicted: int, size: int) -> float:
    """Of a training from its start, for comparing trainings that nobody has timed."""
    return film_cost(config, size) * trained_films(config, films, watched, predicted)


def film_cost(config: TrainConfig, size: int) -> float:
    """What a trained film costs, in a unit of no meaning: the bytes that it leaves for the backward pass.

    A stand-in for time, right to about a factor of two between backbones, and better than none between sizes.
    """
    return film_bytes(config, size)


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """The jobs by what is left of them; those alike keep their order.

    Where an earlier attempt has left epochs in its history, their seconds count, and the others' costs are set in
    relation to them. Ray takes tasks that ask for the same (threads, GPUs) in the order in which they are submitted;
    between different requests, and for a training that is tried again, it promises no order.
    """
    measured = {job.name: epoch_seconds(job) for job in jobs}
    counted = {job.name: _films(job) for job in jobs}
    costs = {job.name: film_cost(job.config, read_json(job.paths.config)["data"]["size"]) for job in jobs}
    rates = [seconds / (counted[name][0] * costs[name]) for name, (seconds, _) in measured.items() if seconds]
    rate = statistics.median(rates) if rates else 1.0

    def left(job: Job) -> float:
        films, watched, predicted = counted[job.name]
        seconds, done = measured[job.name]
        done = (0 if job.replace_earlier else done) + (job.config.branch_epoch if job.branch else 0)
        film = seconds / films if seconds else rate * costs[job.name]
        return film * trained_films(job.config, films, watched, predicted, max(job.config.epochs - done, 0))

    return sorted(jobs, key=left, reverse=True)


def epoch_seconds(job: Job) -> tuple[float, int]:
    """Median seconds of an epoch in the newest attempt that has any, and how many it has; (0, 0) without."""
    newest = job.paths.newest_attempt()
    for number in range(newest.number if newest else 0, 0, -1):
        rows = read_json_lines(job.paths.attempt(number).history)
        if rows:
            return statistics.median(row["seconds"] for row in rows), len(rows)
    return 0.0, 0


def _films(job: Job) -> tuple[int, int, int]:
    """Films that are trained on, looked at after every epoch, and predicted at the end."""
    targets = Targets.load(job.paths.targets)
    train, select = targets.epoch_films, len(targets.usable("select"))
    return max(train, 1), select, len(targets.row) - len(targets.all_of("train"))


def whole_rounds(jobs: Sequence[Job], nodes: Sequence[Mapping[str, Any]], gpus: float) -> list[Job]:
    """Where the last of several rounds would leave cores idle, its trainings and those of the round before share.

    Five trainings on two cores would take three rounds, with one core idle in the third; with the last three at a
    time they take two and a half. Threads, and so the bytes of the weights, stay what they are: the system's scheduler
    shares the cores. Only for trainings alike on the CPUs of one node that nobody else uses; memory is Ray's to count,
    as before.
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
