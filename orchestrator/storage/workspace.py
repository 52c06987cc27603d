"""Places: where a command finds and leaves its folders, on this machine or in object storage.

In: what the command line was given, a path or a URI. Out: a folder of this machine to work in; what was made there goes
to the storage. Called by the commands and, through `publish`, `refresh` and `address`, by the launcher and the search:
those three do nothing for a run that lies on this machine.
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
from pathlib import Path

from models.files.layout import append_json_line, to_plain
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
from orchestrator.storage.scratch import cache_root, locked, scratch
from orchestrator.storage.staging import origin, stage_bundle, stage_dataset
from orchestrator.training.ray_session import own_cluster
from pathologies.errors import InputError

log = logging.getLogger(__name__)
REFRESH_SECONDS = 2.0
PUBLISH_SECONDS = 10.0  # of a search
FIRST_PATIENCE = 60.0  # seconds for what is there already
REFRESH_SHARE = 0.1  # of the time at most is spent on looking what is new
PATIENCE = 1800.0  # seconds in which a driver waits for its storage, while the trainings go on; not after Ctrl-C


@dataclass
class _Work:
    """A run in object storage that this process is the driver of."""

    mirror: Mirror
    lease: Lease
    guard: threading.RLock = field(default_factory=threading.RLock)
    due: float = 0.0
    troubled: bool = field(default=False)
    ending: threading.Event = field(default_factory=threading.Event)  # Ctrl-C: nothing is waited for any more
    unsent: bool = False  # something could not be sent since


_works: dict[Path, _Work] = {}


def place(text: str) -> Path | str:
    """`parse_place` for an argument of the command line, whose parser would put its own words for a ValueError's."""
    try:
        return parse_place(text)
    except ValueError as error:
        raise FileNotFoundError(str(error)) from error


@contextlib.contextmanager
def driving(place: Path | str, wanted: Wanted = small_files) -> Iterator[Path]:
    """The folder in which a driver works on the run at `place`; nobody else drives it meanwhile. Errors: InputError."""
    place = parse_place(place)
    if not is_remote(place):
        yield place
        return
    store = Store(place, SHORT_PATIENCE, SHORT_ANSWER_SECONDS).check()
    with scratch("run") as root, _named(root, place), Lease(store) as lease:
        files = store if wanted is small_files else Store(place, SHORT_PATIENCE)
        work = _Work(Mirror(files, root, wanted, lease), lease)
        insist(work.mirror.pull, FIRST_PATIENCE)
        _works[root] = work
        try:
            yield root
            publish(root)
        finally:
            _works.pop(root)


@contextlib.contextmanager
def driving_here(place: Path | str, address: str | None = None) -> Iterator[Path]:
    """As `driving`, for what has all its processes on this machine: they share one folder, which is sent as it grows.

    Errors: InputError where the processes would be on other machines.
    """
    if is_remote(parse_place(place)) and not own_cluster(address):
        raise InputError(
            f"A search whose run lies at {place} works on this machine alone. Leave --address (and RAY_ADDRESS) out, "
            "or give a folder that all machines share."
        )
    with driving(place, everything) as root:
        ended = threading.Event()
        thread = threading.Thread(target=_keep_publishing, args=(root, ended), name="sender", daemon=True)
        thread.start()
        try:
            yield root
        except KeyboardInterrupt:
            stop_waiting(root)
            raise
        finally:
            ended.set()
            thread.join()
            publish(root)


def _keep_publishing(root: Path, ended: threading.Event) -> None:
    while not ended.wait(PUBLISH_SECONDS):
        try:
            publish(root)
        except (LeaseLost, OSError) as error:  # the driver itself meets it too, and says so
            log.warning("%s", error)


@contextlib.contextmanager
def reading_run(place: Path | str | None, folder: str = "", wanted: Wanted = no_checkpoints) -> Iterator[Path | None]:
    """A run, or `folder` of it, to read; without checkpoints."""
    place = place if place is None else parse_place(place)
    if not is_remote(place):
        yield place
        return
    with scratch("reading") as root, _named(root, place):
        if not Mirror(Store(place).check(), root, wanted).pull(folder):
            raise FileNotFoundError(f"There is nothing at {join(place, folder).rstrip('/')}. Correct the URI.")
        with _standing_for(root, place):
            yield root


@contextlib.contextmanager
def reading_dataset(place: Path | str | None) -> Iterator[Path | None]:
    """A data set to read, staged on this node."""
    with _reading(place, stage_dataset) as folder:
        yield folder


@contextlib.contextmanager
def reading_bundle(place: Path | str | None) -> Iterator[Path | None]:
    """A bundle to read, staged on this node."""
    with _reading(place, stage_bundle) as folder:
        yield folder


@contextlib.contextmanager
def _reading(place: Path | str | None, stage: Callable[[Path | str], Path]) -> Iterator[Path | None]:
    place = place if place is None else parse_place(place)
    folder = place if place is None else stage(place)
    with _named(folder, place):
        yield folder


@contextlib.contextmanager
def writing(place: Path | str | None, wanted: Wanted = small_files, keep: bool = False) -> Iterator[Path | None]:
    """A folder for what a command makes; it goes to `place` when the block ends well, its marker last.

    What is there already is seen as far as `wanted` says. `keep`: what an interrupted command made stays on this
    machine, and the same command goes on from it.
    """
    place = place if place is None else parse_place(place)
    if not is_remote(place):
        yield place
        return
    store = Store(place).check()
    with _workbench(place, keep) as root, _named(root, place), Lease(store) as lease, _standing_for(root, place):
        mirror = Mirror(store, root, wanted, lease, sole_writer=True)
        mirror.pull()
        yield root
        mirror.push()


