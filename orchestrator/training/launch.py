"""Launch: one isolated process per (target, member), whatever happens to any of them.

In: a TrainRequest. Out: finished target folders and a list of results; the files of the run are the truth, Ray is only
the executor. Called by `hilum train`. `--inline` runs the same function in this process, for tests and debuggers. A job
that goes on from another one is started when that has ended well.
"""

import dataclasses
import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from models.files.layout import DatasetPaths, append_json_line, read_json, write_json
from models.files.retry import Retry
from orchestrator.planning.heads import plan_jobs
from orchestrator.planning.memory import estimate
from orchestrator.planning.plan import Job, TrainRequest
from orchestrator.ray_address import own_cluster
from orchestrator.storage.object_store import is_remote
from orchestrator.storage.scratch import locked_alone
from orchestrator.storage.workspace import DrivenRun
from orchestrator.training.dependants import Dependants, sources_first
from orchestrator.training.environment import process_environment
from orchestrator.training.monitor import Watch
from orchestrator.training.ray_session import (
    ClusterLiveness,
    ask_to_end,
    connected,
    end_tasks,
    require_room,
)
from orchestrator.training.resources import cluster_precision, definite_share, memory_request
from orchestrator.training.retries import INTERRUPTED, Retries
from orchestrator.training.schedule import longest_first, whole_rounds
from orchestrator.training.worker import train_in_worker

log = logging.getLogger(__name__)
POLL_SECONDS = 1.0
GRACE_SECONDS = 10.0  # for the checkpoint of a training that is asked to end
OnEvent = Callable[[dict[str, Any]], None]


def train_run(request: TrainRequest, on_event: OnEvent) -> list[dict[str, Any]]:
    """Train what is missing of the run; returns the outcome of every job asked for, in order.

    Events are dicts with `event` (planned, started, epoch, again, finished) and `job`; the first may be `recipe`, with
    a `text`. Errors: InputError before anything starts. KeyboardInterrupt ends every child, and the same command goes
    on from the checkpoints.
    """
    run = request.workspace.driven(request.out)

    def tell(text: str) -> None:
        on_event({"event": "recipe", "text": text})

    with exclusive(run):
        if request.inline:
            jobs = plan_jobs(request, inline_device(), inline_card(), tell)
            _announce(jobs, on_event)
            without_start = _run_inline(request, run, jobs, on_event)
        else:
            with connected(request.address) as ray:
                jobs, without_start = _run_on_ray(ray, request, run, on_event, tell)
        return [(without_start.get(job.name) or read_json(job.paths.outcome)) | _named(job) for job in jobs]


def _named(job: Job) -> dict[str, Any]:
    folds = job.fold["of"] if job.fold else 1
    return {"job": job.name, "slug": job.slug, "untuned": job.untuned, "folds": folds}


