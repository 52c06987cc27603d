"""Ray Tune as the executor of a search: one Tuner per finding, all on one pool of resources.

In: an open Search. Out: its trials, finished. Tune decides what runs when and, by successive halving, what is stopped;
what it knows is told to it again from the files, and nothing is restored from what Tune itself stores. Imports Ray, so
it is imported only where a search runs.
"""

import math
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from orchestrator.datasets.labelled import read_material
from orchestrator.training.environment import process_environment
from orchestrator.tuning.study import Search, SearchRequest, open_search
from orchestrator.tuning.trial_worker import best_so_far, epochs_of, run_trial
from orchestrator.tuning.trials import read_trials

HALVING = 2  # at each rung the better half goes on
FEWEST_PEERS = 4  # that have come as far; the better half of fewer is a matter of chance
FIRST_RUNG = 1 / 3  # of the epochs: in the warm-up (30 % by default) scores tell little
DEATHS = 2  # a trial's process may die so often and be started again
ENVIRONMENT = {
    "HILUM_PROCESS": "search",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails in its first epoch reports no score
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # what Tune stores is never read
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
}


class Halving(ASHAScheduler):
    """Asynchronous successive halving (Li et al. 2020), told of the trials that the files hold already.

    The defaults (trial 0) are never stopped: the winner is judged against them.
    """

    def __init__(self, search: Search, epochs: int) -> None:
        first = max(1, math.ceil(FIRST_RUNG * epochs))
        super().__init__(
            time_attr="epoch", metric="select_score", mode="max", max_t=epochs, grace_period=first,
            reduction_factor=HALVING, stop_last_trials=False,
        )  # fmt: skip
        self.search, self.epochs = search, epochs
        self.reached: dict[int, int] = {}  # the epoch that each trial has come to
        for trial in read_trials(search.paths):
            if trial.outcome is not None:
                self.follow(trial.number)
                for epoch, score in best_so_far(epochs_of(trial.paths)):
                    self.worse(trial.number, epoch, score)

    def follow(self, number: int) -> None:
        super().on_trial_add(None, _stand_in(number))

    def worse(self, number: int, epoch: int, score: float) -> bool:
        """Tell of a trial's epoch; True where it should end here. Its last epoch it has done already."""
        action = super().on_trial_result(None, _stand_in(number), {"epoch": epoch, "select_score": score})
        self.reached[number] = epoch
        peers = sum(reached >= epoch for reached in self.reached.values()) - 1
        return action == self.STOP and number > 0 and peers >= FEWEST_PEERS and epoch < self.epochs

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.follow(trial.config["number"])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = trial.config["number"]
        if "epoch" not in result or not self.worse(number, result["epoch"], result["select_score"]):
            return self.CONTINUE
        self.search.stop(number)  # its process waits in `report` for this answer, so nobody else writes there
        return self.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: every epoch was told when it was done."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: what a trial has shown stays true."""


class FileSearcher(Searcher):
    """Hands out the numbers that have no outcome yet; what their settings are, the files say."""

    def __init__(self, search: Search) -> None:
        super().__init__()
        self.search, self.waiting, self.numbers = search, search.todo(), {}
        self.parent = os.getppid()

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        if not self.waiting:
            return Searcher.FINISHED
        number = self.numbers[trial_id] = self.waiting.pop(0)
        trial = self.search.hand_out(number)
        dataset = self.search.material.dataset.root.resolve()
        return {"number": number, "dataset": str(dataset), "trial": str(trial.paths.root.resolve())}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        if os.getppid() != self.parent:  # the whole cluster is going down: that is no fault of this trial
            return
        death = f"Its process died {DEATHS + 1} times, or could not start." if error else None
        self.search.settle(self.numbers[trial_id], death)

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()  # the files of the run are the state

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the files of the run are the state."""


def submit_search(ray: Any, search: Search, gpus: float, deadline: float | None) -> Any:
    """Start one finding's Tuner in a process of its own that holds no CPU; its trials inherit the environment."""
    size = search.material.dataset.manifest["size"]
    environment = process_environment(search.config(), gpus, size) | ENVIRONMENT
    environment["HILUM_RUN"] = str(search.paths.run.root.resolve())
    task = ray.remote(num_cpus=0, max_calls=1, max_retries=2)(search_in_worker).options(
        name=f"search/{search.slug}", runtime_env={"env_vars": environment}
    )
    return task.remote(search.request, search.slug, search.device, gpus, deadline)


def search_in_worker(request: SearchRequest, slug: str, device: str, gpus: float, deadline: float | None) -> None:
    """One finding's search, run to its end or to the deadline."""
    search = open_search(request, slug, read_material(request.dataset, request.findings), device)
    numbers = search.todo()
    if not numbers:
        return
    config = search.config()
    scratch = search.paths.scratch.resolve()
    shutil.rmtree(scratch, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(run_trial, {"cpu": config.threads, "gpu": gpus}),
        tune_config=tune.TuneConfig(
            search_alg=FileSearcher(search),
            scheduler=Halving(search, config.epochs),
            num_samples=len(numbers),
            time_budget_s=max(1.0, deadline - time.time()) if deadline else None,
            reuse_actors=False,  # a fresh process for every trial
        ),
        run_config=tune.RunConfig(
            name="search", storage_path=str(scratch), failure_config=tune.FailureConfig(max_failures=DEATHS), verbose=0
        ),
    )
    tuner.fit()
    shutil.rmtree(scratch, ignore_errors=True)


def _stand_in(number: int) -> SimpleNamespace:
    """All that the scheduler wants to know of a trial is its name."""
    return SimpleNamespace(trial_id=str(number))
