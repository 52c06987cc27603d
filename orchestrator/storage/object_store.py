"""Object storage: the few operations that everything else is built from, and errors that are sentences.

In: `s3://bucket/folder`, `gs://bucket/folder`. Out: a Store that lists, reads, writes, creates and replaces objects
below that folder. Called by the mirror, the lease, staging and the commands; folders on this machine never come here.

Why obstore: one wheel without dependencies speaks S3, GCS and Azure, retries, loads in parts, and has the two
conditional writes on which attempts and leases rest (create only if absent; replace only if unchanged). pyarrow's
filesystems have neither, and boto3 knows S3 alone and brings six packages. It is an extra, imported where it is used.
"""

import datetime
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from pathologies.errors import InputError

log = logging.getLogger(__name__)
SCHEMES = ("s3", "gs")
PATIENCE = 60.0  # seconds for which a request is tried again while the storage does not answer
SHORT_PATIENCE = 10.0  # the same, where somebody waits for the request's end: Ctrl-C is heard after it
ANSWER_SECONDS = 120.0  # for one answer, the sending of a large file included
SHORT_ANSWER_SECONDS = 30.0
LONGEST_PAUSE = 30.0
PART_BYTES = 16 * 2**20
MOST_PARTS = 9000  # S3 takes 10,000
THREADS = 8
Tag = str  # what an object's content is known by: it changes with every different content


class StorageError(OSError):
    """The storage refused or did not answer. Its text says what, where, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    size: int
    tag: Tag


def is_remote(place: Path | str) -> bool:
    """Whether `place` names object storage; a string with another scheme than ours is refused by `parse_place`."""
    return isinstance(place, str) and place.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def parse_place(text: Path | str) -> Path | str:
    """A Path for a folder on this machine (`file://` too), or the URI of a folder in object storage without a last "/".

    Errors: InputError for another scheme, or a URI without a bucket.
    """
    scheme, separator, rest = str(text).partition("://")
    if isinstance(text, Path) or not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        _refuse_half_uri(str(text))
        return Path(text)
    if scheme == "file":
        if not rest.startswith("/"):
            raise InputError(f"{text!r} names no file of this machine. For example: file:///data/chexpert.")
        return Path(rest)
    if scheme not in SCHEMES:
        raise InputError(
            f"{text!r} starts with {scheme}://. Give a folder, or one of: file://, "
            f"{', '.join(f'{one}://' for one in SCHEMES)}. For example: s3://bucket/folder."
        )
    bucket, _, folder = rest.partition("/")
    if not bucket or not folder.strip("/"):
        missing = "folder" if bucket else "bucket"
        raise InputError(f"{text!r} has no {missing}. It should look like {scheme}://bucket/folder.")
    return f"{scheme}://{bucket}/{re.sub('/+', '/', folder).strip('/')}"


def _refuse_half_uri(text: str) -> None:
    """`s3:/bucket` would otherwise become a folder of this machine, and nobody would look for it there."""
    scheme, separator, rest = text.partition(":")
    if separator and scheme in (*SCHEMES, "file") and not text.startswith(f"{scheme}://"):
        raise InputError(f"{text!r} looks like a URI with too few slashes. Did you mean {scheme}://{rest.strip('/')}?")


def join(place: str, *names: str) -> str:
    return "/".join((place, *names))


def insist(step: Callable[[], Any], seconds: float, ending: threading.Event | None = None) -> Any:
    """What `step` returns, tried again while the storage does not answer.

    Errors: StorageError after so long, or once `ending` is set: then it is tried once more at the most.
    """
    deadline, pause = time.monotonic() + seconds, 1.0
    while True:
        try:
            return step()
        except StorageError as error:
            if time.monotonic() > deadline or (ending and ending.is_set()):
                raise
            log.warning("%s This is tried again.", error)
            if ending:
                ending.wait(pause)
            else:
                time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _in_sentences(function: Callable) -> Callable:
    """Turns what the library raises into StorageError. FileNotFoundError passes: an object may well be absent."""

    @wraps(function)
    def call(store: "Store", *words: Any, **options: Any) -> Any:
        try:
            return function(store, *words, **options)
        except store.library.exceptions.BaseError as error:
            raise StorageError(store.explain(error)) from error

    return call


class Store:
    """One folder of object storage. Safe to use from several threads."""

    def __init__(self, uri: str, patience: float = PATIENCE, answer: float = ANSWER_SECONDS) -> None:
        self.uri = uri
        self.library = _library()
        scheme, _, rest = uri.partition("://")
        bucket, _, prefix = rest.partition("/")
        self.scheme, self.bucket = scheme, bucket
        self.backend = _backend(self.library, scheme, bucket, prefix, patience, answer)

    def check(self) -> "Store":
        """One listing, so that a wrong bucket or missing credentials are told at once. Errors: StorageError."""
        quick = Store(self.uri, patience=5.0)
        quick.list("no-such-folder")
        return self

    @_in_sentences
    def list(self, prefix: str = "") -> dict[str, Entry]:
        """{name: entry} of all objects in the folder `prefix`; names start from this store's folder."""
        found = {}
        for batch in self.library.list(self.backend, prefix=prefix or None):
            for one in batch:
                found[one["path"]] = Entry(size=one["size"], tag=one["e_tag"] or str(one["last_modified"]))
        return found

    @_in_sentences
    def read(self, name: str) -> tuple[bytes, Tag]:
        """Errors: FileNotFoundError."""
        answer = self.library.get(self.backend, name)
        return bytes(answer.bytes()), _tag(answer.meta)

    @_in_sentences
    def write(self, name: str, content: bytes | Path) -> Tag:
        """The object is whole or as it was before. A file is sent in parts. Returns the tag as `list` tells it."""
        if isinstance(content, bytes):
            return self._put(name, content, use_multipart=False)
        part = max(PART_BYTES, content.stat().st_size // MOST_PARTS)
        with content.open("rb") as file:
            return self._put(name, file, chunk_size=part, max_concurrency=THREADS)

    def _put(self, name: str, content: Any, **options: Any) -> Tag:
        try:
            return self.library.put(self.backend, name, content, **options)["e_tag"] or ""
        except FileNotFoundError as error:  # of what is written only the bucket can be missing
            raise StorageError(self.explain(error)) from error

    @_in_sentences
    def append(self, name: str, line: bytes) -> None:
        """Add to a file that others may add to at the same time: nobody's line is lost."""
        while True:
            try:
                before, tag = self.read(name)
            except FileNotFoundError:
                before, tag = b"", None
            whole = before + line
            if (self.create(name, whole) if tag is None else self.replace(name, whole, tag)) is not None:
                return

    @_in_sentences
    def create(self, name: str, content: bytes) -> Tag | None:
        """Write where there is nothing; None where there is something already. Of two at once, one gets None."""
        try:
            return _tag(self.library.put(self.backend, name, content, mode="create"))
        except self.library.exceptions.AlreadyExistsError:
            return None

    @_in_sentences
    def replace(self, name: str, content: bytes, tag: Tag) -> Tag | None:
        """Write where `tag` is still what is there; None where it is not."""
        words = {"e_tag": tag.partition("|")[0]}
        if version := tag.partition("|")[2]:
            words["version"] = version
        try:
            return _tag(self.library.put(self.backend, name, content, mode=words))
        except (self.library.exceptions.PreconditionError, FileNotFoundError):
            return None

    @_in_sentences
    def download(self, name: str, path: Path, entry: Entry) -> None:
        """Into the file `path`, in parts side by side; fails if the object is replaced meanwhile."""
        starts = range(0, entry.size, PART_BYTES)
        with path.open("wb") as file:
            descriptor = file.fileno()

            def fetch(start: int) -> None:
                span = (start, min(start + PART_BYTES, entry.size))
                got = self.library.get(self.backend, name, options={"range": span, "if_match": entry.tag})
                _write_at(descriptor, bytes(got.bytes()), start, span[1])

            if len(starts) == 1:
                return fetch(0)
            with ThreadPoolExecutor(THREADS) as pool:
                for _ in pool.map(fetch, starts):
                    pass

    @_in_sentences
    def delete(self, names: Sequence[str]) -> None:
        """Absent ones are no error."""
        for name in names:
            try:
                self.library.delete(self.backend, name)
            except FileNotFoundError:
                continue

    def explain(self, error: Exception) -> str:
        where = f"{self.scheme}://{self.bucket}"
        kinds = self.library.exceptions
        text = str(error)
        if "NoSuchBucket" in text or isinstance(error, FileNotFoundError):
            return f"There is no bucket {self.bucket!r} at {_endpoint(self.scheme)}. Correct the URI, or make it."
        if isinstance(error, kinds.PreconditionError):
            return f"An object below {self.uri} was replaced while it was read. Give the same command again."
        if isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError):
            return f"{where} refuses these credentials. Check {_CREDENTIALS[self.scheme]}, and what they may do."
        if not any(name in os.environ for name in _SIGNS[self.scheme]):
            return f"No credentials for {where}. Set {_CREDENTIALS[self.scheme]}, or give the machine a role."
        reason = text.partition("\n")[0][:200]
        return f"{_endpoint(self.scheme)} does not answer for {where} ({reason}). Check the network and the endpoint."


