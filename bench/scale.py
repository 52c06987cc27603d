"""Planning and dispatching 12, 120, 1,200 (and 12,000) jobs that do nothing: what the driver itself costs.

In: nothing (a tiny data set of noise is written). Out: a table; with --check, exit code 1 where the cost of a job grows
with their number. Everything is `hilum train`'s own: plan, ledger, waiting, outcomes. Two things are different: the job
writes its outcome and ends, and it runs in a process that is used again, since a fresh one costs 0.8 s of a core.
"""

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

from models.files.layout import RunPaths, TargetPaths, read_json_lines, write_json
from orchestrator.formatting import aligned
from orchestrator.planning.plan import TrainRequest
from orchestrator.training import launch
from orchestrator.training.private_ray import environment, private_ray
from orchestrator.training.ray_session import SETTINGS
from pathologies.findings.catalog import CHEXPERT_TARGETS

SIZES, FULL = (12, 120, 1_200), 12_000
# "No worse than linear": from one size to the next a job's share of the driver's time may grow by measurement noise.
SLACK = 1.5
NOISE_BELOW = 120  # jobs: below it the start of the first processes is most of the time
COLUMNS = ("jobs", "plan s", "dispatch s", "jobs/s", "ledger s", "ledger lines", "driver MiB", "driver ms/job")


@dataclass(kw_only=True)
class Measured:
    jobs: int
    plan: float = 0.0  # seconds until the first job could start
    dispatch: float = 0.0  # from there to the last outcome
    ledger: float = 0.0  # of it, in writing the ledger
    lines: int = 0
    memory: int = 0  # growth of the driver's resident bytes
    marks: dict[str, float] = field(default_factory=dict)

    @property
    def per_job(self) -> float:
        """Seconds of the driver for one job."""
        return (self.plan + self.dispatch) / self.jobs

    def cells(self) -> list[str]:
        rate = self.jobs / max(self.dispatch, 1e-9)
        return [f"{self.jobs:,}", f"{self.plan:.2f}", f"{self.dispatch:.2f}", f"{rate:.0f}", f"{self.ledger:.3f}",
                str(self.lines), f"{self.memory / 2**20:.0f}", f"{1000 * self.per_job:.1f}"]  # fmt: skip


def no_operation(dataset: str, target: str) -> str:
    """What a training process leaves when it is done, without the training."""
    outcome = dict.fromkeys(("error", "best_epoch", "select_score", "started", "ended", "peak_memory_bytes"))
    write_json(
        TargetPaths(Path(target)).outcome, outcome | {"status": "ok", "attempt": 1, "pid": os.getpid(), "host": ""}
    )
    return "ok"


@contextlib.contextmanager
def simulated(nodes: int, cpus: int) -> Iterator[ModuleType]:
    """A cluster of several raylets on this machine, for this process alone, gone with the block."""
    store = {"object_store_memory": 80 * 2**20}
    with environment(SETTINGS), private_ray(), contextlib.redirect_stdout(sys.stderr):
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **store})
        try:
            for _ in range(nodes):
                cluster.add_node(num_cpus=cpus, **store)
            ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
            yield ray
        finally:
            ray.shutdown()
            cluster.shutdown()


class PlainTasks:
    """Ray, except that a task's process is used again."""

    def __init__(self, ray: ModuleType) -> None:
        self._ray = ray

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ray, name)

    def remote(self, **options: Any) -> Any:
        def wrap(function: Any) -> Any:
            task = self._ray.remote(function)
            kept = ("num_cpus", "name")
            return SimpleNamespace(options=lambda **words: task.options(**{one: words[one] for one in kept}))

        return wrap


def measure(ray: ModuleType, dataset: Path, out: Path, members: int) -> Measured:
    """One `hilum train` of all twelve findings with so many members."""
    measured = Measured(jobs=12 * members)
    record, before = launch.record, launch._resident_bytes()

    def timed(run: RunPaths, event: dict[str, Any]) -> None:
        if event["event"] == "begin":
            measured.marks["begin"] = time.perf_counter()
        start = time.perf_counter()
        record(run, event)
        measured.ledger += time.perf_counter() - start

    @contextlib.contextmanager
    def here(*words: Any, **more: Any) -> Iterator[PlainTasks]:
        yield PlainTasks(ray)

    settings = {"backbone": "test_resnet", "device": "cpu", "precision": "fp32", "batch_size": 4}
    with (
        mock.patch.object(launch, "connected", here),
        mock.patch.object(launch, "train_in_worker", no_operation),
        mock.patch.object(launch, "record", timed),
    ):
        start = time.perf_counter()
        request = TrainRequest(dataset=dataset, out=out, members=members, settings=settings)
        outcomes = launch.train_run(request, lambda event: None)
        end = time.perf_counter()
    if [one["status"] for one in outcomes] != ["ok"] * measured.jobs:
        raise RuntimeError(f"{sum(one['status'] != 'ok' for one in outcomes)} of {measured.jobs} jobs did not end well")
    measured.plan, measured.dispatch = measured.marks["begin"] - start, end - measured.marks["begin"]
    measured.memory = launch._resident_bytes() - before
    measured.lines = len(read_json_lines(RunPaths(out).ledger))
    return measured


def too_steep(rows: list[Measured]) -> list[str]:
    """Where a job's share of planning or of dispatch is more than SLACK times that at the size before."""
    found = []
    for one, next_ in zip(rows, rows[1:], strict=False):
        for phase in ("plan", "dispatch") if one.jobs >= NOISE_BELOW else ():
            growth = (getattr(next_, phase) / next_.jobs) / (getattr(one, phase) / one.jobs)
            if growth > SLACK:
                found.append(
                    f"From {one.jobs:,} to {next_.jobs:,} jobs, {phase} costs {growth:.2f} times as much a job; "
                    f"{SLACK} is allowed."
                )
    return found


def run(sizes: tuple[int, ...], nodes: int, cpus: int) -> list[Measured]:
    from tests.small_data import make_dataset

    with tempfile.TemporaryDirectory(prefix="hilum-scale-") as folder, simulated(nodes, cpus) as ray:
        dataset = make_dataset(Path(folder) / "dataset", CHEXPERT_TARGETS)
        measure(ray, dataset, Path(folder) / "warm", 1)  # the processes start, the files are in memory
        return [measure(ray, dataset, Path(folder) / f"run{size}", size // 12) for size in sizes]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="12,000 jobs as well (some minutes)")
    parser.add_argument("--jobs", type=int, nargs="*", help="other sizes, multiples of 12")
    parser.add_argument("--nodes", type=int, default=2, help="simulated worker nodes (default 2)")
    parser.add_argument(
        "--cpus", type=int, default=1, help="CPUs that each announces, and so its processes (default 1)"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when the cost of a job grows with their number")
    options = parser.parse_args(words)
    sizes = tuple(options.jobs or (*SIZES, FULL) if options.full else options.jobs or SIZES)
    if any(size < 12 or size % 12 for size in sizes):
        parser.error("--jobs: multiples of 12, for twelve findings")
    rows = run(sizes, options.nodes, options.cpus)
    print(aligned(COLUMNS, [one.cells() for one in rows]))
    problems = too_steep(rows)
    print("\n".join(problems) or "No worse than linear.")
    return int(bool(problems) and options.check)


if __name__ == "__main__":
    sys.exit(main())
