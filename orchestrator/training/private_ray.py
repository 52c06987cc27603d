"""Who may reach a Ray that hilum starts for itself: processes of this machine that know the token of this run.

In: nothing. Out: the environment of such a Ray, for a block. Called by `cluster.py`; benchmarks and tests that start a
Ray of their own use it too. Two walls, since each has a gap: Ray's servers listen on loopback alone, which other users
of the machine reach as well; and they want a token, which Ray asks for in every call.
"""

import contextlib
import fcntl
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

PREFIX = "hilum-ray-token-"
# Ray (2.60) binds the head, the raylet, the agents and every worker to the node's own address where that is 127.0.0.1,
# else to all interfaces; and it puts the network address in the place of a 127.0.0.1 that it is asked for, unless this
# says that the machine is no part of a cluster. Its own default on Windows and macOS.
LOOPBACK_ALONE: Mapping[str, str] = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextlib.contextmanager
def private_ray() -> Iterator[Path]:
    """The environment in which a Ray may be started; yields the path of the token. What stood there stands again
    afterwards, so that a cluster that is connected to later is asked with its own token."""
    with token_file() as path:
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path), "RAY_AUTH_TOKEN": None}  # it would win
        with environment(LOOPBACK_ALONE | token):
            _read_again()
            yield path
    _read_again()


@contextlib.contextmanager
def environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """These variables, or with None their absence, for the block."""
    before = {name: os.environ.get(name) for name in changes}
    _change(changes)
    try:
        yield
    finally:
        _change(before)


def _change(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def token_file() -> Iterator[Path]:
    """A new token, in a file that this user alone can read, gone with the block or, after a kill, with the next one.

    The file and not the variable: everybody's environment stands in /proc, for the same user and in reports of crashes.
    """
    sweep()
    descriptor, path = _locked_file()
    try:
        os.write(descriptor, secrets.token_hex(32).encode("ascii"))
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked_file() -> tuple[int, Path]:
    """Whoever holds the lock lives: the system lets go of it however a process ends."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=PREFIX)  # rights 600
        with contextlib.suppress(OSError):  # a file system without locks: then nobody can lock it to sweep it either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:  # else it was swept before it was locked
            return descriptor, Path(name)
        os.close(descriptor)


def sweep() -> None:
    """Remove the tokens of this user's killed commands."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another's, in use, or gone meanwhile
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            finally:
                os.close(descriptor)


def _read_again() -> None:
    """Ray reads all of this once in a process, and this one may have imported it already."""
    if "ray" not in sys.modules:
        return
    try:
        from ray._private import ray_constants
        from ray._raylet import AuthenticationTokenLoader, Config
    except ImportError:
        return
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(name, not ray_constants.IS_WINDOWS_OR_OSX)
