"""A search in this process, one trial after the other, without Ray's processes: for tests and debuggers.

In: an open Search. Out: its trials, finished, as orchestrator.tuning.executors leaves them. Called by `hilum tune
--inline`.
"""

from collections.abc import Callable
from typing import Any

from models.files.layout import TargetPaths
from models.process.job import Superseded, run_job
from orchestrator.tuning.executors import Halving
from orchestrator.tuning.study import Search
from orchestrator.tuning.trial_worker import best_so_far, epochs_of


class Stopped(Superseded):
    """The search ends this trial; nobody wants its result any more."""


def search_inline(search: Search, after_trial: Callable[[], None]) -> None:
    """Finish every trial that is missing; `after_trial` is called after each."""
    halving = Halving(search, search.config().epochs)
    for number in search.todo():
        trial = search.hand_out(number)
        halving.follow(number)
        try:
            _train(search, trial.paths, halving, number)
        except Stopped:
            search.stop(number)
        search.settle(number)
        after_trial()


def _train(search: Search, paths: TargetPaths, halving: Halving, number: int) -> None:
    rows = epochs_of(paths)

    def tell(epoch: int, score: float) -> None:
        if halving.worse(number, epoch, score):
            raise Stopped(f"Trial {number} is worse than its peers after epoch {epoch}.")

    def on_epoch(row: dict[str, Any]) -> None:
        rows[row["epoch"] - 1 :] = [row]
        tell(*best_so_far(rows)[-1])

    for epoch, score in best_so_far(rows):
        tell(epoch, score)
    run_job(search.material.dataset.root, paths.root, on_epoch, watch_parent=False)