@contextlib.contextmanager
def _workbench(place: str, keep: bool) -> Iterator[Path]:
    if not keep:
        with scratch("writing") as root:
            yield root
        return
    root = cache_root() / "unfinished" / hashlib.sha256(place.encode()).hexdigest()[:32]
    with locked(root.with_suffix(".lock")):
        root.mkdir(parents=True, exist_ok=True)
        yield root
        shutil.rmtree(root)


@contextlib.contextmanager
def _standing_for(root: Path, place: str) -> Iterator[None]:
    _origins[root] = place
    try:
        yield
    finally:
        _origins.pop(root)


_origins: dict[Path, str] = {}


def origin_of(folder: Path) -> str | None:
    """The URI that a folder of this machine stands for; None for one that stands for itself."""
    folder = Path(folder).resolve()
    for root, work in _works.items():
        if folder.is_relative_to(root):
            return _below(work.mirror.store.uri, root, folder)
    for root, uri in _origins.items():
        if folder.is_relative_to(root):
            return _below(uri, root, folder)
    return origin(folder)


def from_there(folder: Path, there: Path) -> str:
    """How what lies in `there` names `folder`: by its URI, or from there on, so that both may be moved together."""
    folder, there = Path(folder).resolve(), Path(there).resolve()
    return origin_of(folder) or (str(folder) if origin_of(there) else os.path.relpath(folder, there))


def carried_on(run: str, source: Path, there: Path) -> str:
    """What the bundle in `source` says of its run, as a bundle in `there` has to say it."""
    return run if is_remote(run) else from_there(source / run, there)


def append_line(place: Path | str, value: object) -> None:
    """Append one JSON object to a file that others may append to."""
    if is_remote(place):
        folder, _, name = str(place).rpartition("/")
        line = json.dumps(to_plain(value), sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        Store(folder).append(name, line.encode())
    else:
        append_json_line(place, value)


def address(folder: Path) -> str:
    """How another process, maybe on another machine, finds `folder`."""
    return origin_of(folder) or str(Path(folder).resolve())


def names_below(folder: Path) -> set[str]:
    """The files in `folder`, those in the storage that were not fetched too; names start from there."""
    folder = Path(folder)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    found = _work_of(folder)
    if found:
        root, work = found
        above = f"{_folder(root, folder)}/".lstrip("/")
        names |= {name.removeprefix(above) for name in work.mirror.known if name.startswith(above)}
    return names


def publish(path: Path) -> None:
    """Send what this driver changed at or below `path`. Errors: LeaseLost; StorageError when that stays away.

    After `stop_waiting` a storage that is away is told of, once, and is no error.
    """
    found = _work_of(path)
    if not found or found[1].unsent:
        return
    root, work = found
    try:
        insist(lambda: _push(work, _folder(root, path)), PATIENCE, work.ending)
    except StorageError as error:
        if not work.ending.is_set():
            raise
        work.unsent = True
        log.warning("%s What this command wrote last is not there; the same command goes on from what is.", error)


def stop_waiting(path: Path) -> None:
    """Ctrl-C: from now on what cannot be sent at once to the run of `path` is not waited for."""
    found = _work_of(path)
    if found:
        found[1].ending.set()


def refresh(path: Path, now: bool = False) -> None:
    """Fetch what others changed at or below `path`; unless `now`, not more often than is modest.

    Errors: LeaseLost; with `now` StorageError. Else a storage that does not answer is asked again the next time.
    """
    found = _work_of(path)
    if not found:
        return
    root, work = found
    work.lease.require()
    if now:
        insist(lambda: _pull(work, _folder(root, path)), PATIENCE, work.ending)
        return
    began = time.monotonic()
    if began < work.due:
        return
    try:
        _pull(work, _folder(root, path))
        work.troubled = False
    except StorageError as error:
        if not work.troubled:
            log.warning("%s The trainings go on; this is tried again.", error)
        work.troubled = True
    work.due = time.monotonic() + max(REFRESH_SECONDS, (time.monotonic() - began) / REFRESH_SHARE)


def _push(work: _Work, folder: str) -> None:
    with work.guard:
        work.lease.confirm()
        work.mirror.push(folder)


def _pull(work: _Work, folder: str) -> None:
    with work.guard:
        work.mirror.pull(folder)


def _work_of(path: Path) -> tuple[Path, _Work] | None:
    path = Path(path).resolve()
    return next(((root, work) for root, work in _works.items() if path.is_relative_to(root)), None)


def _folder(root: Path, path: Path) -> str:
    name = Path(path).resolve().relative_to(root).as_posix()
    return "" if name == "." else name


def _below(uri: str, root: Path, folder: Path) -> str:
    return uri if folder == root else join(uri, folder.relative_to(root).as_posix())


@contextlib.contextmanager
def _named(root: Path | None, place: Path | str | None) -> Iterator[None]:
    """Sentences name the place that was given, not the folder of this machine that stands for it."""
    try:
        yield
    except (ValueError, OSError) as error:
        if not is_remote(place) or str(root) not in str(error):
            raise
        kind: Callable[[str], Exception] = FileNotFoundError if isinstance(error, FileNotFoundError) else InputError
        raise kind(str(error).replace(str(root), str(place))) from error
