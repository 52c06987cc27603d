"""What the doctor looks at on a node. Every function here runs there, inside a Ray task, and returns plain facts.

In: paths as that node sees them. Out: dicts of numbers and words, judged by `doctor.py`. Standard library only, except
for `measure_step`, which trains for a few steps.
"""

import hashlib
import os
import platform
import shutil
import socket
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.storage.object_store import Store, is_remote
from orchestrator.storage.scratch import cache_root
from orchestrator.storage.staging import staged_dataset
from orchestrator.training.resources import cards

ANSWER_SECONDS = 10.0  # for the storage
VERSIONED = ("torch", "timm", "ray", "numpy", "hilum")
THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
TRIAL_STEPS = 3  # an epoch
TRIAL_SELECT = 4  # films
PROBE = ".doctor-{token}-{node}"


def look(run: str | None, dataset: str | None, token: str, node: str) -> dict[str, Any]:
    """Everything about this node that needs no other node; leaves its probe file in the run's folder."""
    return {
        "host": socket.gethostname(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in VERSIONED},
        "sources": _sources_digest(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": _meminfo(),
        "shared_memory": _free("/dev/shm"),
        "gpus": cards(),
        "threads": {name: os.environ[name] for name in THREAD_SETTINGS if name in os.environ},
        "written": _write_probe(run, token, node) if run else None,
        "disk_free": _free(work_folder(run)) if run else _free("."),
        "dataset": _dataset(dataset) if dataset else None,
    }


def read_probes(run: str, token: str, nodes: list[str]) -> dict[str, str]:
    """For every node's probe file "" or why it cannot be read here."""
    found = {}
    for node in nodes:
        name = PROBE.format(token=token, node=node)
        try:
            text = Store(run).read(name)[0].decode() if is_remote(run) else (Path(run) / name).read_text()
            found[node] = "" if text == node else f"{run}/{name} holds something else"
        except OSError as error:
            found[node] = f"{error.strerror or type(error).__name__}: {run}/{name}"
    return found


def now() -> float:
    """This node's clock."""
    return time.time()


def measure_step(dataset: str, settings: dict[str, Any]) -> float:
    """Seconds of one training step on this node, alone: a real training of two short epochs, the second one timed.

    Errors: RuntimeError with what the training failed of.
    """
    import tempfile

    from models.files.layout import TargetPaths, read_json_lines, write_json
    from models.process.job import run_job

    with tempfile.TemporaryDirectory(prefix="hilum-") as folder:
        paths = TargetPaths(Path(folder))
        config = settings | {"epochs": 2, "pretrained": "false", "init": "", "checkpoint_minutes": 60.0}
        write_json(paths.config, {"config": config})
        with staged_dataset(dataset) as films:
            _trial_targets(films, config["batch_size"]).save(paths.targets)
            outcome = run_job(films, paths.root, watch_parent=False)
        if outcome["status"] != "ok":
            raise RuntimeError(outcome["error"])
        rows = read_json_lines(paths.attempt(outcome["attempt"]).history)
    return config["batch_size"] / rows[-1]["images_per_second"]


def _trial_targets(dataset: Path, batch: int) -> Any:
    """Films of both classes, enough for a few steps; which films they are does not matter for the time."""
    import numpy as np

    from models.data.targets import PARTS, Targets
    from models.files.layout import DatasetPaths, read_json

    images = read_json(DatasetPaths(dataset).manifest)["images"]
    count = TRIAL_STEPS * batch + TRIAL_SELECT
    part = np.full(count, PARTS.index("train"), np.uint8)
    part[-TRIAL_SELECT:] = PARTS.index("select")
    ones = np.ones(count, np.float32)
    return Targets(
        row=np.arange(count, dtype=np.int64) % images,
        part=part,
        value=(np.arange(count) % 2).astype(np.float32),
        weight=ones,
        draw=ones,
        image_id=np.arange(count).astype(bytes),
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _sources_digest() -> str:
    """Of the hilum that this process imports: nodes with different code give different weights."""
    digest, root = hashlib.sha256(), Path(__file__).resolve().parents[2]
    for package in ("pathologies", "models", "orchestrator"):
        for path in sorted((root / package).glob("*.py")) + sorted((root / package).glob("*.toml")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _meminfo() -> dict[str, int]:
    """total and available bytes; a container's limit where that is lower. Empty where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if ":" in line}
    total, available = fields["MemTotal"], fields["MemAvailable"]
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or "max"
        return {"total": total, "available": available}
    return {"total": min(total, limit), "available": min(available, max(limit - used, 0))}


def _write_probe(run: str, token: str, node: str) -> str:
    """ "" or why this node cannot write there."""
    try:
        if is_remote(run):
            Store(run, patience=ANSWER_SECONDS).write(PROBE.format(token=token, node=node), node.encode())
            return ""
        Path(run).mkdir(parents=True, exist_ok=True)
        with open(Path(run) / PROBE.format(token=token, node=node), "x", encoding="ascii") as stream:
            stream.write(node)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return f"{error.strerror}: {run}" if error.strerror else str(error)
    return ""


def _dataset(place: str) -> dict[str, Any]:
    """The manifest's hash and the size of the images, so that the driver can compare them with its own.

    What lies in object storage is staged, so that the training finds it on this node.
    """
    try:
        with staged_dataset(place) as root:
            manifest = hashlib.sha256((root / "manifest.json").read_bytes()).hexdigest()[:12]
            with open(root / "images.u8", "rb") as stream:
                stream.read(1)
                size = os.fstat(stream.fileno()).st_size
        return {"manifest": manifest, "bytes": size, "error": ""}
    except (OSError, ValueError) as error:
        known = f"{error.strerror}: {error.filename}" if getattr(error, "strerror", None) else str(error)
        return {"manifest": "", "bytes": 0, "error": known}


def work_folder(run: str) -> Path:
    """Where a training writes first: the run itself, or scratch of the node for one in object storage."""
    return cache_root() if is_remote(run) else _existing(Path(run))


def _existing(path: Path) -> Path:
    return path if path.exists() or path == path.parent else _existing(path.parent)


def _free(path: str | Path) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None
