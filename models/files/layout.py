"""Every file of a prepared data set, a run and a bundle, and the only ways to write one.

In: a root folder. Out: the path of each file in it (nobody else joins names), and files that are whole or absent.
Called by every stage; standard library only, so that a training process can import it first.
"""

import contextlib
import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pathologies.errors import InputError

TEMPORARY_PREFIX = ".tmp-"
# Folders of a run that are no finding; a user's own finding may not take their names.
RESERVED_SLUGS = ("shared", "trials", "tuned", "heads")


@contextlib.contextmanager
def publishing(path: Path | str) -> Iterator[Path]:
    """A temporary name beside `path`, same suffix; it becomes `path` when the block ends well, else it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{path.name}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` whole or not at all."""
    with publishing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 `text`, newlines as they are, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: object) -> None:
    """Write JSON with sorted keys; NaN and infinities become null, NumPy scalars and arrays plain numbers and lists."""
    write_text(path, json_text(value))


def json_text(value: object) -> str:
    """What `write_json` writes."""
    return json.dumps(to_plain(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path | str) -> dict:
    """The JSON object in `path`. FileNotFoundError when it is absent, InputError when it is not a whole JSON object."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Is {path.parent} the right folder, and was it finished?")
    return parse_json(path.read_bytes(), path)


def parse_json(content: bytes, path: Path | str) -> dict:
    """The JSON object that was read from `path`. InputError when it is not a whole JSON object."""
    path = Path(path)
    try:
        value = json.loads(content.decode("utf-8"))
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError both are
        raise InputError(f"{path} is not whole JSON ({error}). Remove it and run the command that wrote it.") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a JSON {type(value).__name__}; an object was expected.")
    return value


def append_json_line(path: Path | str, value: object) -> None:
    """Append one JSON object as one line, in one write, and sync it. A line torn by a kill is ended first."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(to_plain(value), sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size:
            os.lseek(descriptor, size - 1, os.SEEK_SET)
            line = line if os.read(descriptor, 1) == b"\n" else "\n" + line
        _write_whole(descriptor, line.encode("utf-8"), size)
    finally:
        os.close(descriptor)


def _write_whole(descriptor: int, data: bytes, size: int) -> None:
    """All of it, synced, or none of it: a disk that fills up takes the first half of a line without an error."""
    try:
        if os.write(descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def read_json_lines(path: Path | str) -> list[dict]:
    """The objects of a .jsonl file in order; empty when absent. Lines torn by a kill are left out."""
    path = Path(path)
    if not path.is_file():
        return []
    return parse_json_lines(path.read_text(encoding="utf-8", errors="replace"))


def parse_json_lines(text: str) -> list[dict]:
    """As `read_json_lines`, of a file's text or a part of it."""
    values = []
    for line in filter(None, text.split("\n")):
        with contextlib.suppress(json.JSONDecodeError):
            values.append(json.loads(line))
    return [value for value in values if isinstance(value, dict)]


def to_plain(value: object) -> object:
    """`value` as JSON can say it: mappings, lists, strings, finite numbers, booleans, None."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if hasattr(value, "tolist"):  # a NumPy scalar or array, without importing NumPy
        return to_plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed writer left in `folder`. Only for one who knows that nobody is writing there now."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove `folder` with all that is in it; no reader sees half of it, even if the removal is cut short."""
    away = folder.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}")
    with contextlib.suppress(FileNotFoundError):
        os.replace(folder, away)
        shutil.rmtree(away)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the new name durable. Windows and some network file systems cannot sync a folder; the rename stands."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class _Folder:
    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))


def _below(name: str) -> property:
    """A property that gives the path of `name` in the object's folder."""

    def path(folder: _Folder) -> Path:
        return folder.root / name

    return property(path, doc=name)


class DatasetPaths(_Folder):
    """A prepared data set; complete once `manifest` exists. `shards` and `lock` belong to a prepare under way,
    `merging` to a merge."""

    labels = _below("labels.parquet")
    images = _below("images.u8")
    split = _below("split.csv")
    rejected = _below("rejected.csv")
    manifest = _below("manifest.json")
    shards = _below("shards")
    lock = _below("shards/lock")
    merging = _below("merging.lock")
    all_features = _below("features")  # of frozen encoders, a folder for each

    def features(self, digest: str) -> "FeaturePaths":
        return FeaturePaths(self.all_features / digest)


class FeaturePaths(_Folder):
    """What a frozen encoder says about the films of a data set; complete once `description` exists."""

    features = _below("features.f32")
    encoder = _below("encoder.safetensors")
    description = _below("features.json")
    blocks = _below("blocks")
    lock = _below("blocks/lock")


class AttemptPaths(_Folder):
    """One attempt at training a target."""

    history = _below("history.jsonl")
    checkpoint = _below("last.ckpt")
    previous = _below("previous.ckpt")
    stacks = _below("stacks.txt")
    best = _below("best.safetensors")
    branch = _below("branch.ckpt")
    log = _below("train.log")

    def snapshot(self, epoch: int) -> Path:
        return self.root / f"snapshot-{epoch}.safetensors"

    def snapshots(self) -> list[Path]:
        return sorted(self.root.glob("snapshot-*.safetensors"))

    @property
    def number(self) -> int:
        return int(self.root.name)


