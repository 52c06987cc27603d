"""Ray: connect to it, say what it offers, let go of it.

In: an address, or none. Out: the connected `ray` module. Called by the launcher and the search; importing this module
does not import Ray, since its settings must stand in the environment first.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from models.process.signals import end_as_by_ctrl_c
from orchestrator.code_package import CHECKOUT, pack, survey
from orchestrator.ray_address import LOCAL, own_cluster, wanted_address
from orchestrator.training.private_ray import environment, private_ray
from pathologies.errors import InputError

log = logging.getLogger(__name__)
LIMIT_SECONDS = (
    10.0  # of silence of the cluster: longer than a head takes that is restarted with its memory kept elsewhere
)
EVERY_SECONDS = 2.0
ANSWER_SECONDS = 3.0

# Measured reasons: workers run at nice 15 otherwise; `uv run` would start every worker through uv; a task that the
# memory monitor kills would be retried for ever; workers started in advance lack our tasks' environment and are never
# used; the rest is noise on standard output or in the home folder.
SETTINGS: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_worker_niceness": "0",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_task_oom_retries": "2",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Of a Ray of our own: nobody reads its metrics or its list of tasks.
OWN_SETTINGS: Mapping[str, str] = {
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    # How often Ray's agent looks for events to tell its dashboard of (10 times a second otherwise), and measures the
    # machine for it.
    "EVENT_AGENT_REPORT_INTERVAL_SECONDS": "3600",
    "SCAN_EVENT_DIR_INTERVAL_SECONDS": "3600",
    "REPORTER_UPDATE_INTERVAL_MS": "3600000",
}
# Processes that Ray (2.60) starts whether or not they are wanted: for a dashboard that is switched off, for adding
# nodes to one machine, for logs that go to no driver. Ray waits two seconds for the first, and together they take 2 %
# of a core for as long as the command runs.
UNWANTED = ("start_api_server", "start_monitor", "start_log_monitor")
WORKER_START = Path(__file__).with_name("ray_worker_start.py").resolve()
JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the command of a submitted job
OBJECT_STORE_BYTES = 128 * 2**20  # pixels travel through the page cache, so Ray's own store stays small


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[ModuleType]:
    """Ray at `address`, else at RAY_ADDRESS, else one started in this process and ended with the block.

    One of our own can be reached by nobody else (see `private_ray.py`); the environment is afterwards as it was before.
    """
    wanted, own = wanted_address(address), own_cluster(address)
    running = sys.modules.get("ray")
    if running and running.is_initialized():
        yield running
        return
    settings = {name: value for name, value in _settings(own).items() if name not in os.environ}
    with environment(settings), private_ray() if own else contextlib.nullcontext():
        import ray

        with _started(ray, wanted):
            yield ray


def _settings(own: bool) -> Mapping[str, str]:
    return SETTINGS | OWN_SETTINGS if own else SETTINGS


@contextlib.contextmanager
def _started(ray: ModuleType, wanted: str) -> Iterator[None]:
    with contextlib.redirect_stdout(sys.stderr):  # some messages of Ray's go to standard output at any log level
        _start(ray, wanted)
    end_as_by_ctrl_c()
    gone = False
    try:
        yield
    except ClusterGone:
        gone = True  # a shutdown would wait for the dead
        raise
    finally:
        if not gone:
            with contextlib.redirect_stdout(sys.stderr), _uninterrupted():
                ray.shutdown()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C in the seconds that Ray takes to end would abort it with pages of its own stacks."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start(ray: ModuleType, address: str) -> None:
    common = {"logging_level": "ERROR", "log_to_driver": False}
    if address == LOCAL:
        with _lean():
            ray.init(LOCAL, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **common)
        return
    try:
        with tempfile.TemporaryDirectory(prefix="hilum-") as folder:
            ray.init(address, **common, **_code(Path(folder)))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"No Ray cluster answers at {address!r} ({error}). Start one (`ray start --head`), correct --address or "
            "RAY_ADDRESS, or leave both out to work on this machine alone."
        ) from error


@contextlib.contextmanager
def _lean() -> Iterator[None]:
    """Leave out what is UNWANTED, and of the agent what serves the dashboard, as where its packages are not installed;
    begin workers with WORKER_START.

    Ray has no setting for any of it; what a version names otherwise stays as Ray has it.
    """
    try:
        from ray._private import ray_constants, utils
        from ray._private.node import Node
    except ImportError:
        yield
        return
    wanted: dict[tuple[Any, str], Any] = {(Node, name): lambda self, *words, **more: None for name in UNWANTED}
    wanted[utils, "get_dashboard_dependency_error"] = lambda: ImportError("the dashboard is off")
    wanted[ray_constants, "SETUP_WORKER_FILENAME"] = str(WORKER_START)  # joined to a folder: an absolute path stands
    before = {(owner, name): getattr(owner, name) for owner, name in wanted if hasattr(owner, name)}
    for owner, name in before:
        setattr(owner, name, wanted[owner, name])
    try:
        yield
    finally:
        for (owner, name), value in before.items():
            setattr(owner, name, value)


def _code(folder: Path) -> dict[str, Any]:
    """Send hilum's code along, zipped in `folder`, so that every node runs the same. A job has brought it already."""
    if JOB_MARK in os.environ or not (CHECKOUT / "pyproject.toml").is_file():
        return {}
    pack(survey(), folder / "checkout.zip")
    return {"runtime_env": {"working_dir": str(folder / "checkout.zip")}}


def ask_to_end(ray: ModuleType, references: Collection[Any], seconds: float) -> None:
    """Interrupt what still runs, and wait for it so long: a training writes a checkpoint first."""
    with contextlib.suppress(Exception):
        for reference in _unanswered(ray, references, 0.0):
            ray.cancel(reference)
        _unanswered(ray, references, seconds)


def end_tasks(ray: ModuleType, references: Collection[Any]) -> None:
    """End by force what still runs."""
    with contextlib.suppress(Exception):
        for reference in _unanswered(ray, references, 0.0):
            with contextlib.suppress(Exception):
                ray.cancel(reference, force=True)


def _unanswered(ray: ModuleType, references: Collection[Any], seconds: float) -> list[Any]:
    """The only ones to cancel. Ray (2.60) hands an answer out before it closes its books on the task, and cancelling
    in between aborts the driver (`Tried to complete task that was not pending`; compare its pull request 54798)."""
    if not references:
        return []
    return ray.wait(list(references), num_returns=len(references), timeout=seconds)[1]


def require_room(ray: ModuleType, cpus: float, gpus: float) -> None:
    """Refuse what no single node can ever satisfy; Ray would let it wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        return
    offered = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
    raise InputError(
        f"A target asks for {cpus:g} CPUs and {gpus:g} GPUs, and no node has that. Nodes: {offered}. "
        "Lower --set threads=... or --gpus-per-target."
    )


class ClusterGone(ConnectionError):
    """The head, or this machine's raylet, is dead. Nothing that was submitted can be followed any more."""


class ClusterLiveness:
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
