"""Taking over: a new attempt at a target begins where the newest usable checkpoint of the earlier ones stands.

In: a target's folder. Out: checkpoint, best weights and history in the new attempt's folder, and what was found
damaged. Called by models.process.job. Only whole files are taken over: their hashes say so.
"""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.files.checksummed import Damaged, read_checksummed, require_weights
from models.files.layout import AttemptPaths, TargetPaths, publishing, read_json, remove_temporaries
from models.training.checkpoint import PROGRESS

log = logging.getLogger(__name__)


def continue_from_earlier(paths: TargetPaths, new: AttemptPaths) -> dict[str, Any]:
    """For the outcome: `continued_from` (attempt and file, None for a start from nothing) and `damaged` files."""
    _tidy(paths, new)
    damaged: list[str] = []
    for old, checkpoint in _candidates(paths, new):
        try:
            _, facts = read_checksummed(checkpoint, PROGRESS)
            best = int(facts["best_epoch"]) > 0
            if best:
                require_weights(old.best)
            for epoch, _ in facts.get("snapshots", ()):
                require_weights(old.snapshot(int(epoch)))
            if facts.get("branch"):
                read_checksummed(old.branch, PROGRESS)
        except (Damaged, OSError) as error:
            log.warning("%s It is passed over.", error)
            damaged.append(str(checkpoint.relative_to(paths.root)))
            continue
        _take(old, checkpoint, new, best)
        for number in range(1, old.number):  # the one gone on from stays, should the disk be bad
            drop_checkpoints(paths.attempt(number))
        return {"continued_from": str(checkpoint.relative_to(paths.root)), "damaged": damaged}
    return {"continued_from": None, "damaged": damaged}


def ended_as(target: Path) -> str | None:
    """The status of a training that is over; None where it is to be started. A hung one is: its outcome is removed."""
    paths = TargetPaths(target)
    if not paths.outcome.exists():
        return None
    status = read_json(paths.outcome)["status"]
    if status != "hung":
        return status
    paths.outcome.unlink(missing_ok=True)
    return None


def drop_checkpoints(attempt: AttemptPaths) -> None:
    """Of a finished attempt, and of one that others went on from, only the history is still of use."""
    for path in (attempt.checkpoint, attempt.previous, attempt.best, attempt.branch, *attempt.snapshots()):
        path.unlink(missing_ok=True)


def _candidates(paths: TargetPaths, new: AttemptPaths) -> Iterator[tuple[AttemptPaths, Path]]:
    """Checkpoints that exist, newest first; of each attempt the last one, then the one before it."""
    for number in range(new.number - 1, 0, -1):
        old = paths.attempt(number)
        yield from ((old, path) for path in (old.checkpoint, old.previous) if path.exists())


def _take(old: AttemptPaths, checkpoint: Path, new: AttemptPaths, best: bool) -> None:
    # the checkpoint comes last: without it the attempt starts afresh and overwrites the others
    pairs = [(old.history, new.history), (old.branch, new.branch)]
    pairs += [(path, new.root / path.name) for path in (old.best, *old.snapshots())] if best else []
    for source, goal in (*pairs, (checkpoint, new.checkpoint)):
        if source.exists():
            with publishing(goal) as temporary:
                shutil.copyfile(source, temporary)


def _tidy(paths: TargetPaths, new: AttemptPaths) -> None:
    """Remove what killed writers left half-written.

    An older attempt that still writes is not the newest any more: that its file vanishes is one way to notice.
    """
    for folder in (paths.root, *(paths.attempt(number).root for number in range(1, new.number))):
        remove_temporaries(folder)
