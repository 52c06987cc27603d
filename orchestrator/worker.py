"""The body of the remote training task, in a module of its own: the process that runs it loads no pandas.

In: two paths. Out: the job's status; everything else is in the job's files. Called by Ray for the launcher.
"""

from pathlib import Path


def train_in_worker(dataset: str, target: str) -> str:
    """One call of the plain function."""
    from models.job import Superseded, run_job
    from models.paths import TargetPaths, read_json

    outcome = TargetPaths(Path(target)).outcome
    if outcome.exists():  # the driver removed the old one: an earlier try ended, and died before it could say so
        return read_json(outcome)["status"]
    try:
        return run_job(Path(dataset), Path(target))["status"]
    except Superseded:
        return "superseded"