class TargetPaths(_Folder):
    """One (target, member) of a run; complete once `outcome` exists."""

    config = _below("config.json")
    targets = _below("targets.npz")
    attempts = _below("attempts")
    weights = _below("weights.safetensors")
    predictions = _below("predictions.parquet")
    branch = _below("branch.ckpt")  # of a shared network: where the findings' own ones begin
    outcome = _below("outcome.json")

    def snapshot(self, epoch: int) -> Path:
        """Further weights of the same training, those of an epoch."""
        return self.root / f"snapshot-{epoch}.safetensors"

    def snapshots(self) -> list[Path]:
        return sorted(self.root.glob("snapshot-*.safetensors"))

    def attempt(self, number: int) -> AttemptPaths:
        return AttemptPaths(self.attempts / str(number))

    def newest_attempt(self) -> AttemptPaths | None:
        """The attempt with the highest number; None before the first."""
        if not self.attempts.is_dir():
            return None
        numbers = [int(path.name) for path in self.attempts.iterdir() if path.name.isdigit()]
        return self.attempt(max(numbers)) if numbers else None

    def new_attempt(self) -> AttemptPaths:
        """Take the next number (from 1) by exclusive create: of two racing processes each gets its own."""
        self.attempts.mkdir(parents=True, exist_ok=True)
        while True:
            newest = self.newest_attempt()
            attempt = self.attempt(newest.number + 1 if newest else 1)
            with contextlib.suppress(FileExistsError):
                attempt.root.mkdir()
                return attempt


class RunPaths(_Folder):
    """A run: one folder per finding, one below it per member."""

    plan = _below("plan.json")
    ledger = _below("ledger.jsonl")
    test_reads = _below("test_reads.jsonl")
    lock = _below("run.lock")

    def folds(self, count: int) -> Path:
        """The fold of every film, of so many."""
        return self.root / f"folds-{count}.csv"

    def shared_members(self) -> list[TargetPaths]:
        """The shared networks that are there, finished or not."""
        folder = self.root / "shared"
        numbers = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
        return [self.shared(number) for number in sorted(numbers)]

    def target(self, slug: str, member: int) -> TargetPaths:
        _check_slug(slug)
        return TargetPaths(self.root / slug / str(member))

    def shared(self, member: int) -> TargetPaths:
        return TargetPaths(self.root / "shared" / str(member))

    def head(self, slug: str, name: str) -> TargetPaths:
        """A head on a frozen encoder; `name` says which encoder and what kind of head."""
        _check_slug(slug)
        return TargetPaths(self.root / "heads" / slug / name)

    def encoder(self, digest: str) -> Path:
        """The weights of the frozen encoder of heads, once for all of them."""
        return self.root / "heads" / f"encoder-{digest}.safetensors"

    def trials(self, slug: str, number: int) -> TargetPaths:
        _check_slug(slug)
        return TargetPaths(self.root / "trials" / slug / str(number))

    def tuned(self, slug: str) -> Path:
        _check_slug(slug)
        return self.root / "tuned" / f"{slug}.toml"


class BundlePaths(_Folder):
    """A multi-label predictor; complete once `bundle` exists."""

    bundle = _below("bundle.json")
    seal = _below("bundle.sha256")  # of `bundle`, as sha256sum writes it and checks it
    selftest = _below("selftest")

    def weights(self, slug: str, member: int | str) -> Path:
        """`member`: its number, for a snapshot with the epoch: `0-7`."""
        _check_slug(slug)
        return self.root / "weights" / f"{slug}-{member}.safetensors"

    def encoder(self, digest: str) -> Path:
        """The weights of a frozen encoder, once for all heads on it; `digest`: of their content."""
        return self.root / "weights" / f"encoder-{digest[:8]}.safetensors"

    def shared_weights(self, member: int, digest: str) -> Path:
        """Of a shared network; bundles with a finding replaced may hold several, so the content is in the name."""
        return self.root / "weights" / f"shared-{member}-{digest[:8]}.safetensors"


def start_file(init: str) -> Path:
    """The weight file that `init` names: a file, or the published weights in a target's folder of a run."""
    path = Path(init)
    candidates = [path, path / "weights.safetensors", path / "0" / "weights.safetensors"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"init={init}: no weights there. Looked for: {', '.join(map(str, candidates))}. "
        "Give RUN/<finding> or RUN/shared of a finished training, or a .safetensors file."
    )


def branch_file(init: str, target: TargetPaths) -> Path:
    """The branch point in the shared network's folder `init`; it need not exist.

    A folder of the same run is named from the run (shared/0), so that the run may be moved; else the path is as it is.
    """
    within = target.root.parent.parent / init
    return TargetPaths(within if within.is_dir() else init).branch


def _check_slug(slug: str) -> None:
    """A slug becomes a folder name: only a plain identifier that is not taken may."""
    if not slug.isidentifier() or slug in RESERVED_SLUGS:
        raise InputError(
            f"'{slug}' cannot name a finding's folder. A slug is lower snake case, and not one of "
            f"{', '.join(RESERVED_SLUGS)}: rename the finding."
        )
