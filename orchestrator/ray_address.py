"""Which Ray a command works with: one that it starts for itself, or a cluster at an address.

Apart from training.ray_session, since plans ask too, and the command line without loading anything.
"""

import os

LOCAL = "local"


def own_cluster(address: str | None) -> bool:
    """Whether Ray is started here, for one command alone."""
    return wanted_address(address) == LOCAL


def wanted_address(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or LOCAL
