"""SIGTERM in a training process: not the end, but a wish to end soon, as spot machines and clusters send it.

In: a signal. Out: a flag that the training loop reads after each step; it then writes a checkpoint and ends, and the
next attempt goes on from exactly there. Called by models.process.supervision;
the command line uses the last function.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# Ray's `cancel` raises SIGINT's handler in the task, and SIGTERM is what a machine that goes away sends
WISHES = (signal.SIGTERM, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """The training has written its checkpoint and ends, since its process was asked to."""


class Wish:
    """Whether the process was asked to end."""

    def __init__(self) -> None:
        self.name = ""

    def __bool__(self) -> bool:
        return bool(self.name)

    def check(self) -> None:
        """For places at which nothing is lost. Errors: Interrupted."""
        if self.name:
            raise Interrupted(f"The training process got {self.name}.")


@contextlib.contextmanager
def listening() -> Iterator[Wish]:
    """A Wish that the signals set, until the block ends; only the main thread of a process can hear them.

    The second Ctrl-C is an ordinary one: it ends a step that does not come to its end.
    """
    wish = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def note(number: int, frame: FrameType | None) -> None:
        if wish and number == signal.SIGINT:
            raise KeyboardInterrupt
        wish.name = signal.Signals(number).name

    before = {number: signal.signal(number, note) for number in WISHES}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def end_as_by_ctrl_c() -> None:
    """From now on SIGTERM raises KeyboardInterrupt, as Ctrl-C does. For a driver; Ray's start puts its own handler."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
