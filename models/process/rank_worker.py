"""A process above rank 0 of a training that several GPUs share: the same training, on a copy of the checkpoint, silent.

In: the data set, the target's folder, the leader's attempt and the folder where the ranks meet. Out: nothing; rank 0
writes. Started by models.training.distributed as `python -m models.process.rank_worker`.
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from models.files.layout import AttemptPaths, DatasetPaths, TargetPaths
from models.files.retry import Retry
from models.process.job import open_task
from models.training.distributed import process_group
from models.training.loop import train_target


class Silent(Retry):
    """Writes nothing: rank 0 does."""

    def write(self, action: Callable[[], None], path: Path, size: int = 0) -> None:
        pass


def follow(dataset: Path, target: Path, attempt: Path, folder: Path, rank: int) -> None:
    """The whole life of the process."""
    leader = AttemptPaths(attempt)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    copy = AttemptPaths(folder / f"rank{rank}")
    copy.root.mkdir()
    if leader.checkpoint.exists():
        shutil.copyfile(leader.checkpoint, copy.checkpoint)
    task = open_task(DatasetPaths(dataset), TargetPaths(target), copy, lambda: None)
    with process_group(folder, task.config, rank):
        train_target(replace(task, retry=Silent()))


def _end_with(parent: int) -> None:
    """Without rank 0 a step may wait for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    follow(*map(Path, sys.argv[1:5]), int(sys.argv[5]))
