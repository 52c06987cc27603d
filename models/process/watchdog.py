"""The watchdog of a training process: a step that never ends becomes an outcome with the place where it hangs.

In: a sign of life from every batch. Out: when none came for too long, the stack of every thread in the attempt's
`stacks.txt`, a call of `on_hang`, and the end of the process. Called by models.process.job in a process of its own.

Time counts only while this thread itself runs, so neither a suspended laptop nor a stopped process is taken for a hang.
A call that hangs without letting go of the interpreter stops this thread too; then the C timer of faulthandler, which
this thread puts off as long as it can, writes the stacks and ends the process.
"""

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TICKS = 20  # looks at the clock within the limit
LONGEST_TICK = 5.0  # seconds
PATIENCE = 20.0  # times the longest pause between two signs of life so far: a slow step is no hang
STARTING = 120.0  # seconds more until the first batch: libraries are loaded, a network is built or downloaded
HUNG = 75  # exit code (EX_TEMPFAIL): try again


class Watchdog:
    """Watches from `start` to `stop`. `limit`: seconds without a sign of life; 0: it never barks."""

    def __init__(self, stacks: Path, limit: float, on_hang: Callable[[str], None]) -> None:
        self.stacks, self.limit, self.on_hang = stacks, limit, on_hang
        self.signs = 0
        self.longest = 0.0
        self.last: float | None = None
        self.at_rest = False
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def alive(self) -> None:
        """A sign of life from a training that has not come to its first batch."""
        self.signs += 1

    def beat(self) -> None:
        """A sign of life from a batch."""
        now = time.monotonic()
        if self.last is not None:
            self.longest = max(self.longest, min(now - self.last, self.limit))
        self.last = now
        self.signs += 1

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """While somebody else is waited for, however long that takes."""
        self.at_rest = True
        try:
            yield
        finally:
            self.at_rest, self.last = False, time.monotonic()

    def start(self) -> None:
        if self.limit:
            self.stacks.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.stacks.open("w", encoding="utf-8")  # open now: a full disk may be what it hangs on
            self.thread.start()

    def stop(self) -> None:
        if self.limit and self.thread.is_alive():
            self.ended.set()
            self.thread.join()
            faulthandler.cancel_dump_traceback_later()
            self.file.close()
            self.stacks.unlink(missing_ok=True)

    def _watch(self) -> None:
        seen, silent = -1, 0.0
        tick = min(LONGEST_TICK, self.limit / TICKS)
        before = time.monotonic()
        while not self.ended.is_set():
            allowed = max(self.limit, PATIENCE * self.longest) + (STARTING if self.last is None else 0.0)
            faulthandler.dump_traceback_later(allowed + 2 * tick, exit=True, file=self.file)
            self.ended.wait(tick)
            now = time.monotonic()
            silent = silent + min(now - before, 2 * tick) if self.signs == seen and not self.at_rest else 0.0
            seen, before = self.signs, now
            if silent > allowed and not self.ended.is_set():
                self._bark()

    def _bark(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        faulthandler.dump_traceback(self.file, all_threads=True)
        self.file.flush()
        try:
            self.on_hang(self.stacks.read_text(encoding="utf-8"))
        finally:
            os._exit(HUNG)
