"""What watches over one training: is it still wanted, was it asked to end, does it hang, how patient are its writes.

In: a target's folder and its attempt. Out: Guards for the time of the training. Called by models.process.job.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from models.config import TrainConfig
from models.files.layout import AttemptPaths, TargetPaths, read_json
from models.files.retry import Retry
from models.process.signals import listening
from models.process.watchdog import Watchdog
from models.training.stop_request import StopRequest

NEWEST_SECONDS = 5.0  # after a successor has begun, its forerunner notices


class Superseded(RuntimeError):
    """A newer attempt at this target has started, or the process that wanted this one is gone."""


class Orphaned(Superseded):
    """The second of the two."""


@dataclass(frozen=True, kw_only=True)
class Guards:
    """`still_wanted` raises Superseded; `sign_of_life` is called for every batch."""

    still_wanted: Callable[[], None]
    stop: StopRequest
    watchdog: Watchdog
    retry: Retry

    def sign_of_life(self) -> None:
        self.watchdog.beat()

    def beside(self, on_epoch: Callable[[dict[str, Any]], None] | None) -> Callable[[dict[str, Any]], None] | None:
        """`on_epoch`, for whose time nothing counts as a hang: a search waits in it for its scheduler."""
        if on_epoch is None:
            return None

        def call(row: dict[str, Any]) -> None:
            with self.watchdog.resting():
                on_epoch(row)

        return call


@contextlib.contextmanager
def guarded(
    paths: TargetPaths, attempt: AttemptPaths, own_process: bool, on_hang: Callable[[str], None]
) -> Iterator[Guards]:
    """`own_process`: this process was started for the training alone, so it may end itself, and its parent matters."""
    config = _config(paths)
    still_wanted = _both_checks(own_process, partial(check_newest, paths, attempt))
    watchdog = Watchdog(attempt.stacks, 60 * config.watchdog_minutes if own_process else 0.0, on_hang)
    with listening() as stop:

        def meanwhile() -> None:
            watchdog.alive()
            still_wanted()
            stop.check()

        retry = Retry(seconds=60 * config.storage_minutes, meanwhile=meanwhile)
        watchdog.start()
        try:
            yield Guards(still_wanted=still_wanted, stop=stop, watchdog=watchdog, retry=retry)
        finally:
            watchdog.stop()


def check_newest(paths: TargetPaths, attempt: AttemptPaths) -> None:
    """Errors: Superseded."""
    newest = paths.newest_attempt()
    if newest and newest.number != attempt.number:
        raise Superseded(f"Attempt {newest.number} has taken over from attempt {attempt.number} at {paths.root}.")


def _both_checks(own_process: bool, newest: Callable[[], None]) -> Callable[[], None]:
    """The parent at every call; now and then, since it reads a folder, whether a successor has begun."""
    parent, asked = os.getppid(), [time.monotonic()]

    def check() -> None:
        if own_process and os.getppid() != parent:
            raise Orphaned("The process that started this training is gone.")
        if time.monotonic() - asked[0] > NEWEST_SECONDS:
            asked[0] = time.monotonic()
            newest()

    return check


def _config(paths: TargetPaths) -> TrainConfig:
    """Of a file that cannot be used the defaults: the training itself will say what is wrong with it."""
    try:
        return TrainConfig(**read_json(paths.config)["config"])
    except (OSError, ValueError, KeyError, TypeError):
        return TrainConfig()
