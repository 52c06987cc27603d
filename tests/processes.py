"""What the system tells about processes (Linux): who descends from whom, environments, names, who is alive."""

import os
import random
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Children of `pid`, their children, and so on, as they are now."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            children.setdefault(_parent(int(folder.name)), []).append(int(folder.name))
    found, frontier = [], [pid]
    while frontier:
        frontier = [child for one in frontier for child in children.get(one, [])]
        found += frontier
    return found


def environment(pid: int) -> dict[str, str]:
    """What a process was started with; empty when it is gone."""
    text = _read(pid, "environ")
    return dict(word.split("=", 1) for word in text.split("\0") if "=" in word)


def command(pid: int) -> str:
    return _read(pid, "cmdline").replace("\0", " ").strip()


def alive(pid: int) -> bool:
    """Running, and not merely waiting for somebody to read its exit code."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in ("Z", "X")


def wait_for(condition: Callable[[], object], seconds: float = 180) -> object:
    """What `condition` returns once that is true; an error when it stays false."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise TimeoutError(f"{condition} was not true within {seconds} s")


def kill_delays(count: int = 1, longest: float = 0.3) -> list[float]:
    """Seconds to wait before each kill, drawn anew in every run; printed with the seed, which repeats them.

    pytest shows the line of a test that fails: HILUM_KILL_SEED=... in the environment kills at the same moments.
    """
    seed = int(os.environ.get("HILUM_KILL_SEED") or secrets.randbelow(2**32))
    draws = random.Random(seed)
    delays = [draws.uniform(0, longest) for _ in range(count)]
    print(f"HILUM_KILL_SEED={seed}: killed after {', '.join(f'{one:.4f}' for one in delays)} s")
    return delays


def all_gone(pids: Iterable[int], seconds: float = 30) -> list[str]:
    """The commands of those that still run after so long; empty when all have ended."""
    pids = list(pids)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(map(alive, pids)):
        time.sleep(0.05)
    return [f"{pid} {command(pid)}" for pid in pids if alive(pid)]


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else -1


def _stat(pid: int) -> list[str]:
    """State, parent, ... : the fields of /proc/<pid>/stat after the name, which may hold blanks and brackets."""
    return _read(pid, "stat").rpartition(")")[2].split()


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def hilum_words() -> list[str]:
    """The command line as a process of its own, with the interpreter of the tests."""
    import sys

    return [sys.executable, "-m", "orchestrator.cli"]


def quiet_environment() -> dict[str, str]:
    """The environment of the tests without a Ray of somebody's."""
    return {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONHASHSEED")}
