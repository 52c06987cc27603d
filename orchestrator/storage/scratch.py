"""Folders of this node for what lies in object storage: the cache that is kept, and scratch that ends with its process.

In: HILUM_CACHE (none: the user's cache folder, `~/.cache/hilum`). Out: folders, and locks that the system lets go of
when a process dies, however it dies. Called by staging, the workspace,
`folder_swap`, and for whatever one process at a time may write.
"""

import contextlib
import fcntl
import logging
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pathologies.errors import InputError

log = logging.getLogger(__name__)
VARIABLE = "HILUM_CACHE"


def cache_root() -> Path:
    """The folder below which everything of this node lies. Created when it is missing."""
    given = os.environ.get(VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(given).resolve() if given else Path(base) / "hilum"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError:
        if given:
            raise
        root = Path(tempfile.gettempdir()) / f"hilum-{os.getuid()}"  # a container's user may have no home
        root.mkdir(mode=0o700, exist_ok=True)
    return root


def scratch_root() -> Path:
    return cache_root() / "scratch"


@contextlib.contextmanager
def scratch(kind: str) -> Iterator[Path]:
    """An empty folder of this node for the time of the block."""
    with own_folder(scratch_root(), kind, "[a-z]+") as root:
        yield root


@contextlib.contextmanager
def own_folder(above: Path, name: str, names: str = "") -> Iterator[Path]:
    """An empty folder in `above` that is removed at the end; those of processes that were killed go on the way.

    It is called `name` and a number, as those others are (or by the expression `names`); the lock beside it says that
    its process lives.
    """
    above.mkdir(exist_ok=True)
    _sweep(above, names or re.escape(name))
    while True:
        root = above / f"{name}-{secrets.token_hex(6)}"
        with locked(_lock_of(root)):
            root.mkdir()
            if not _lock_of(root).exists():  # a sweeper took it in the moment before it was locked
                root.rmdir()
                continue
            try:
                yield root
            finally:
                shutil.rmtree(root, ignore_errors=True)
                _lock_of(root).unlink(missing_ok=True)
            return


@contextlib.contextmanager
def locked(path: Path, shared: bool = False, wait: bool = True) -> Iterator[IO[str] | None]:
    """Hold the lock `path`; yields None where somebody else holds it and `wait` is False."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="ascii") as stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            held = True
        except BlockingIOError:
            held = False
        yield stream if held else None


@contextlib.contextmanager
def locked_alone(path: Path, other: str) -> Iterator[None]:
    """Hold the lock `path`, or be refused: `other` says who holds it. Errors: InputError."""
    with locked(path, wait=False) as mine:
        if mine is None:
            raise InputError(f"{other} Wait for it, or give another --out.")
        yield


def _sweep(above: Path, names: str) -> None:
    ours = re.compile(rf"{names}-[0-9a-f]{{12}}(\.lock)?")
    for root in {above / path.name.removesuffix(".lock") for path in above.iterdir() if ours.fullmatch(path.name)}:
        with locked(_lock_of(root), wait=False) as mine:
            if mine is not None:  # its owner is gone
                log.info("removing %s, which a killed process left", root)
                shutil.rmtree(root, ignore_errors=True)
                _lock_of(root).unlink(missing_ok=True)


def _lock_of(root: Path) -> Path:
    return root.with_name(f"{root.name}.lock")
