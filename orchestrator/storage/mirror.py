"""A folder of this machine that mirrors a folder of object storage, so that everything else works on ordinary files.

In: a Store and an empty folder. Out: `pull` brings what is new there, `push` sends what is new here, each in the order
in which a reader may rely on it: what a marker speaks of lies there before the marker, and a checkpoint comes after the
files that it continues. Called by the driver, the training processes and the commands.

A mirror knows what it has seen of each object (its tag) and of each file (its signature), so that nothing is sent or
fetched twice and a file that was removed here is removed there.
"""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from models.files.layout import TEMPORARY_PREFIX
from orchestrator.storage.lease import Lease
from orchestrator.storage.object_store import THREADS, Entry, Store, Tag

MARKERS = ("manifest.json", "bundle.json", "outcome.json")
CHECKPOINT = ".ckpt"
CLAIM = "claim.json"  # in an attempt's folder: who took the number
LOCAL_ONLY = ("run.lock", "merging.lock")
SMALL = (".json", ".jsonl", ".npz", ".toml", ".csv", ".txt")
SMALL_BYTES = 2**20
Signature = tuple[int, int, int]
Wanted = Callable[[str], bool]


def everything(name: str) -> bool:
    return True


def small_files(name: str) -> bool:
    """What a driver reads: no weights, checkpoints or predictions."""
    return name.endswith(SMALL)


def no_checkpoints(name: str) -> bool:
    """What is read of a finished run: attempts only tell their history, and nothing goes on from a shared network."""
    return ("attempts/" not in name and not name.endswith(".ckpt")) or name.endswith(SMALL)


def no_networks(name: str) -> bool:
    """What is read of a finished run to judge its stored predictions."""
    return no_checkpoints(name) and not name.endswith(".safetensors")


@dataclass(kw_only=True)
class Known:
    """An object as this mirror knows it; `signature` is None where it was not fetched."""

    tag: Tag
    signature: Signature | None


