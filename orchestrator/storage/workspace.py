"""One command's folders: on this machine, or in object storage and mirrored here.

In: places as the command line was given them, a path or a URI. Out: a `Workspace`, which the command opens and hands on
with its request: for each place a folder of this machine, and the name under which others find that folder; what is
made goes to its place when the workspace closes. A `DrivenRun` is the run that the launcher or the search works on.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from models.files.layout import RunPaths, append_json_line, to_plain
from orchestrator.storage.lease import Lease, LeaseLost
from orchestrator.storage.mirror import Mirror, Wanted, everything, no_checkpoints, small_files
from orchestrator.storage.object_store import (
    SHORT_ANSWER_SECONDS,
    SHORT_PATIENCE,
    StorageError,
    Store,
    insist,
    is_remote,
    join,
    parse_place,
)
from orchestrator.storage.scratch import cache_root, locked, scratch, scratch_root
from orchestrator.storage.staging import origin, staged_bundle, staged_dataset
from pathologies.errors import InputError

log = logging.getLogger(__name__)
REFRESH_SECONDS = 2.0
PUBLISH_SECONDS = 10.0  # of a search
FIRST_PATIENCE = 60.0  # seconds for what is there already
REFRESH_SHARE = 0.1  # of the time at most is spent on looking what is new
PATIENCE = 1800.0  # seconds in which a driver waits for its storage, while the trainings go on; not after Ctrl-C


class DrivenRun(RunPaths):
    """The run that this process drives. On this machine, as here, what is written is there for everybody at once."""

    def address(self, path: Path) -> str:
        """How another process, maybe on another machine, finds what lies at `path` in the run."""
        return str(Path(path).resolve())

    def names_below(self, folder: Path) -> set[str]:
        """The files in `folder`, those too that lie in the storage and were not fetched; names start from there."""
        return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}

    def publish(self, path: Path) -> None:
        """Let others see what this driver changed at or below `path`. Errors: LeaseLost; StorageError."""

    def refresh(self, path: Path, now: bool = False) -> None:
        """See what others changed at or below `path`; unless `now`, not more often than is modest.

        Errors: LeaseLost; with `now` StorageError. Else a storage that does not answer is asked again the next time.
        """

    def stop_waiting(self) -> None:
        """Ctrl-C: from now on what cannot be sent at once is not waited for; `publish` tells of it once."""


@dataclass
class _Exchange:
    """How it stands between a mirrored run and its storage."""

    due: float = 0.0  # when to look again
    troubled: bool = False  # it did not answer the last time
    unsent: bool = False  # something could not be sent after Ctrl-C


@dataclass(frozen=True, eq=False)
class MirroredRun(DrivenRun):
    """A run in object storage, mirrored in a folder of this machine; nobody else drives it while its lease is held."""

    mirror: Mirror
    lease: Lease
    guard: threading.RLock = field(default_factory=threading.RLock)
    ending: threading.Event = field(default_factory=threading.Event)  # Ctrl-C: nothing is waited for any more
    exchange: _Exchange = field(default_factory=_Exchange)

    def address(self, path: Path) -> str:
        return _below(self.mirror.store.uri, self._name(path))

    def names_below(self, folder: Path) -> set[str]:
        above = f"{self._name(folder)}/".lstrip("/")
        there = {name.removeprefix(above) for name in self.mirror.known if name.startswith(above)}
        return super().names_below(folder) | there

    def publish(self, path: Path) -> None:
        if self.exchange.unsent:
            return
        try:
            insist(partial(self._push, self._name(path)), PATIENCE, self.ending)
        except StorageError as error:
            if not self.ending.is_set():
                raise
            self.exchange.unsent = True
            log.warning("%s What this command wrote last is not there; the same command goes on from what is.", error)

    def refresh(self, path: Path, now: bool = False) -> None:
        self.lease.require()
        pull = partial(self._pull, self._name(path))
        if now:
            insist(pull, PATIENCE, self.ending)
            return
        began = time.monotonic()
        if began < self.exchange.due:
            return
        try:
            pull()
            self.exchange.troubled = False
        except StorageError as error:
            if not self.exchange.troubled:
                log.warning("%s The trainings go on; this is tried again.", error)
            self.exchange.troubled = True
        self.exchange.due = time.monotonic() + max(REFRESH_SECONDS, (time.monotonic() - began) / REFRESH_SHARE)

    def stop_waiting(self) -> None:
        self.ending.set()

    @contextlib.contextmanager
    def keep_publishing(self) -> Iterator[None]:
        """Meanwhile and at the end everything is sent, by a thread of its own."""
        ended = threading.Event()
        thread = threading.Thread(target=self._publish_until, args=(ended,), name="sender", daemon=True)
        thread.start()
        try:
            yield
        except KeyboardInterrupt:
            self.stop_waiting()
            raise
        finally:
            ended.set()
            thread.join()
            self.publish(self.root)

    def _publish_until(self, ended: threading.Event) -> None:
        while not ended.wait(PUBLISH_SECONDS):
            try:
                self.publish(self.root)
            except (LeaseLost, OSError) as error:  # the driver itself meets it too, and says so
                log.warning("%s", error)

    def _push(self, name: str) -> None:
        with self.guard:
            self.lease.confirm()
            self.mirror.push(name)

    def _pull(self, name: str) -> None:
        with self.guard:
            self.mirror.pull(name)

    def _name(self, path: Path) -> str:
        return _name_in(self.root.resolve(), Path(path).resolve())


class Workspace:
    """The folders of one command. What it opened is closed, and sent where it was written, when its block ends.

    A folder of this machine is taken as it is. Each opening returns the folder to work in; None stays None.
    """

    def __init__(self) -> None:
        self._opened = contextlib.ExitStack()
        self._places: dict[Path, str] = {}  # the URIs that folders of this machine stand for
        self._runs: dict[Path, MirroredRun] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> bool:
        return self._opened.__exit__(*error)

    def __reduce__(self) -> tuple[type, tuple]:
        """In another process nothing is open: it opens what it needs itself."""
        return Workspace, ()

    def read_dataset(self, place: Path | str | None) -> Path | None:
        """A data set to read, staged on this node."""
        return self._open(place, partial(self._reading, staged_dataset))

    def read_bundle(self, place: Path | str | None) -> Path | None:
        """A bundle to read, staged on this node."""
        return self._open(place, partial(self._reading, staged_bundle))

    def read_run(self, place: Path | str | None, folder: str = "", wanted: Wanted = no_checkpoints) -> Path | None:
        """A run, or `folder` of it, to read. Errors: FileNotFoundError where there is nothing."""
        return self._open(place, partial(self._reading_run, folder, wanted))

    def write(self, place: Path | str | None, wanted: Wanted = small_files, keep: bool = False) -> Path | None:
        """A folder for what a command makes; it goes to `place` when all ends well, its marker last.

        What is there already is seen as far as `wanted` says. `keep`: what an interrupted command made stays on this
        machine, and the same command goes on from it. Errors: InputError while somebody else writes there.
        """
        return self._open(place, partial(self._writing, wanted, keep))

    def drive(self, place: Path | str) -> Path:
        """The folder in which a driver works on a run; nobody else drives it meanwhile. Errors: InputError."""
        return self._open(place, partial(self._driving, small_files))

    def drive_here(self, place: Path | str, own_cluster: bool = True) -> Path:
        """As `drive`, for what has all its processes on this machine: they share one folder, sent as it grows.

        Errors: InputError where the processes would be on other machines.
        """
        if is_remote(parse_place(place)) and not own_cluster:
            raise InputError(
                f"A search whose run lies at {place} works on this machine alone. Leave --address (and RAY_ADDRESS) "
                "out, or give a folder that all machines share."
            )
        return self._open(place, self._driving_here)

    def driven(self, folder: Path) -> DrivenRun:
        """The run in `folder`, to drive. Errors: LookupError for a mirror that is not open, whose writing is lost."""
        folder = Path(folder)
        if folder.resolve() in self._runs:
            return self._runs[folder.resolve()]
        if folder.resolve().is_relative_to(scratch_root().resolve()):
            raise LookupError(f"{folder} mirrors a run in object storage, and is not open in this workspace")
        return DrivenRun(folder)

    def address(self, folder: Path) -> str:
        """How another process, maybe on another machine, finds `folder`."""
        return self._uri(folder) or str(Path(folder).resolve())

    def path_from(self, there: Path, folder: Path) -> str:
        """How what lies in `there` names `folder`: by its URI, or from there on, so that both may be moved together."""
        local = str(Path(folder).resolve()) if self._uri(there) else os.path.relpath(folder.resolve(), there.resolve())
        return self._uri(folder) or local

    def path_carried_over(self, run: str, source: Path, there: Path) -> str:
        """What the bundle in `source` says of its run, as a bundle in `there` has to say it."""
        return run if is_remote(run) else self.path_from(there, source / run)

    def _uri(self, folder: Path) -> str | None:
        folder = Path(folder).resolve()
        known = next((root for root in self._places if folder.is_relative_to(root)), None)
        return _below(self._places[known], _name_in(known, folder)) if known else origin(folder)

    def _open(self, place: Path | str | None, opening: Callable[[str], Any]) -> Path | None:
        place = place if place is None else parse_place(place)
        return self._opened.enter_context(opening(place)) if is_remote(place) else place

    @contextlib.contextmanager
    def _reading(self, stage: Callable[[str], Any], place: str) -> Iterator[Path]:
        with stage(place) as root, self._standing_for(root, place):
            yield root

    @contextlib.contextmanager
    def _reading_run(self, folder: str, wanted: Wanted, place: str) -> Iterator[Path]:
        with scratch("reading") as root, self._standing_for(root, place):
            if not Mirror(Store(place).check(), root, wanted).pull(folder):
                raise FileNotFoundError(f"There is nothing at {_below(place, folder)}. Correct the URI.")
            yield root

    @contextlib.contextmanager
    def _writing(self, wanted: Wanted, keep: bool, place: str) -> Iterator[Path]:
        store = Store(place).check()
        folder = _unfinished(place) if keep else scratch("writing")
        with folder as root, self._standing_for(root, place), Lease(store) as lease:
            mirror = Mirror(store, root, wanted, lease, sole_writer=True)
            mirror.pull()
            yield root
            mirror.push()

    @contextlib.contextmanager
    def _driving(self, wanted: Wanted, place: str) -> Iterator[Path]:
        store = Store(place, SHORT_PATIENCE, SHORT_ANSWER_SECONDS).check()
        with scratch("run") as root, self._standing_for(root, place), Lease(store) as lease:
            files = store if wanted is small_files else Store(place, SHORT_PATIENCE)
            run = MirroredRun(root, Mirror(files, root, wanted, lease), lease)
            insist(run.mirror.pull, FIRST_PATIENCE)
            self._runs[root.resolve()] = run
            try:
                yield root
                run.publish(root)
            finally:
                del self._runs[root.resolve()]

    @contextlib.contextmanager
    def _driving_here(self, place: str) -> Iterator[Path]:
        with self._driving(everything, place) as root, self._runs[root.resolve()].keep_publishing():
            yield root

    @contextlib.contextmanager
    def _standing_for(self, root: Path, place: str) -> Iterator[None]:
        """Sentences, and files that others read, name the place and not the folder that stands for it here."""
        self._places[root.resolve()] = place
        try:
            yield
        except (ValueError, OSError) as error:
            if str(root) not in str(error):
                raise
            kind: Callable[[str], Exception] = FileNotFoundError if isinstance(error, FileNotFoundError) else InputError
            raise kind(str(error).replace(str(root), place)) from error
        finally:
            self._places.pop(root.resolve(), None)  # one content from two places is one folder


def place(text: str) -> Path | str:
    """`parse_place` for an argument of the command line, whose parser would put its own words for a ValueError's."""
    try:
        return parse_place(text)
    except ValueError as error:
        raise FileNotFoundError(str(error)) from error


def append_line(place: Path | str, value: object) -> None:
    """Append one JSON object to a file that others may append to."""
    if is_remote(place):
        folder, _, name = str(place).rpartition("/")
        line = json.dumps(to_plain(value), sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        Store(folder).append(name, line.encode())
    else:
        append_json_line(place, value)


@contextlib.contextmanager
def _unfinished(place: str) -> Iterator[Path]:
    """A folder that stays where the block ends in an error, for the next try."""
    root = cache_root() / "unfinished" / hashlib.sha256(place.encode()).hexdigest()[:32]
    with locked(root.with_suffix(".lock")):
        root.mkdir(parents=True, exist_ok=True)
        yield root
        shutil.rmtree(root)


def _name_in(root: Path, path: Path) -> str:
    name = path.relative_to(root).as_posix()
    return "" if name == "." else name


def _below(uri: str, name: str) -> str:
    return join(uri, name) if name else uri
