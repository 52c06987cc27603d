"""The body of the remote training task, in a module of its own: the process that runs it loads no pandas.

In: two paths, or URIs. Out: the job's status; everything else is in the job's files. Called by Ray for the launcher.
"""

import os
from pathlib import Path


def train_in_worker(dataset: str, target: str) -> str:
    """One call of the plain function."""
    from models.process.job import Superseded, run_job
    from models.process.resume import ended_as
    from models.process.supervision import Orphaned
    from models.training.stop_request import Interrupted
    from orchestrator.storage.object_store import is_remote
    from orchestrator.storage.staging import staged_dataset
    from orchestrator.training.remote_worker import train_away

    ended = None if is_remote(target) else ended_as(Path(target))
    if ended:  # the driver removed the old one: an earlier try ended, and died before it could say so
        return ended
    try:
        if is_remote(target):
            return train_away(dataset, target)
        with staged_dataset(dataset) as films:
            return run_job(films, Path(target))["status"]
    except Orphaned:
        os._exit(1)  # an answer may still reach the driver though the raylet is dead; a death is tried again elsewhere
    except Superseded:
        return "superseded"
    except Interrupted:
        return "interrupted"