class Mirror:
    """Not for several threads at once, except where each one works on folders of its own.

    With a `lease` nothing is sent or removed unless it is held. `sole_writer`: nobody but its holder writes here, so a
    marker or small object that this mirror has not seen is its successor's and stays.
    """

    def __init__(
        self,
        store: Store,
        root: Path,
        wanted: Wanted = everything,
        lease: Lease | None = None,
        sole_writer: bool = False,
    ) -> None:
        self.store, self.root, self.wanted = store, root, wanted
        self.lease, self.sole_writer = lease, sole_writer
        self.known: dict[str, Known] = {}

    def pull(self, folder: str = "") -> list[str]:
        """Fetch what is new or changed in `folder`, markers last; returns the names. Remove what is gone there."""
        listed = self.store.list(folder)
        there = {name: entry for name, entry in listed.items() if not _hidden(name)}
        fetched = []
        for names in _in_turns(name for name, entry in there.items() if self._is_new(name, entry)):
            with _helpers(names) as run:
                list(run(lambda name: self._fetch(name, there[name]), names))
            fetched += names
        for name in [name for name in self.known if _inside(name, folder) and name not in there]:
            known = self.known.pop(name)
            path = self.root / name
            if known.signature is not None and signature(path) == known.signature:
                path.unlink()
        return fetched

    def push(self, folder: str = "", but: tuple[str, ...] = (), removing: bool = True) -> list[str]:
        """Send what is new or changed in `folder`, markers last; with `removing`, remove there what was removed here.

        Files called as in `but` stay here. Returns the names that were sent. Errors: LeaseLost.
        """
        here = {name: path for name, path in self._files(folder) if path.name not in but}
        gone = self._gone(folder, here) if removing else []
        self._forget([name for name in gone if name.endswith(MARKERS)])  # a marker goes before what it speaks of
        changed = [name for name, path in here.items() if self._signature_known(name) != signature(path)]
        with self._held([name for name in changed if name.endswith(CHECKPOINT)]) as held:
            for names in _in_turns(changed):
                with _helpers(names) as run:
                    list(run(lambda name: self._send(name, held.get(name, self.root / name)), names))
        self._forget([name for name in gone if not name.endswith(MARKERS)])
        return changed

    def _is_new(self, name: str, entry: Entry) -> bool:
        known = self.known.get(name)
        if known is not None and known.tag == entry.tag and (known.signature or not self.wanted(name)):
            return False
        if not self.wanted(name):
            self.known[name] = Known(tag=entry.tag, signature=None)
            return False
        return True

    def _fetch(self, name: str, entry: Entry) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{path.name}")
        try:
            self.store.download(name, temporary, entry)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        self.known[name] = Known(tag=entry.tag, signature=signature(path))

    def _send(self, name: str, path: Path) -> None:
        before = signature(path)
        if before is None:  # removed since it was listed
            return
        self._confirm()
        try:
            if self.sole_writer and (before[2] <= SMALL_BYTES or name.endswith(MARKERS)):
                tag = self._write_over_seen(name, path.read_bytes())
            else:
                tag = self.store.write(name, path if before[2] > SMALL_BYTES else path.read_bytes())
        except FileNotFoundError:
            return
        self.known[name] = Known(tag=tag, signature=before)

    def _confirm(self) -> None:
        if self.lease:
            self.lease.confirm()

    def _write_over_seen(self, name: str, content: bytes) -> Tag:
        """Over the object that was seen when it was pulled, or where there was none. Errors: LeaseLost."""
        seen = self.known.get(name)
        if seen is None:
            tag = self.store.create(name, content)
        else:
            now = self._look(name)[1]
            tag = self.store.replace(name, content, now) if _plain(now) == seen.tag else None
        if tag is None:  # a write that is sent twice, its answer having been lost, is refused the second time
            there, now = self._look(name)
            if there != content:
                raise self.lease.loss()
        return _plain(tag or now)

    def _look(self, name: str) -> tuple[bytes | None, Tag]:
        try:
            return self.store.read(name)
        except FileNotFoundError:
            return None, ""

    @contextlib.contextmanager
    def _held(self, names: list[str]) -> Iterator[dict[str, Path]]:
        """Second names for checkpoints as they are now: what is sent before them is then at least as new."""
        held = {}
        try:
            for name in names:
                path = self.root / name
                second = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{path.name}")
                with contextlib.suppress(FileNotFoundError):
                    os.link(path, second)
                    held[name] = second
            yield held
        finally:
            for second in held.values():
                second.unlink(missing_ok=True)

    def _gone(self, folder: str, here: dict[str, Path]) -> list[str]:
        """Objects whose files were removed here; with a claim or an outcome go the objects beside it never fetched."""
        known = [name for name in self.known if _inside(name, folder)]
        gone = [name for name in known if self.known[name].signature and not (self.root / name).exists()]
        beside = {name.rpartition("/")[0] for name in gone if name.endswith((CLAIM, "outcome.json"))}
        more = [name for name in known if not self.known[name].signature and name.rpartition("/")[0] in beside]
        return gone + [name for name in more if name not in here]

    def _forget(self, names: list[str]) -> None:
        if names:
            self._confirm()
            self.store.delete(names)
            for name in names:
                self.known.pop(name, None)

    def _signature_known(self, name: str) -> Signature | None:
        return self.known[name].signature if name in self.known else None

    def _files(self, folder: str) -> Iterator[tuple[str, Path]]:
        above = self.root / folder
        for path in [above] if above.is_file() else sorted(above.rglob("*")):
            name = path.relative_to(self.root).as_posix()
            if path.is_file() and not _hidden(name) and path.name not in LOCAL_ONLY:
                yield name, path


def signature(path: Path) -> Signature | None:
    """What tells one content of a file from the next; None where there is no file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _plain(tag: Tag) -> Tag:
    """As a listing tells it."""
    return tag.partition("|")[0]


def _hidden(name: str) -> bool:
    """A lease, or a file or folder under its temporary name."""
    return name.startswith(".") or "/." in name


def _in_turns(names: Iterable[str]) -> list[list[str]]:
    """Files, then checkpoints, then markers."""
    turns: list[list[str]] = [[], [], []]
    for name in names:
        turns[2 if name.endswith(MARKERS) else name.endswith(CHECKPOINT)].append(name)
    return [turn for turn in turns if turn]


@contextlib.contextmanager
def _helpers(names: list[str]) -> Iterator[Callable]:
    if len(names) == 1:
        yield map
        return
    pool = ThreadPoolExecutor(THREADS)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)  # after an error the others need not be tried


def _inside(name: str, folder: str) -> bool:
    return not folder or name == folder or name.startswith(f"{folder}/")
