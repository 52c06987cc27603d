"""A training whose folder lies in object storage: it works in scratch on its node, and what it writes goes there.

In: the data set's and the target folder's place, either a path or a URI. Out: the job's status; the attempt's files and
the result in the storage, `outcome.json` last. Called in training processes; loads no tables.

The number of the attempt is taken by a conditional write, so two processes never share one. Checkpoints are sent by a
thread of its own, again and again while the storage does not answer: a training never waits for the storage, and a
retry on any node goes on from the newest checkpoint that arrived.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from models.files.layout import TargetPaths
from orchestrator.storage.mirror import CHECKPOINT, CLAIM, Mirror, small_files
from orchestrator.storage.object_store import LONGEST_PAUSE, SHORT_PATIENCE, Entry, StorageError, Store, insist
from orchestrator.storage.scratch import scratch
from orchestrator.storage.staging import staged_dataset

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.5  # how often the folder is looked at
NEWEST_SECONDS = 30.0  # how often the storage is asked whether a newer attempt has begun
BRANCH = "branch"  # key of config.json, as in orchestrator.planning.target_files, which loads tables
LAST_PATIENCE = 1800.0  # seconds in which the results have to arrive; then the process ends without
OUTCOME = TargetPaths(Path()).outcome.name
INPUTS = (TargetPaths(Path()).config.name, TargetPaths(Path()).targets.name)
PREVIOUS = "previous.ckpt"  # for a disk that damages the last one; the storage keeps its objects whole


def train_away(
    dataset: str, target: str, on_epoch: Callable[[dict[str, Any]], None] | None = None, own_process: bool = True
) -> str:
    """Train the target at the URI `target` as models.process.job does in a folder; the outcome's status, or
    "superseded".

    Errors: as those of models.process.job.run_job; StorageError.
    """
    store = Store(target).check()
    there = store.list()
    status = json.loads(store.read(OUTCOME)[0])["status"] if OUTCOME in there else ""
    if status == "hung":  # of an earlier try, which ended itself so that this one may go on
        store.delete([OUTCOME])
    elif status:  # the driver removed the old one: an earlier try ended, and died before it could say so
        return status
    from models.process.job import run_job

    number = claim(store, there)
    with scratch("training") as run:
        root = run / Path(target).parent.name / Path(target).name  # as in the run, from where `init` may be named
        root.mkdir(parents=True)
        mirror = Mirror(store, root, lambda name: name in INPUTS or name in _to_continue(there, number))
        mirror.pull()
        _fetch_branch(target, run, root)
        paths = TargetPaths(root)
        if number > 1:
            paths.attempt(number - 1).root.mkdir(parents=True, exist_ok=True)  # so that the next one is ours
        sender = Sender(mirror, number)
        sender.start()
        try:
            with staged_dataset(dataset) as films:
                result = run_job(films, root, on_epoch, own_process, sender.finish)
            return result["status"] if sender.finish() else "superseded"
        except KeyboardInterrupt:  # asked to end: the checkpoint that was just written should arrive
            sender.stop()
            mirror.store = Store(target, patience=SHORT_PATIENCE)
            with contextlib.suppress(StorageError):
                sender.send()
            raise
        finally:
            sender.stop()


def _fetch_branch(target: str, run: Path, root: Path) -> None:
    """Where a shared network left the state that this training goes on from; if it is not there, the job says so."""
    source = json.loads((root / INPUTS[0]).read_bytes()).get(BRANCH)
    if not source:
        return
    goal = TargetPaths(run / source["from"]).branch
    goal.parent.mkdir(parents=True)
    store = Store(f"{target.rstrip('/').rsplit('/', 2)[0]}/{source['from']}")
    entry = store.list().get(goal.name)
    if entry:
        store.download(goal.name, goal, entry)


def claim(store: Store, there: dict[str, Entry]) -> int:
    """Take the number of a new attempt: the one after the newest that is there; of two at once each gets its own."""
    number = max(_numbers(there), default=0)
    who = {"host": socket.gethostname(), "pid": os.getpid(), "time": round(time.time(), 3)}
    while True:
        number += 1
        if store.create(f"attempts/{number}/{CLAIM}", json.dumps(who | {"attempt": number}).encode()) is not None:
            return number


def _numbers(there: dict[str, Entry]) -> set[int]:
    parts = [name.split("/") for name in there if name.startswith("attempts/")]
    return {int(words[1]) for words in parts if len(words) > 2 and words[1].isdigit()}


def _to_continue(there: dict[str, Entry], number: int) -> set[str]:
    """The files of the newest earlier attempt that left a checkpoint."""
    with_checkpoint = [one for one in _numbers(there) if one < number and _checkpoints(there, one)]
    if not with_checkpoint:
        return set()
    folder = f"attempts/{max(with_checkpoint)}/"
    return {name for name in there if name.startswith(folder)}


def _checkpoints(there: dict[str, Entry], number: int) -> bool:
    return any(name.startswith(f"attempts/{number}/") and name.endswith(CHECKPOINT) for name in there)


class Sender:
    """Sends the folder of an attempt whenever it has changed; what cannot be sent now is sent later."""

    def __init__(self, mirror: Mirror, number: int) -> None:
        self.mirror, self.number = mirror, number
        self.folder = f"attempts/{number}"
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._keep_sending, name="sender", daemon=True)
        self.looked = time.monotonic()

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Errors: none. What is on its way is waited for."""
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join()

    def send(self) -> None:
        """The attempt's files as they are now."""
        self.mirror.push(self.folder, but=(PREVIOUS,), removing=False)

    def finish(self) -> bool:
        """Publish the result, `outcome.json` last; False where a newer attempt has taken over."""
        self.stop()
        must = partial(insist, seconds=LAST_PATIENCE)
        must(self.send)
        if must(self._superseded):
            return False
        must(lambda: self.mirror.push(but=(OUTCOME, PREVIOUS), removing=False))
        if must(self._superseded):
            return False
        outcome = (self.mirror.root / OUTCOME).read_bytes()
        first = must(lambda: self.mirror.store.create(OUTCOME, outcome)) is not None
        if not first and must(lambda: self.mirror.store.read(OUTCOME)[0]) != outcome:  # ours, if its answer was lost
            return False
        must(self._tidy)
        return True

    def _tidy(self) -> None:
        """Of a training that ended well only the history is still of use, of earlier attempts too."""
        outcome = json.loads((self.mirror.root / OUTCOME).read_bytes())
        there = self.mirror.store.list("attempts") if outcome["status"] == "ok" else {}
        self.mirror.store.delete([name for name in there if not small_files(name)])

    def _superseded(self) -> bool:
        return max(_numbers(self.mirror.store.list("attempts")), default=0) != self.number

    def _keep_sending(self) -> None:
        pause = LOOK_SECONDS
        while not self.ended.wait(pause):
            try:
                self.send()
                self._look_for_newer()
                pause = LOOK_SECONDS
            except (StorageError, OSError) as error:
                pause = min(2 * pause, LONGEST_PAUSE)
                log.warning("%s The training goes on; this is tried again.", error)

    def _look_for_newer(self) -> None:
        if time.monotonic() - self.looked < NEWEST_SECONDS:
            return
        self.looked = time.monotonic()
        if self._superseded():  # told as a folder tells it: the job looks for one before it publishes
            TargetPaths(self.mirror.root).attempt(self.number + 1).root.mkdir(parents=True, exist_ok=True)
