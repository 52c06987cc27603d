"""A folder made anew as a whole: built beside the one that is there, and put in its place in one step.

In: the folder's name. Out: an empty folder beside it, on the same file system, which takes the name when the block ends
well; until then, after any failure and after a kill, what was there stays as it was. Called by whatever writes a
bundle; readers call `recover`. Folders of killed builds are removed by the next build under the same name.
"""

import contextlib
import ctypes
import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from models.files.layout import TEMPORARY_PREFIX, sync_folder
from orchestrator.storage.scratch import own_folder
from pathologies.errors import InputError

log = logging.getLogger(__name__)
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's renameat2(2)
ATTEMPTS = 3  # somebody else may put a folder of the same name in place between two renames


@contextlib.contextmanager
def building(goal: Path) -> Iterator[Path]:
    """An empty folder beside `goal` that replaces it when the block ends well. Errors: InputError for a bad place."""
    goal = Path(goal).resolve()  # a link to a folder stays a link, to the new one
    recover(goal)
    _require_place(goal)
    if goal.exists():
        shutil.rmtree(_aside(goal), ignore_errors=True)  # what stood here before a swap that was killed afterwards
    with own_folder(goal.parent, f"{TEMPORARY_PREFIX}{goal.name}") as build:
        yield build
        sync_tree(build)
        _put_in_place(build, goal)  # from here on `build` is what was at `goal` before


def recover(goal: Path) -> None:
    """Put back what a kill between two renames left aside; nothing to do where one step exchanges two folders."""
    goal = Path(goal).resolve()
    aside = _aside(goal)
    if aside.is_dir() and not goal.exists():
        with contextlib.suppress(OSError):  # a reader may not be allowed to; then there is nothing at `goal`
            os.rename(aside, goal)
            log.warning("%s is back as it was: a command that replaced it was killed", goal)


def _require_place(goal: Path) -> None:
    if goal.exists() and not goal.is_dir():
        raise InputError(f"{goal} is a file. Give a folder.")
    if os.path.ismount(goal):
        raise InputError(f"{goal} is a mount point, which cannot be replaced as a whole. Give a folder below it.")
    if Path.cwd().is_relative_to(goal):
        raise InputError(f"{goal} is replaced as a whole, and this command was given in it. Give it from elsewhere.")
    goal.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(goal.parent, os.W_OK | os.X_OK):
        raise InputError(f"{goal} is built in the folder above it, where you may not write. Give another folder.")


def _put_in_place(build: Path, goal: Path) -> None:
    for attempt in range(ATTEMPTS):
        if goal.exists():
            if _exchange(build, goal):
                break
            shutil.rmtree(_aside(goal), ignore_errors=True)
            os.rename(goal, _aside(goal))  # a kill from here to the next line: `recover`
        try:
            os.rename(build, goal)
            shutil.rmtree(_aside(goal), ignore_errors=True)
            break
        except OSError as error:
            recover(goal)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or attempt == ATTEMPTS - 1:
                raise
    sync_folder(goal.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step; False where the system or the file system has no such step."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = (AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other))
    return call is not None and call(*names, RENAME_EXCHANGE) == 0


def sync_tree(root: Path) -> None:
    """A folder that took a name must be whole even after a power cut."""
    for folder, _, names in os.walk(root):
        for name in names:
            descriptor = os.open(Path(folder) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(folder))


def _aside(goal: Path) -> Path:
    return goal.with_name(f"{TEMPORARY_PREFIX}{goal.name}-previous")
