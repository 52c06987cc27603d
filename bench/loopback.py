"""A Ray cluster on this machine whose parts can be killed: a head without CPUs for trainings, and worker raylets.

In: how many workers with how many CPUs. Out: an address, and the parts to kill and to mend. Called by bench.chaos and
`test_faults_ray.py`. Every process carries a mark in its environment, so that none outlives the block, whoever its
parent is by then.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.training.ray_session import SETTINGS

MARK = "HILUM_LOOPBACK"
STORE_BYTES = 80 * 2**20
START_SECONDS = 150
# A raylet that has lost its head ends itself after so long; Ray's own minute would only be longer.
WITHOUT_HEAD_SECONDS = 5
# `ray start`, which ends with all that it has started when whoever asked for it is gone
RAY = """
import os, signal, sys, threading, time
from ray.scripts.scripts import main

def watch(parent=os.getppid()):
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=watch, daemon=True).start()
sys.argv[0] = "ray"
main()
"""
UP = "will now block forever"  # what `ray start --block` says when its node is registered


@dataclass(eq=False)
class Part:
    """One `ray start --block` and what it has started."""

    name: str
    words: list[str]
    log: Path
    process: subprocess.Popen | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def up(self) -> bool:
        return self.running and UP in self.log.read_text(encoding="utf-8", errors="replace")


@dataclass
class Loopback:
    """Use as `with loopback(workers=2) as cluster`."""

    folder: Path  # Ray's session folders; short, since the names of sockets are limited
    port: int
    mark: str
    parts: list[Part] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def head(self) -> Part:
        return self.parts[0]

    @property
    def workers(self) -> list[Part]:
        return self.parts[1:]

    def environment(self) -> dict[str, str]:
        """For everything that works with this cluster, the driver included. The token is the cluster's own: Ray listens
        on the machine's address even where 127.0.0.1 is asked for."""
        kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONHASHSEED")}
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"), MARK: self.mark}
        return kept | SETTINGS | token

    def start(self, part: Part) -> None:
        limit = {"RAY_gcs_rpc_server_reconnect_timeout_s": str(WITHOUT_HEAD_SECONDS)}
        with part.log.open("w", encoding="utf-8") as log:
            part.process = subprocess.Popen(
                part.words, env=self.environment() | limit, start_new_session=True, stdout=log, stderr=log
            )

    def mend(self) -> None:
        """Tend until all are up. Errors: RuntimeError when they do not come up."""
        deadline = time.monotonic() + START_SECONDS
        while not self.tend():
            if time.monotonic() > deadline:
                said = "\n".join(part.log.read_text(encoding="utf-8")[-1000:] for part in self.parts if not part.up)
                raise RuntimeError(f"The cluster is not whole after {START_SECONDS} s:\n{said}")
            time.sleep(0.2)

    def tend(self) -> bool:
        """Start what has ended, the head first, since the others look for it; True when all are up.

        A raylet that starts on a busy machine may give up: then this is called again. A new head knows none of the
        raylets of the one before, so they go with that.
        """
        if not self.head.running:
            for part in self.workers:
                self.kill(part)
            self.start(self.head)
        for part in self.workers:
            if self.head.up and not part.running:
                self.start(part)
        return all(part.up for part in self.parts)

    def kill(self, part: Part) -> None:
        """SIGKILL to what makes a node one: its raylet, and of the head the memory of the cluster as well."""
        for pid in below(part.process.pid) if part.running else []:
            if Path(command(pid).partition(" ")[0]).name in ("raylet", "gcs_server"):
                end(pid)

    def trainings(self, part: Part | None = None) -> dict[int, str]:
        """pid -> job of the training processes at work, of one part or of all."""
        pids = marked(MARK, self.mark) if part is None else below(part.process.pid) if part.running else []
        found = {}
        for pid in pids:
            name = command(pid).removeprefix("ray::").split(" ")[0]  # ray::edema/0; at first ray::IDLE
            if "/" in name and command(pid).startswith("ray::") and environment(pid).get("HILUM_PROCESS") == "training":
                found[pid] = name
        return found


@contextlib.contextmanager
def loopback(workers: int = 2, cpus: int = 1) -> Iterator[Loopback]:
    """A cluster that is up; with the block all of its processes and its folder are gone."""
    folder = Path(tempfile.mkdtemp(prefix="hl"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="ascii")
    port, client, dashboard = free_ports(3)
    cluster = Loopback(folder=folder, port=port, mark=secrets.token_hex(8))

    def part(name: str, *words: str) -> Part:
        own = ["--temp-dir", str(folder / name)]  # two raylets in one folder would unpack the code over each other's
        return Part(name, [sys.executable, "-c", RAY, "start", *words, *own, *common], folder / f"{name}.log")

    common = ["--disable-usage-stats", "--object-store-memory", str(STORE_BYTES), "--include-log-monitor", "false",
              "--dashboard-agent-listen-port", "0", "--min-worker-port", "0", "--max-worker-port", "0",
              "--block"]  # fmt: skip
    head = ["--head", "--port", str(port), "--num-cpus", "0", "--include-dashboard", "false",
            "--ray-client-server-port", str(client), "--dashboard-port", str(dashboard)]  # fmt: skip
    cluster.parts.append(part("h", *head))
    for number in range(1, workers + 1):
        cluster.parts.append(part(f"w{number}", "--address", cluster.address, "--num-cpus", str(cpus)))
    try:
        cluster.mend()
        yield cluster
    finally:
        end_all(MARK, cluster.mark)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody holds now, and none of those that the system gives away by itself."""
    found: list[int] = []
    while len(found) < count:
        port = 7000 + secrets.randbelow(2000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            found += [port] if port not in found else []
    return found


# -- processes, as Linux shows them


def below(pid: int) -> list[int]:
    """Children of `pid`, their children, and so on."""
    children: dict[int, list[int]] = {}
    for one in _pids():
        fields = _read(one, "stat").rpartition(")")[2].split()
        if fields:
            children.setdefault(int(fields[1]), []).append(one)
    found, frontier = [], [pid]
    while frontier:
        frontier = [child for one in frontier for child in children.get(one, [])]
        found += frontier
    return found


def marked(name: str, value: str) -> list[int]:
    """Those that were started with this in their environment, and are no zombies."""
    return [pid for pid in _pids() if f"{name}={value}" in _read(pid, "environ").split("\0")]


def end_all(name: str, value: str) -> None:
    """SIGKILL until nobody is left: a process may start another one meanwhile."""
    for _ in range(100):
        pids = [pid for pid in marked(name, value) if pid != os.getpid()]
        if not pids:
            return
        for pid in pids:
            end(pid)
        time.sleep(0.1)


def end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def command(pid: int) -> str:
    return _read(pid, "cmdline").replace("\0", " ").strip()


def environment(pid: int) -> dict[str, str]:
    return dict(word.split("=", 1) for word in _read(pid, "environ").split("\0") if "=" in word)


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def started(pid: int) -> float:
    """When it was started, as seconds since 1970; now, if it is gone."""
    fields = _read(pid, "stat").rpartition(")")[2].split()
    with open("/proc/uptime", encoding="ascii") as stream:
        up = float(stream.read().split()[0])
    return time.time() - (up - int(fields[19]) / os.sysconf("SC_CLK_TCK") if fields else 0)
