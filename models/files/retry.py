"""Writing that outlasts a disk that is full or a storage that cannot be reached for a while.

In: a write that is whole or absent. Out: the same write, tried again for so many minutes; the caller waits meanwhile,
so that what it computes does not depend on it. Called by the trainer for checkpoints, weights and outcomes, and by the
launcher for its ledger.
"""

import contextlib
import errno
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# What a network file system, a remounted disk or a lapsed permission answers, and may answer otherwise a minute later.
TRANSIENT = FULL | {
    errno.EIO, errno.ESTALE, errno.EROFS, errno.EACCES, errno.EPERM, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENODEV,
    errno.EBUSY, errno.EAGAIN, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
}  # fmt: skip
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 15.0  # seconds; each pause is twice the one before


class StorageFailed(OSError):
    """A write that did not succeed however often it was tried."""


def nothing() -> None:
    """For who has nothing to do while waiting."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How long a failing write is tried again, and what is called in between (it may raise, and so end the waiting)."""

    seconds: float = 600.0
    meanwhile: Callable[[], None] = nothing

    def write(self, action: Callable[[], None], path: Path, size: int = 0) -> None:
        """Call `action`, which writes `path` (`size` bytes). Errors: StorageFailed when time is up; others at once."""
        waited, pause = 0.0, FIRST_PAUSE
        while True:
            try:
                return action()
            except OSError as error:
                if error.errno not in TRANSIENT:
                    raise
                if waited >= self.seconds:
                    raise StorageFailed(error.errno, failure_sentence(error, path, size, waited)) from error
                log.warning("%s: %s; trying again in %.1f s", path, error.strerror, pause)
            self._sleep(min(pause, self.seconds - waited))
            waited, pause = waited + pause, min(2 * pause, LONGEST_PAUSE)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.meanwhile()
            time.sleep(min(left, 0.2))


def failure_sentence(error: OSError, path: Path, size: int, waited: float) -> str:
    """What could not be written, for how long it was tried, what it would have taken and what is free."""
    facts = [f"{size:,} bytes are needed"] if size else []
    with contextlib.suppress(OSError):
        facts.append(f"{shutil.disk_usage(path.parent).free:,} are free")
    room = " (" + ", ".join(facts) + ")" if facts else ""
    advice = "Make room" if error.errno in FULL else "See that the storage can be written again"
    return (
        f"{path} could not be written for {waited / 60:.1f} minutes: {os.strerror(error.errno)}{room}. "
        f"Nothing that was finished is damaged. {advice} and give the same command again."
    )
