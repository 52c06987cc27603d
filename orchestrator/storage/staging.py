"""Data sets and bundles of object storage, brought to this node once and shared by all its processes.

In: the URI of a complete DATASET or BUNDLE. Out: a folder of the cache with the same files, named by the hash of its
marker (`manifest.json`, `bundle.json`), which holds the hashes of the rest. Called by training processes, the driver
and the commands. One process downloads, under a lock, the others wait for it; the contents are hashed once, before the
folder appears under its name. What was used longest ago makes room; what a living process uses is never removed, and
files are unlinked, never cut short: a map of them stays whole.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.files.layout import TEMPORARY_PREFIX, BundlePaths, DatasetPaths, parse_json, write_json
from orchestrator.storage.folder_swap import sync_tree
from orchestrator.storage.object_store import Store, is_remote
from orchestrator.storage.scratch import VARIABLE, cache_root, locked
from pathologies.errors import InputError

log = logging.getLogger(__name__)
LIMIT = "HILUM_CACHE_GB"
SPARE = 0.02  # of the disk, left free
ORIGIN = ".origin.json"  # beside the files: where they came from
MANIFEST = DatasetPaths(Path()).manifest.name
DESCRIPTION = BundlePaths(Path()).bundle.name


@contextlib.contextmanager
def staged_dataset(place: Path | str) -> Iterator[Path]:
    """The folder to read: `place` itself, or where it is staged; in the block it is in use, so nobody removes it.

    Errors: FileNotFoundError, StorageError, no room.
    """
    with _staged(place, MANIFEST) as folder:
        yield folder


@contextlib.contextmanager
def staged_bundle(place: Path | str) -> Iterator[Path]:
    """As `staged_dataset`."""
    with _staged(place, DESCRIPTION) as folder:
        yield folder


@contextlib.contextmanager
def _staged(place: Path | str, marker: str) -> Iterator[Path]:
    """Bring the folder at `place` here, unless this very content is here already."""
    if not is_remote(place):
        yield Path(place)
        return
    store = Store(place).check()
    content = _read_marker(store, marker)
    folder = cache_root() / "staged" / hashlib.sha256(content).hexdigest()[:32]
    used = folder.with_suffix(".used")
    with locked(used, shared=True):
        os.utime(used)
        if not folder.is_dir():
            with locked(folder.with_suffix(".lock")):
                if not folder.is_dir():
                    _bring(store, marker, content, folder)
        if origin(folder) != place:  # the same content lies in two places; the one asked for last is told
            write_json(folder / ORIGIN, {"uri": place})
        yield folder


def address(folder: Path) -> str:
    """How another process, maybe on another machine, finds a folder that is read: where it was brought from."""
    return origin(folder) or str(Path(folder).resolve())


def origin(folder: Path) -> str | None:
    """The URI that a staged folder was brought from; None for any other folder."""
    try:
        return json.loads((Path(folder) / ORIGIN).read_text(encoding="utf-8"))["uri"]
    except (OSError, ValueError, KeyError):
        return None


def _read_marker(store: Store, marker: str) -> bytes:
    try:
        return store.read(marker)[0]
    except FileNotFoundError:
        what, command = ("data set", "prepare") if marker == MANIFEST else ("bundle", "ensemble")
        raise FileNotFoundError(
            f"No complete {what} at {store.uri}: it has no {marker}. Correct the URI, or make it: `hilum {command}`."
        ) from None


def _bring(store: Store, marker: str, content: bytes, folder: Path) -> None:
    entries = {name: entry for name, entry in store.list().items() if not Path(name).name.startswith(".")}
    make_room(folder.parent, sum(entry.size for entry in entries.values()), store.uri)
    partial = folder.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}")
    try:
        for name, entry in entries.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            store.download(name, path, entry)
        (partial / marker).write_bytes(content)
        _check(parse_json(content, f"{store.uri}/{marker}"), marker, partial, store.uri)
        write_json(partial / ORIGIN, {"uri": store.uri})
        sync_tree(partial)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check(described: Mapping[str, Any], marker: str, root: Path, uri: str) -> None:
    """Compare what was brought with the hashes that the marker holds."""
    for name, digest in _hashes(described, marker).items():
        path = root / name
        if not path.is_file():
            raise InputError(f"{uri} lacks {name}. Copy it there again.")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise InputError(
                f"{name} of {uri} is not what its {marker} describes (SHA-256 {found[:12]}, "
                f"not {digest[:12]}). Copy it there again, or make it anew."
            )


def _hashes(described: Any, marker: str) -> dict[str, str]:
    """SHA-256 by name. In a bundle, of all that names a file and its hash; more is checked by who reads it."""
    if marker == MANIFEST:
        paths = DatasetPaths(Path())
        names = {paths.images: "images_sha256", paths.labels: "labels_sha256"}
        return {str(path): str(described.get(name)) for path, name in names.items()}
    within = described.values() if isinstance(described, dict) else described if isinstance(described, list) else ()
    found = {name: digest for one in within for name, digest in _hashes(one, marker).items()}
    if isinstance(described, dict) and {"file", "sha256"} <= described.keys():
        found[str(described["file"])] = str(described["sha256"])
    return found


def make_room(above: Path, needed: int, uri: str) -> None:
    """Remove what was used longest ago until `needed` bytes fit. Errors: OSError where they cannot."""
    above.mkdir(parents=True, exist_ok=True)
    limit = _limit()
    removable = sorted(above.glob("*.used"), key=lambda path: path.stat().st_mtime)
    while True:
        disk = shutil.disk_usage(above)
        full = needed > disk.free - SPARE * disk.total
        if not full and (limit is None or _size(above) + needed <= limit):
            return
        if not any(_evict(removable.pop(0)) for _ in range(len(removable))):
            break
    if full:
        raise OSError(
            f"{uri} takes {needed / 2**30:.2f} GiB, and {above} has {disk.free / 2**30:.2f} GiB free, with nothing to "
            f"remove that is not in use. Set {VARIABLE} to a folder on a larger disk."
        )
    log.warning("%s holds more than %s allows, since all of it is in use", above, LIMIT)


def _limit() -> float | None:
    text = os.environ.get(LIMIT)
    if not text:
        return None
    try:
        return float(text) * 2**30
    except ValueError:
        raise InputError(f"{LIMIT}={text!r} is not a number of GiB.") from None


def _evict(used: Path) -> bool:
    """Remove one staged folder, unless a living process uses it; True where it made room."""
    with locked(used, wait=False) as mine:
        folder = used.with_suffix("")
        if mine is None or not folder.is_dir():
            return False
        away = folder.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}")
        os.rename(folder, away)  # from here on nobody finds it, even if the removal is cut short
        shutil.rmtree(away, ignore_errors=True)
        return True


def _size(above: Path) -> int:
    return sum(path.stat().st_size for path in above.rglob("*") if path.is_file())
