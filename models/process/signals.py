"""SIGTERM in a training process: not the end, but a request to end soon, as spot machines and clusters send it.

In: a signal. Out: a flag that the training loop reads after each step; it then writes a checkpoint and ends, and the
next attempt goes on from exactly there. Called by models.process.supervision;
the command line uses the last function.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from models.training.stop_request import StopRequest

# Ray's `cancel` raises SIGINT's handler in the task, and SIGTERM is what a machine that goes away sends
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def listening() -> Iterator[StopRequest]:
    """A StopRequest that the signals set, until the block ends; only the main thread of a process can hear them.

    The second Ctrl-C is an ordinary one: it ends a step that does not come to its end.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal = signal.Signals(number).name

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def end_as_by_ctrl_c() -> None:
    """From now on SIGTERM raises KeyboardInterrupt, as Ctrl-C does. For a driver; Ray's start puts its own handler."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
