"""Turns: one process more is started than may train, and waits here with everything imported.

In: a folder of the driver's, and how many of its tokens a training takes. Out: the tokens, held until the training is
over. Called by the launcher (the folder) and by the worker. A process of Ray's takes some ten seconds of an idle core
before its first step: Ray's worker begins, torch and timm are imported. Started ahead, it spends them while the cores
are busy with others. Locks of the system are the tokens, so whoever dies, however it dies, has handed his back.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.scratch import locked, scratch, take_lock

PAUSE = 0.05  # seconds between two looks; Ray's cancel cannot end a call that blocks


@dataclass(frozen=True)
class Tokens:
    """How many a training takes, of how many there are."""

    need: int
    of: int


@dataclass(frozen=True)
class Turn:
    folder: str
    tokens: Tokens


@contextlib.contextmanager
def turns() -> Iterator[Path]:
    """The driver's folder. It holds a lock beside it, by which those who wait know that it lives."""
    with scratch("turns") as folder:
        yield folder


@contextlib.contextmanager
def taking(turn: Turn | None) -> Iterator[None]:
    """Wait for the tokens and hold them. Where the driver is gone this process ends: its place is with a successor."""
    with contextlib.ExitStack() as held:
        if turn:
            _wait(Path(turn.folder), turn.tokens, held)
        yield


def _wait(folder: Path, tokens: Tokens, held: contextlib.ExitStack) -> None:
    first: IO[str] | None = None
    mine: dict[int, IO[str]] = {}
    while len(mine) < tokens.need:
        if _driver_is_gone(folder):
            os._exit(1)
        first = first or take_lock(folder / "first", wait=False)  # one at a time gathers, so no two wait for each other
        if first:
            mine |= _gather(folder, tokens, mine)
        if len(mine) < tokens.need:
            time.sleep(PAUSE)
    for stream in mine.values():
        held.callback(stream.close)
    if first:
        first.close()
    if _driver_is_gone(folder):
        os._exit(1)


def _gather(folder: Path, tokens: Tokens, mine: dict[int, IO[str]]) -> dict[int, IO[str]]:
    """Those that are free, up to what is still missing."""
    found: dict[int, IO[str]] = {}
    for number in range(tokens.of):
        if len(mine) + len(found) == tokens.need:
            break
        stream = None if number in mine else take_lock(folder / f"token-{number}", wait=False)
        if stream:
            found[number] = stream
    return found


def _driver_is_gone(folder: Path) -> bool:
    if not folder.is_dir():
        return True
    with locked(folder.with_name(f"{folder.name}.lock"), shared=True, wait=False) as lock:
        return lock is not None
