"""orchestrator/training/private_ray.py and socket_probe.py: the token's file, what listens where, and who gets into a
real training.
"""

import http.client
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench import attack_surface
from bench.loopback import loopback
from orchestrator.training import socket_probe
from orchestrator.training.private_ray import PREFIX, sweep, token_file
from orchestrator.training.ray_session import connected
from tests.conftest import PROJECT
from tests.processes import all_gone, command, descendants, environment


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_token_is_for_this_user_alone_new_each_time_and_gone_with_the_block(folder):
    with token_file() as one, token_file() as other:
        assert [stat.S_IMODE(path.stat().st_mode) for path in (one, other)] == [0o600] * 2
        assert one.parent == folder
        tokens = {path.read_text(encoding="ascii") for path in (one, other)}
        assert [len(token) for token in tokens] == [64] * 2
    assert list(folder.iterdir()) == []


KILLED = """
import os, signal, sys, tempfile
from orchestrator.training.private_ray import token_file
tempfile.tempdir = sys.argv[1]
with token_file() as path:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_token_of_a_killed_command_is_swept_and_no_others(folder):
    (folder / "other").touch()
    (folder / f"{PREFIX}link").symlink_to(folder / "other")
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], cwd=PROJECT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = folder.glob(f"{PREFIX}[!l]*")
    with token_file() as mine:
        assert not left.exists()
        sweep()
        assert mine.exists()
    assert sorted(path.name for path in folder.iterdir()) == [f"{PREFIX}link", "other"]


@pytest.mark.parametrize(
    ("family", "address", "shown"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "0.0.0.0"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "::"),
        (socket.AF_INET6, "::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
def test_where_a_process_listens_is_read_from_the_system(family, address, shown):
    try:
        server = socket.create_server((address, 0), family=family, dualstack_ipv6="ffff" in address)
    except OSError as error:
        pytest.skip(f"this machine has no {address}: {error}")
    with server, socket.create_server(("127.0.0.1", 0)) as closed:
        port = server.getsockname()[1]
        closed_port = closed.getsockname()[1]
        closed.close()
        found = {one.port: one for one in socket_probe.listeners([os.getpid()])}
        assert found[port].address == shown
        assert found[port].on_loopback == (shown in ("127.0.0.1", "::1"))
        assert closed_port not in found
        beyond = [
            socket_probe.takes_connections(one, port) for one in socket_probe.network_addresses() if ":" not in one
        ]
        assert beyond == [shown == "0.0.0.0" or (shown == "::" and beyond[0])] * len(beyond)
    assert port not in {one.port for one in socket_probe.listeners([os.getpid()])}


def test_the_tree_of_a_process():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        tree = socket_probe.process_tree(os.getpid())
        assert tree[0] == os.getpid()
        assert set(tree) >= {child.pid, *descendants(os.getpid())}
        child.kill()


@pytest.mark.parametrize(
    ("out", "err", "outcome"),
    [
        (f"{socket_probe.LET_IN} 42", "Unauthenticated, says some other line", socket_probe.LET_IN),
        ("ConnectionError Failed to connect", "RPC error: InvalidAuthToken: token is missing", socket_probe.REFUSED),
        ("ConnectionError Failed to connect", "waiting for GCS to become available.", socket_probe.NO_CONNECTION),
        ("", "No module named ray", "unclear: No module named ray"),
    ],
)
def test_what_a_client_tells(out, err, outcome):
    assert socket_probe._outcome(subprocess.CompletedProcess([], 0, out, err)) == outcome


# -- the real thing


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """(the driver of `hilum train`, its process tree, its training process), at work."""
    folder = tmp_path_factory.mktemp("reach")
    with attack_surface.training(folder) as (driver, worker):
        tree = socket_probe.process_tree(driver.pid)
        yield driver, tree, worker, folder / "log"
        # Ray's agents wait a minute for a killed Ray to come back before they end
        mortal = [pid for pid in tree if not command(pid).startswith(("ray::DashboardAgent", "ray::RuntimeEnvAgent"))]
    assert all_gone(mortal) == []


def token_path(worker: int) -> Path:
    return Path(environment(worker)["RAY_AUTH_TOKEN_PATH"])


@pytest.mark.ray
def test_nothing_of_a_training_listens_beyond_loopback(training):
    driver, tree, worker, _ = training
    found = socket_probe.listeners(tree)
    assert {"gcs_server", "raylet", "ray::RuntimeEnvAgent"} < {one.process for one in found}
    assert {driver.pid, worker} < {one.pid for one in found}
    assert [one for one in found if not one.on_loopback] == []


@pytest.mark.ray
def test_a_client_without_the_token_gets_into_no_training(training):
    """On the network address of this machine, and on loopback, which other users of it socket_probe."""
    _, tree, _, _ = training
    networks = [address for address in socket_probe.network_addresses() if ":" not in address]
    if not networks:
        pytest.skip("this machine has no address but loopback")
    sockets = socket_probe.listeners(tree)
    head = next(one.port for one in sockets if one.process == "gcs_server")
    assert [
        one for one in sockets if any(socket_probe.takes_connections(address, one.port) for address in networks)
    ] == []
    tried = [(address, how) for address in ("127.0.0.1", networks[0]) for how in socket_probe.STRANGERS]
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(lambda one: socket_probe.try_client(f"{one[0]}:{head}", one[1]), tried))
    assert outcomes == [socket_probe.REFUSED] * 2 + [socket_probe.NO_CONNECTION] * 2


@pytest.mark.ray
def test_the_agent_that_prepares_environments_answers_nobody_without_the_token(training):
    """It could install packages and unpack files; it speaks HTTP, and the port is the system's choice."""
    _, tree, worker, _ = training
    agent = next(one for one in socket_probe.listeners(tree) if one.process == "ray::RuntimeEnvAgent")

    def status(**headers: str) -> int:
        connection = http.client.HTTPConnection(agent.address, agent.port, timeout=10)
        connection.request("POST", "/get_runtime_envs_info", body=b"", headers=headers)
        return connection.getresponse().status

    assert status() == 401
    assert status(Authorization=f"Bearer {secrets.token_hex(32)}") == 403
    assert status(Authorization=f"Bearer {token_path(worker).read_text(encoding='ascii')}") == 200
    assert not socket_probe.takes_connections("127.0.0.1", 52365)  # Ray's default for the agent that takes jobs