def _run_on_ray(
    ray: ModuleType,
    request: TrainRequest,
    run: DrivenRun,
    on_event: OnEvent,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[list[Job], dict[str, dict[str, Any]]]:
    """All jobs, and the outcomes of those that were not started, because what they go on from failed."""
    device = cluster_device(ray)
    jobs = plan_jobs(request, device, cluster_precision(ray), tell)
    waiting = sources_first(longest_first([job for job in jobs if not job.finished]))
    gpus = definite_share(ray, request.gpus_per_target, device, request.dataset, [job.config for job in waiting])
    if waiting:
        require_room(ray, max(job.config.threads * job.config.ranks for job in waiting), gpus)
    if own_cluster(request.address):
        waiting = whole_rounds(waiting, ray.nodes(), gpus)
    _announce(jobs, on_event)
    before = _resident_bytes()
    record(run, {"event": "begin", "jobs": [job.name for job in waiting], "driver_bytes": before})
    submit, running, watches = Submission(ray, request, run, gpus), {}, {}
    dependants = Dependants(waiting)
    try:
        for job in dependants.ready:
            _start(run, job, running, watches, submit)
        _follow(ray, run, running, watches, on_event, submit, dependants)
    except KeyboardInterrupt:
        run.stop_waiting()
        ask_to_end(ray, running, GRACE_SECONDS)
        raise
    finally:
        end_tasks(ray, running)  # only after an interrupt or an error is anything left
        record(run, {"event": "end", "driver_bytes": _resident_bytes(), "driver_growth": _resident_bytes() - before})
    return jobs, dependants.without_start


def _start(
    run: DrivenRun, job: Job, running: dict[Any, Job], watches: dict[str, Watch], submit: Callable[[Job], Any]
) -> None:
    job = _begin(run, job)
    watches[job.name] = Watch(job)
    running[submit(job)] = job


def _begin(run: DrivenRun, job: Job) -> Job:
    """Its folder is ready for a training: nothing of one with other settings, and no outcome of an earlier try."""
    if job.replace_earlier:
        job.replace_earlier()
    job.paths.outcome.unlink(missing_ok=True)
    run.publish(job.paths.root)
    return dataclasses.replace(job, replace_earlier=None)


class Submission:
    """Hands jobs to Ray, each for a process that has run nothing before and ends with it.

    That takes `max_calls=1` and an environment of its own. The function is one for all jobs of the run: Ray schedules
    each function by itself, and twelve hundred of them cost it four times as much a job as a hundred and twenty.
    """

    def __init__(self, ray: ModuleType, request: TrainRequest, run: DrivenRun, gpus: float) -> None:
        self.ray, self.run, self.gpus, self.dataset = ray, run, gpus, request.workspace.address(request.dataset)
        self.size, self.films = (read_json(DatasetPaths(request.dataset).manifest)[name] for name in ("size", "images"))
        self.train = ray.remote(max_calls=1, max_retries=request.retries)(train_in_worker)

    def __call__(self, job: Job) -> Any:
        """Ray's reference to the job's status."""
        environment = process_environment(job.config, self.gpus, self.size) | {"HILUM_PROCESS": "training"}
        task = self.train.options(
            num_cpus=job.cpus or job.config.threads * job.config.ranks,
            num_gpus=self.gpus,
            memory=self._memory(job),
            name=job.name,
            runtime_env={"env_vars": environment},
        )
        return task.remote(self.dataset, self.run.address(job.paths.root))

    def _memory(self, job: Job) -> int | None:
        """Bytes that Ray reserves for the job; none where no node tells of its memory."""
        host = job.memory or estimate(job.config, self.size, self.films).host * job.config.ranks
        return memory_request(self.ray.nodes(), job.config, self.gpus, host) or None


def _follow(
    ray: ModuleType,
    run: DrivenRun,
    running: dict[Any, Job],
    watches: dict[str, Watch],
    on_event: OnEvent,
    submit: Callable[[Job], Any],
    dependants: Dependants | None = None,
) -> None:
    """Wait for all, passing on what their files tell meanwhile; start what goes on from one that has ended."""
    lifeline, retries, dependants = ClusterLiveness(ray), Retries(), dependants or Dependants()
    while running:
        lifeline.check()
        ready, _ = ray.wait(list(running), num_returns=len(running), timeout=POLL_SECONDS)
        run.refresh(run.root)
        for job in running.values():
            for event in watches[job.name].news():
                on_event(event)
        for reference in ready:
            job = running.pop(reference)
            run.refresh(job.paths.root, now=True)
            again = retries.again(job, _settle(ray, reference, job))
            if again:
                job = _start_again(run, *again, on_event)
                running[submit(job)] = job
            else:
                for next_one in _finished(run, job, on_event, dependants):
                    _start(run, next_one, running, watches, submit)


def _start_again(run: DrivenRun, job: Job, why: str, on_event: OnEvent) -> Job:
    run.publish(job.paths.root)
    record(run, {"event": "again", "job": job.name, "why": why})
    on_event({"event": "again", "job": job.name, "why": why})
    return job


def _settle(ray: ModuleType, reference: Any, job: Job) -> str:
    """The status. A process that died left no outcome: then the death is the outcome."""
    error: Exception | None = None
    try:
        status = ray.get(reference)
        if status == INTERRUPTED:
            return status
        if not job.paths.outcome.exists():  # another process took the job over, and this is its driver no more
            error = RuntimeError(f"it ended as {status!r} without an outcome")
    except ray.exceptions.RayError as death:
        error = death
    if error and not job.paths.outcome.exists():
        write_json(job.paths.outcome, _death(job, error, isinstance(error, ray.exceptions.OutOfMemoryError)))
    return read_json(job.paths.outcome)["status"]


def _death(job: Job, error: Exception, memory: bool) -> dict[str, Any]:
    attempt = job.paths.newest_attempt()
    advice = "Lower --set batch_size=... or train fewer at once." if memory else "Give the same command again to go on."
    stacks = attempt.stacks.read_text(encoding="utf-8") if attempt and attempt.stacks.exists() else ""
    return {
        "status": "oom" if memory else "hung" if stacks else "died",
        "error": f"The training process died ({type(error).__name__}). {advice}",
        "traceback": stacks or str(error)[-4000:],
        "attempt": attempt.number if attempt else None,
        "ended": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **dict.fromkeys(("pid", "host", "started", "peak_memory_bytes", "best_epoch", "select_score")),
    }


def _finished(run: DrivenRun, job: Job, on_event: OnEvent, dependants: Dependants) -> list[Job]:
    """Told and written down, with those that cannot start for want of it; returns those that now can."""
    outcome = read_json(job.paths.outcome)
    to_start, failed = dependants.after(job, outcome)
    _tell_outcome(run, job, outcome, on_event)
    for one in failed:
        _tell_outcome(run, one, dependants.without_start[one.name], on_event)
    return to_start


def _tell_outcome(run: DrivenRun, job: Job, outcome: dict[str, Any], on_event: OnEvent) -> None:
    run.publish(job.paths.root)
    record(run, {"event": "finished", "job": job.name, **{name: outcome.get(name) for name in
            ("status", "attempt", "pid", "host", "started", "ended")}})  # fmt: skip
    on_event({"event": "finished", "job": job.name, "outcome": outcome})


def _run_inline(request: TrainRequest, run: DrivenRun, jobs: list[Job], on_event: OnEvent) -> dict[str, dict[str, Any]]:
    """The outcomes of those that were not started, as of `_run_on_ray`."""
    retries, dependants = Retries(), Dependants([job for job in jobs if not job.finished])
    waiting = dependants.ready
    while waiting:
        job = _begin(run, waiting.pop(0))
        on_event({"event": "started", "job": job.name, "attempt": None})

        def on_epoch(row: dict[str, Any], job: Job = job) -> None:
            on_event({"event": "epoch", "job": job.name, "row": row, "epochs": job.config.epochs})

        status = _train_here(request, run, job, on_epoch)
        again = retries.again(job, status)
        if again:
            waiting.insert(0, _start_again(run, *again, on_event))
        else:
            waiting += _finished(run, job, on_event, dependants)
    return dependants.without_start


def _train_here(request: TrainRequest, run: DrivenRun, job: Job, on_epoch: OnEvent) -> str:
    from models.process.job import run_job
    from orchestrator.training.remote_worker import train_away

    where = run.address(job.paths.root)
    if not is_remote(where):
        return run_job(Path(request.dataset), job.paths.root, on_epoch, watch_parent=False)["status"]
    status = train_away(str(request.dataset), where, on_epoch, own_process=False)
    run.refresh(job.paths.root, now=True)
    return status


def _announce(jobs: list[Job], on_event: OnEvent) -> None:
    for job in jobs:
        folds = job.fold["of"] if job.fold else 1
        on_event({"event": "planned", "job": job.name, "finished": job.finished, "epochs": job.config.epochs,
                  "note": job.note, "outcome": read_json(job.paths.outcome) if job.finished else None,
                  "folds": folds})  # fmt: skip


def cluster_device(ray: ModuleType) -> str:
    return "cuda" if ray.cluster_resources().get("GPU", 0) > 0 else "cpu"


def inline_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def inline_card() -> str:
    """What precision=auto means on this machine's GPU; of no matter where there is none."""
    from models.training.device import own_card_precision

    return own_card_precision() if inline_device() == "cuda" else "auto"


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def record(run: DrivenRun, event: dict[str, Any]) -> None:
    line = {"time": round(time.time(), 3), "driver": os.getpid(), **event}
    Retry().write(partial(append_json_line, run.ledger, line), run.ledger)
    run.publish(run.ledger)


def exclusive(run: DrivenRun) -> AbstractContextManager[None]:
    """One driver per run; the system lets go of the lock when a driver dies, however it dies."""
    return locked_alone(run.lock, f"Another hilum command is working on {run.root}.")
