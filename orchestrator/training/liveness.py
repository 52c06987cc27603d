"""Does the cluster still stand that this driver works for? Ray itself waits for a minute and then ends the process.

In: the connected `ray`. Out: nothing, or ClusterGone. Called by the launcher while it waits.
"""

import contextlib
import socket
import time
from types import ModuleType

LIMIT_SECONDS = 10.0  # of silence: longer than a head takes that is restarted with its memory kept elsewhere
EVERY_SECONDS = 2.0
ANSWER_SECONDS = 3.0


class ClusterGone(ConnectionError):
    """The head, or this machine's raylet, is dead. Nothing that was submitted can be followed any more."""


class Lifeline:
    """Whether somebody listens where the head and this driver's raylet did: no call of Ray's returns without them."""

    def __init__(self, ray: ModuleType) -> None:
        context = ray.get_runtime_context()
        node = next(one for one in ray.nodes() if one["NodeID"] == context.get_node_id())
        host, _, port = context.gcs_address.rpartition(":")
        self.places = {
            "the head": (host, int(port)),
            "the raylet on this machine": (node["NodeManagerAddress"], int(node["NodeManagerPort"])),
        }
        self.seen = dict.fromkeys(self.places, time.monotonic())
        self.checked = 0.0

    def check(self) -> None:
        """Errors: ClusterGone once one of the two has been silent for too long."""
        if time.monotonic() - self.checked < EVERY_SECONDS:
            return
        for name, place in self.places.items():
            if _listens(place):
                self.seen[name] = time.monotonic()
            silent = time.monotonic() - self.seen[name]
            if silent > LIMIT_SECONDS:
                raise ClusterGone(
                    f"The Ray cluster is gone: {name} ({place[0]}:{place[1]}) has not answered for {silent:.0f} s. "
                    "What was finished is kept. Start the cluster again and give the same command: it goes on from "
                    "the checkpoints."
                )
        self.checked = time.monotonic()


def _listens(place: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(place, timeout=ANSWER_SECONDS):
        return True
    return False