@pytest.mark.ray
def test_the_token_stands_nowhere_but_in_its_file(training):
    """Not in a command line, an environment, a log of Ray's or ours; and a killed command's is swept."""
    driver, tree, worker, log = training
    path = token_path(worker)
    token = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    read = [file.read_bytes() for pid in tree for file in (Path(f"/proc/{pid}/cmdline"), Path(f"/proc/{pid}/environ"))
            if file.exists()]  # fmt: skip
    assert sum(str(path).encode() in text for text in read) >= 4  # the environments, with the path
    words = [word for pid in tree for word in command(pid).split() if word.startswith("--log_dir=")]
    session = Path(words[0].partition("=")[2]).parent
    logs = [file.read_bytes() for file in session.rglob("*") if file.is_file()]
    assert len(logs) > 3
    assert [text for text in [*read, *logs, log.read_bytes()] if token in text] == []
    sweep()
    assert path.exists()
    driver.kill()
    driver.wait()
    assert path.exists()
    sweep()
    assert not path.exists()


@pytest.mark.ray
def test_one_after_the_other_in_one_process_a_cluster_with_its_own_token_included(monkeypatch):
    """Ray keeps a token and a mode that it has read; each block has its own all the same."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with loopback(workers=0) as cluster:
        theirs = {name: cluster.environment()[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")}
        for name, value in theirs.items():
            monkeypatch.setenv(name, value)
        paths, others = set(), set(socket_probe.process_tree(os.getpid())[1:])
        for _ in range(2):
            with connected() as ray:
                paths.add(ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN_PATH"]).remote()))
                ours = socket_probe.listeners(set(socket_probe.process_tree(os.getpid())) - others)
                assert len(ours) > 5
                assert [one for one in ours if not one.on_loopback] == []
        assert len(paths - {theirs["RAY_AUTH_TOKEN_PATH"]}) == 2
        with connected(cluster.address) as ray:
            assert len(ray.nodes()) == 1
        assert {name: os.environ[name] for name in theirs} == theirs
        assert socket_probe.try_client(cluster.address, socket_probe.WITHOUT_TOKEN) == socket_probe.REFUSED
