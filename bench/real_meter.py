"""What a command costs: processor seconds and peak memory of its process and of all that come from it.

In: the words of a command and a file. Out: that file, once the command has succeeded: seconds, peak, whether it was
stopped before and went on. Called by `bench.real`. Linux only: it reads /proc, since nobody waits for Ray's workers, so
the system does not add their time to that of the command.
"""

import os
import subprocess
import threading
import time
from pathlib import Path

from bench.memory import sizes
from models.files.layout import write_json

PAUSE, LOOK = 0.2, 3.0  # seconds between two readings of the clocks, and of the memory, which takes longer
TICKS = os.sysconf("SC_CLK_TCK")


def metered(path: Path, words: list[str]) -> None:
    """Run a command once and write what it took; where the file is there, it has been run."""
    if path.exists():
        return
    begun = path.with_suffix(".begun")
    torn = begun.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    begun.touch()
    meter = Meter()
    output = path.with_suffix(".log")
    with open(output, "wb") as stream:
        child = subprocess.Popen(words, stdout=stream, stderr=subprocess.STDOUT)
        try:
            meter.watch(child)
        except BaseException:
            child.terminate()
            child.wait()
            raise
    if child.returncode:
        text = output.read_text(encoding="utf-8", errors="replace")[-3000:]
        raise SystemExit(f"{text}\n{' '.join(words)}: exit code {child.returncode}. The same command tries again.")
    write_json(path, {"seconds": meter.seconds, "peak": meter.peak, "torn": torn})
    begun.unlink()


class Meter:
    """Looks at a process and its descendants until it has ended."""

    def __init__(self) -> None:
        self.clocks: dict[tuple[int, int], float] = {}  # (process, when it began) -> seconds, as last seen
        self.waited = 0.0  # as the system has added it up: exact, without processes that nobody waited for
        self.peak = 0

    @property
    def seconds(self) -> float:
        return max(self.waited, sum(self.clocks.values()))

    def watch(self, child: subprocess.Popen) -> None:
        before, done = os.times(), threading.Event()
        thread = threading.Thread(target=self._look, args=(child.pid, done))
        thread.start()
        try:
            child.wait()
        finally:
            done.set()
            thread.join()
        after = os.times()
        self.waited = after.children_user + after.children_system - before.children_user - before.children_system

    def _look(self, root: int, done: threading.Event) -> None:
        due = 0.0
        while True:
            family = family_of(root)
            for process, (began, seconds) in family.items():
                self.clocks[process, began] = seconds
            if time.monotonic() >= due:
                self.peak = max(self.peak, sum(sizes(process)[0] for process in family))
                due = time.monotonic() + LOOK
            if done.wait(PAUSE):
                return


def family_of(root: int) -> dict[int, tuple[int, float]]:
    """A process and its descendants -> (when it began, in ticks; processor seconds so far)."""
    parents, found = {}, {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stream:
                words = stream.read().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        parents[int(name)] = int(words[1])
        found[int(name)] = (int(words[19]), (int(words[11]) + int(words[12])) / TICKS)
    family = {root} & set(found)
    while True:
        more = {one for one, parent in parents.items() if parent in family} - family
        if not more:
            return {one: found[one] for one in family}
        family |= more
