"""Who can reach a Ray, measured: where its processes listen, and whether a client without the token gets in.

In: a process and what descends from it; the address of a head. Out: sockets, and what happened to a client. Called by
the doctor and by bench.attack_surface. All of it is read from /proc and tried out; nothing is concluded from settings.
"""

import contextlib
import fcntl
import ipaddress
import os
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

CONNECT_SECONDS = 2.0
CLIENT_SECONDS = 60
LISTENING = "0A"  # Linux, include/net/tcp_states.h
SIOCGIFADDR = 0x8915  # Linux, include/uapi/linux/sockios.h
GLOBAL_SCOPE = "00"  # /proc/net/if_inet6; link-local addresses need an interface beside them
LET_IN, REFUSED, NO_CONNECTION, UNCLEAR = "let in", "refused: no valid token", "no connection", "unclear"

# A Ray client that tries once, instead of for minutes, and runs a function where it gets in.
CLIENT = f"""
import sys, ray
try:
    ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
    print(type(error).__name__, error)
    sys.exit()
print({LET_IN!r}, ray.get(ray.remote(num_cpus=0)(lambda: 6 * 7).remote(), timeout=30))
"""
ONCE = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_gcs_rpc_server_connect_timeout_s": "2",
        "RAY_py_gcs_connect_timeout_s": "4", "RAY_USAGE_STATS_ENABLED": "0"}  # fmt: skip
STRANGERS = WITHOUT_TOKEN, WRONG_TOKEN = "without a token", "with a wrong token"


@dataclass(frozen=True, kw_only=True, order=True)
class Listener:
    """A TCP socket that takes connections."""

    pid: int
    process: str
    address: str  # :: and 0.0.0.0 are all interfaces
    port: int

    @property
    def on_loopback(self) -> bool:
        return is_loopback(self.address)


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def listeners(pids: Iterable[int]) -> list[Listener]:
    """What these processes listen on, as /proc tells it: their sockets by number, and the system's table of them."""
    listening = {number: (address, port) for table in ("tcp", "tcp6") for number, address, port in _table(table)}
    found = []
    for pid in pids:
        for number in _sockets(pid) & listening.keys():
            address, port = listening[number]
            found.append(Listener(pid=pid, process=_name(pid), address=address, port=port))
    return sorted(found)


def _table(name: str) -> Iterator[tuple[str, str, int]]:
    """(number, address, port) of every listening socket."""
    for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
        words = line.split()
        if words[3] == LISTENING:
            address, port = words[1].split(":")
            yield words[9], _address(address), int(port, 16)


def _address(hexadecimal: str) -> str:
    """Of words of four bytes, each in the order of the machine."""
    words = [int(hexadecimal[start : start + 8], 16) for start in range(0, len(hexadecimal), 8)]
    one = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    return str(getattr(one, "ipv4_mapped", None) or one)


def _sockets(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):  # the process is gone, or another's
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                link = os.readlink(entry)
                if link.startswith("socket:["):
                    found.add(link[8:-1])
    return found


def process_tree(pid: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            if folder.name.isdigit():
                parent = int(
                    (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
                )
                children.setdefault(parent, []).append(int(folder.name))
    found = frontier = [pid]
    while frontier:
        frontier = [child for one in frontier for child in children.get(one, [])]
        found = found + frontier
    return found


def _name(pid: int) -> str:
    """The program by its first words, without options: `ray::edema/0`, `gcs_server`, `python -m orchestrator.cli`."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "gone"
    program = words[0] if words[0].startswith("ray::") else Path(words[0]).name
    return " ".join([program, *takewhile(lambda word: not word.startswith("--"), words[1:3])]).strip()[:40]


def network_addresses() -> list[str]:
    """Addresses of this machine that another one can reach it at."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without such an address
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                found.append(socket.inet_ntoa(answer[20:24]))
    with contextlib.suppress(OSError):  # a system without IPv6
        for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
            address, _, _, scope, _, _ = line.split()
            if scope == GLOBAL_SCOPE:
                found.append(str(ipaddress.ip_address(bytes.fromhex(address))))
    return [address for address in found if not is_loopback(address)]


def takes_connections(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=CONNECT_SECONDS):
        return True
    return False


def try_client(head: str, how: str) -> str:
    """What happens to a Ray client at `head` ("address:port") that has no token, or a wrong one: one of the outcomes.

    A process of its own, with no setting of Ray's but these.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | ONCE
    if is_loopback(head.rpartition(":")[0].strip("[]")):
        environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # else the client goes to the network address
    with tempfile.TemporaryDirectory(prefix="hilum-client-") as folder:
        environment["RAY_AUTH_MODE"] = "disabled"
        if how == WRONG_TOKEN:
            (Path(folder) / "token").write_text(secrets.token_hex(32), encoding="ascii")
            environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(Path(folder) / "token")}
        try:
            done = subprocess.run(
                [sys.executable, "-c", CLIENT, head], env=environment, cwd=folder, capture_output=True, text=True,
                timeout=CLIENT_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"{UNCLEAR}: no answer in {CLIENT_SECONDS} s"
    return _outcome(done)


def _outcome(done: subprocess.CompletedProcess) -> str:
    said = done.stdout + done.stderr
    if f"{LET_IN} 42" in done.stdout:
        return LET_IN
    if "InvalidAuthToken" in said or "Unauthenticated" in said:
        return REFUSED
    if "GCS to become available" in said or "Failed to connect" in said:
        return NO_CONNECTION
    return f"{UNCLEAR}: {' '.join(said.split())[-200:]}"