def _write_at(descriptor: int, data: bytes, start: int, end: int) -> None:
    """All of it, from `start` to `end`: a disk that fills up takes a part of what it is given without an error."""
    if len(data) != end - start:
        raise StorageError(f"The storage sent {len(data):,} bytes of {end - start:,}. Give the same command again.")
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, end - len(rest))
        rest = rest[written:]


_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
}
_SIGNS = {
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY"),
}


def _library() -> ModuleType:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise InputError("s3:// and gs:// need one more package: pip install 'hilum[storage]'.") from error
    return obstore


def _backend(library: ModuleType, scheme: str, bucket: str, prefix: str, patience: float, answer: float) -> Any:
    seconds = datetime.timedelta
    retry = {
        "max_retries": 100,  # the time decides
        "retry_timeout": seconds(seconds=patience),
        "backoff": {"init_backoff": seconds(milliseconds=100), "max_backoff": seconds(seconds=5), "base": 2},
    }
    client: dict[str, Any] = {"connect_timeout": "5s", "timeout": f"{answer:.0f}s"}
    if scheme == "gs":
        return library.store.GCSStore(bucket, prefix=prefix, client_options=client, retry_config=retry)
    client["allow_http"] = _endpoint("s3").startswith("http://")
    options: dict[str, Any] = {}
    if not {"AWS_REGION", "AWS_DEFAULT_REGION"} & set(os.environ):
        options["region"] = "us-east-1"
    return library.store.S3Store(bucket, prefix=prefix, client_options=client, retry_config=retry, **options)


def _endpoint(scheme: str) -> str:
    if scheme == "gs":
        return "Google Cloud Storage"
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return next((os.environ[name] for name in names if os.environ.get(name)), "Amazon S3")


def _tag(answer: Any) -> Tag:
    """The e-tag, and the version where the storage replaces by that (GCS)."""
    tag, version = answer.get("e_tag") or "", answer.get("version")
    return f"{tag}|{version}" if version else tag
