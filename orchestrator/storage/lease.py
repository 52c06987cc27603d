"""A lease: one driver per run in object storage, where no lock is let go of when its holder dies.

In: a Store. Out: an object `.lease` that its holder rewrites every few seconds. Called for what writes a run.
Who finds one takes it over when it has not changed while he watched for EXPIRY seconds of his own clock, so that no
clock is compared with another one; at once, when it names a process of this machine that is gone. Every write is
conditional on the content last seen, so of two who try one wins, and a holder who slept learns that he has lost it.
"""

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.storage.object_store import StorageError, Store, Tag
from pathologies.errors import InputError

log = logging.getLogger(__name__)
NAME = ".lease"
RENEW = 10.0
EXPIRY = 60.0
LOOK = 1.0
RELEASE = 5.0  # seconds at most, twice, for letting go


class LeaseLost(InputError):
    """Another driver holds the run now: this command stops with the sentence."""


class Lease:
    """Use as a context manager. Before each thing that only the holder may do, `require` says that it is still held."""

    def __init__(self, store: Store, renew: float = RENEW, expiry: float = EXPIRY) -> None:
        self.store, self.renew, self.expiry = store, renew, expiry
        self.token = secrets.token_hex(8)
        self.beat = 0
        self.tag: Tag = ""
        self.lost = False
        self.renewed = 0.0
        self.guard = threading.Lock()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        self._acquire()
        self.thread.start()
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """Let go of it, unless the storage does not answer soon: it ends by itself."""
        self.ended.set()
        self.thread.join(RELEASE)
        if not (self.lost or self.thread.is_alive()):
            with contextlib.suppress(StorageError):
                quick = Store(self.store.uri, RELEASE, RELEASE)
                quick.replace(NAME, json.dumps({"owner": None, "by": self.token}).encode(), self.tag)

    def require(self) -> None:
        """Errors: LeaseLost. After a sleep it is renewed first: somebody may have taken it over meanwhile."""
        if not self.lost and _now() - self.renewed > self.expiry / 2:
            with contextlib.suppress(StorageError):
                self._renew()
        if self.lost:
            raise self.loss()

    def confirm(self) -> None:
        """As `require`, for what cannot be taken back: where it is not known whether the lease is held, it is not.

        Errors: LeaseLost; StorageError.
        """
        if not self.lost and _now() - self.renewed > self.expiry / 2:
            self._renew()
        self.require()

    def loss(self) -> LeaseLost:
        return LeaseLost(
            f"Another hilum command has taken over {self.store.uri}, since this one had not been heard of for "
            f"{self.expiry:.0f} s. This one stops; what it has finished is kept."
        )

    def _acquire(self) -> None:
        seen, since = "", _now()
        while True:
            tag = self.store.create(NAME, self._content())
            if tag is None:
                try:
                    body, there = self.store.read(NAME)
                except FileNotFoundError:
                    continue
                holder = _parse(body)
                tag = self._take(holder, there, seen, _now() - since)
                if tag is None and there != seen:
                    self._refuse_if_alive(holder, seen)
                    seen, since = there, _now()
            if tag is not None:
                self.tag, self.renewed = tag, _now()
                return
            time.sleep(min(LOOK, self.expiry / 10))

    def _take(self, holder: dict[str, Any], there: Tag, seen: Tag, watched: float) -> Tag | None:
        if holder.get("owner") == self.token:  # our own write, whose answer was lost on the way
            return there
        free = holder.get("owner") is None or _died_here(holder) or (there == seen and watched > self.expiry)
        return self.store.replace(NAME, self._content(), there) if free else None

    def _refuse_if_alive(self, holder: dict[str, Any], seen: Tag) -> None:
        if seen or _lives_here(holder):
            raise InputError(
                f"Another hilum command is working on {self.store.uri} (process {holder.get('pid')} on "
                f"{holder.get('host')}). Wait for it, or give another --out."
            )
        log.warning(
            "%s is held by process %s on %s; waiting up to %.0f s to see whether that is still alive",
            self.store.uri, holder.get("pid"), holder.get("host"), self.expiry,
        )  # fmt: skip

    def _keep(self) -> None:
        while not self.ended.wait(self.renew) and not self.lost:
            with contextlib.suppress(StorageError):  # the storage is away, so nobody else can take it either
                self._renew()

    def _renew(self) -> None:
        with self.guard:
            self.beat += 1
            tag = self.store.replace(NAME, self._content(), self.tag)
            if tag is None:
                tag = self._look_again()
            if tag is None:
                self.lost = True
            else:
                self.tag, self.renewed = tag, _now()

    def _look_again(self) -> Tag | None:
        """A write that was sent twice is refused the second time: ours all the same, if it is our content."""
        with contextlib.suppress(FileNotFoundError):
            body, there = self.store.read(NAME)
            if _parse(body).get("owner") == self.token:
                return there
        return None

    def _content(self) -> bytes:
        content = {"owner": self.token, "beat": self.beat, "host": socket.gethostname(), "pid": os.getpid()}
        return json.dumps(content | {"place": _place(), "began": _start_of(os.getpid())}, sort_keys=True).encode()


def _parse(body: bytes) -> dict[str, Any]:
    """An unreadable lease is one of an unknown holder: it ends by not changing."""
    with contextlib.suppress(InputError):
        content = json.loads(body)
        if isinstance(content, dict):
            return content
    return {"owner": "unknown"}


def _lives_here(holder: dict[str, Any]) -> bool:
    same = holder.get("place") == _place() != ""
    return same and _start_of(holder.get("pid", 0)) == holder.get("began") != ""


def _died_here(holder: dict[str, Any]) -> bool:
    """Only where it ran on this very machine, since the same start and seeing the same processes."""
    return holder.get("place") == _place() != "" and not _lives_here(holder)


def _place() -> str:
    """This start of this machine and this view of its processes; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """When a process began, so that a number given away again is not taken for the old one; empty when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def _now() -> float:
    """A clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
