"""What the doctor's probes of the storage leave behind, and its removal.

In: the run's place, the probes' names. Out: a place as it was before. Called by the doctor, in its own process.
"""

import contextlib
from pathlib import Path

from orchestrator.cluster import node_facts
from orchestrator.storage.object_store import Store, is_remote


def missing_folders(out: Path | str | None) -> list[Path]:
    """The folders that a probe will create, innermost first; object storage has none."""
    missing = []
    while out and not is_remote(out) and not out.resolve().exists():
        missing.append(out.resolve())
        out = out.resolve().parent
    return missing


def remove_probes(run: str, token: str, names: list[str], created: list[Path]) -> None:
    """Remove the probe of every node, and the folders that were made for them and are empty."""
    probes = [node_facts.PROBE.format(token=token, node=name) for name in names]
    if is_remote(run):
        with contextlib.suppress(OSError):  # a storage that does not answer is a check of its own
            Store(run, patience=node_facts.ANSWER_SECONDS).delete(probes)
        return
    for probe in probes:
        (Path(run) / probe).unlink(missing_ok=True)
    for folder in created:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
