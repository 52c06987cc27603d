"""From a label file and a folder of X-rays to a data set: decoded once, letterboxed, split by patient.

In: a `PrepareRequest`. Out: DATASET/ with labels.parquet, images.u8, split.csv, rejected.csv and, last, manifest.json;
the same input gives the same bytes. Called by `hilum prepare` and the demo. After a kill the same call goes on from the
finished shards; onto a complete data set it changes nothing, or refuses and shows the difference.
"""

import hashlib
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from models.data.cache import join_shards
from models.data.intensity import NEWEST
from models.files.layout import DatasetPaths, publishing, read_json, remove_temporaries
from orchestrator.datasets.decoding import DecodeRequest, OnEvent, decode_all
from orchestrator.datasets.manifest import describe_files, describe_rows, map_images, remarks, write_manifest
from orchestrator.datasets.request import PrepareRequest, describe_request, differences
from orchestrator.formatting import write_csv
from orchestrator.storage.scratch import locked_alone
from pathologies.errors import InputError
from pathologies.findings.catalog import load_catalog
from pathologies.labels.filters import filter_frame, filter_reasons
from pathologies.sources.common import SourceFrame
from pathologies.sources.registry import find_source, read_labels
from pathologies.splits.assignment import assign_parts, check_disjoint, official_parts
from pathologies.splits.duplicates import Duplicates, duplicates_between_parts
from pathologies.splits.shared_split import apply_split


def prepare(request: PrepareRequest, on_event: OnEvent | None = None) -> dict[str, Any]:
    """Make the data set and return its manifest. InputError or FileNotFoundError say what to put right.

    `on_event` receives {"event": "progress", "done", "total", "rejected"} while decoding, and {"event", "message"}.
    """
    on_event = on_event or (lambda event: None)
    paths = DatasetPaths(request.out)
    identity = describe_request(request)
    if paths.manifest.exists() and not paths.shards.exists():
        return _already_complete(request, paths, identity, on_event)
    _require_usable_folder(paths)
    rows = _choose_rows(request, on_event)  # all that can be wrong with the wish is found before anything is written
    with locked_alone(paths.lock, f"Another prepare is writing {paths.root}."):
        if paths.manifest.exists():  # another prepare has just finished it, or was killed just after
            manifest = _already_complete(request, paths, identity, on_event)
        else:
            remove_temporaries(paths.root)
            remove_temporaries(paths.shards)
            manifest = _make(request, paths, identity, rows, on_event)
    shutil.rmtree(paths.shards, ignore_errors=True)  # another that waited may be removing them too
    return manifest


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """What is to be decoded."""

    source: SourceFrame
    frame: pd.DataFrame  # the rows chosen
    dropped: dict[str, int]  # filter -> rows that it left out
    left_out: pd.DataFrame  # image, reason: those rows
    parts: np.ndarray  # as they are if no row is rejected


def _make(
    request: PrepareRequest, paths: DatasetPaths, identity: dict[str, Any], rows: _Rows, on_event: OnEvent
) -> dict[str, Any]:
    source, frame, parts = rows.source, rows.frame, rows.parts
    decoded = decode_all(_decode_request(request, paths, frame), on_event)
    rejected = _rejected(source, frame, decoded.reasons)
    usable = np.array([not reason for reason in decoded.reasons])
    if not usable.all():
        frame = frame[usable].reset_index(drop=True)
        parts = _assign(request, frame, source)
    check_disjoint(frame, parts)
    on_event({"event": "joining", "message": f"{len(frame)} images decoded, {len(rejected)} rejected; writing them"})
    images_sha256 = join_shards(decoded.shards, paths.images)
    duplicates = _find_duplicates(request, paths, frame, parts, on_event)
    if not duplicates.keep.all():
        images_sha256 = join_shards(decoded.shards, paths.images, duplicates.keep)
        frame, parts = frame[duplicates.keep].reset_index(drop=True), parts[duplicates.keep]
        rejected = pd.concat([rejected, duplicates.dropped[["image", "reason"]]], ignore_index=True)
    write_tables(paths, frame, parts, pd.concat([rejected, rows.left_out], ignore_index=True))
    facts = describe_rows(frame, parts, source.findings)
    facts |= describe_files(paths, images_sha256, request.size, parts, rejected) | {"dropped": rows.dropped}
    for note in remarks(frame, parts, facts):
        on_event({"event": "note", "message": note})
    return write_manifest(paths, identity | facts)


def _find_duplicates(
    request: PrepareRequest, paths: DatasetPaths, frame: pd.DataFrame, parts: np.ndarray, on_event: OnEvent
) -> Duplicates:
    """The same film in two parts, listed, and to be dropped from the later part."""
    duplicates = duplicates_between_parts(frame, parts, map_images(paths, len(frame), request.size))
    if len(duplicates.dropped):
        names = frame["image_id"].to_numpy(str)
        pairs = [f"{names[one]} ({parts[one]}) and {names[two]} ({parts[two]})" for one, two in
                 duplicates.pairs[["first", "second"]].head(5).to_numpy(int)]  # fmt: skip
        message = f"{len(duplicates.dropped)} images are dropped, since the same film lies in an earlier part: "
        on_event({"event": "note", "message": message + "; ".join(pairs)})
    return duplicates


def _already_complete(
    request: PrepareRequest, paths: DatasetPaths, identity: dict[str, Any], on_event: OnEvent
) -> dict[str, Any]:
    manifest = read_json(paths.manifest)
    if request.intensity is None:  # it keeps the version that was the newest when it was made
        identity = identity | {"intensity": manifest["intensity"]}
    changed = differences(manifest, identity)
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        raise InputError(
            f"{paths.root} is a complete data set, and was prepared otherwise:\n{lines}\n"
            "A complete data set is not changed: give another --out, or remove it first."
        )
    on_event({"event": "complete", "message": f"{paths.root} is complete already; nothing to do"})
    if "label_codes" not in manifest and find_source(manifest["source"]).says_unknown:
        message = "it was made when what the source cannot say was read as not mentioned, and keeps that meaning; "
        on_event({"event": "note", "message": message + "to have it as unknown, prepare it again into another --out"})
    return manifest


def _require_usable_folder(paths: DatasetPaths) -> None:
    """A data set goes into a new folder, or on in its own: nothing of anyone else's is mixed with it."""
    if paths.root.exists() and not paths.root.is_dir():
        raise InputError(f"--out {paths.root} is a file. Give a new folder.")
    if not paths.root.is_dir() or paths.shards.is_dir():
        return
    foreign = sorted(path.name for path in paths.root.iterdir())
    if foreign:
        raise InputError(
            f"--out {paths.root} holds {', '.join(foreign[:5])}{' ...' if len(foreign) > 5 else ''} and is no "
            "data set. Give a new or empty folder."
        )


def _choose_rows(request: PrepareRequest, on_event: OnEvent) -> _Rows:
    """The rows that pass the filters and belong to the drawn patients, their parts, and how many were left out."""
    source = read_labels(
        request.source, request.labels, request.images, catalog=load_catalog(request.findings), **request.options
    )
    for note in source.notes:
        on_event({"event": "note", "message": note})
    filters = {"frontal": request.frontal, "first_studies": request.first_studies, "projections": request.projections}
    frame, dropped = filter_frame(source.frame, **filters)
    reason = filter_reasons(source.frame, **filters)
    if request.patients is not None:
        chosen = frame["patient_id"].isin(draw_patients(frame["patient_id"], request.patients, request.seed))
        dropped = dropped | {"patients": int((~chosen).sum())}
        reason[np.flatnonzero(reason == "")[~chosen.to_numpy()]] = "patients"
        frame = frame[chosen].reset_index(drop=True)
    patients = frame["patient_id"].nunique()
    message = f"{len(frame)} images of {patients} patients chosen out of {len(source.frame)}"
    on_event({"event": "rows", "message": message})
    if request.patients is not None and patients < request.patients:
        message = f"{request.patients} patients were asked for; there are {patients}"
        on_event({"event": "note", "message": message})
    left_out = pd.DataFrame(
        {"image": source.frame["image_id"], "reason": "not chosen: " + pd.Series(reason, dtype="str")}
    )
    return _Rows(
        source=source,
        frame=frame,
        dropped=dropped,
        left_out=left_out[reason != ""],
        parts=_assign(request, frame, source),
    )


def draw_patients(patients: pd.Series, count: int, seed: int) -> set[str]:
    """A random subset that depends on the seed and the names alone: 100 patients are among the 200 of the same seed."""
    names = patients.unique()
    drawn = sorted(names, key=lambda name: hashlib.sha256(f"subset\t{seed}\t{name}".encode()).digest())
    return set(drawn[:count])


def _assign(request: PrepareRequest, frame: pd.DataFrame, source: SourceFrame) -> np.ndarray:
    if frame.empty:
        raise InputError(f"No image of {request.labels} is left to use. Ask for fewer filters, or check the files.")
    if request.shared_split:
        return apply_split(read_json(request.shared_split), frame, request.salt)
    if request.official:
        return official_parts(frame, source.findings, fractions=request.fractions, seed=request.seed)
    return assign_parts(frame, source.findings, fractions=request.fractions, seed=request.seed, fold=request.fold)


def _decode_request(request: PrepareRequest, paths: DatasetPaths, frame: pd.DataFrame) -> DecodeRequest:
    return DecodeRequest(
        image_ids=frame["image_id"].tolist(),
        files=[request.images / path for path in frame["path"]],
        size=request.size,
        folder=paths.shards,
        workers=request.workers,
        shard_images=request.shard_images,
        max_rejected=request.max_rejected,
        intensity=request.intensity or NEWEST,
    )


def _rejected(source: SourceFrame, frame: pd.DataFrame, reasons: list[str]) -> pd.DataFrame:
    """Rows without a usable film: those that the source's reader left out, then those that could not be decoded."""
    undecoded = pd.DataFrame({"image": frame["image_id"], "reason": reasons})
    return pd.concat([source.dropped, undecoded[undecoded["reason"] != ""]], ignore_index=True)


def write_tables(paths: DatasetPaths, frame: pd.DataFrame, parts: np.ndarray, rejected: pd.DataFrame) -> None:
    """labels.parquet, split.csv and rejected.csv."""
    with publishing(paths.labels) as temporary:
        frame.to_parquet(temporary, index=False)
    write_csv(frame[["image_id", "patient_id"]].assign(part=parts), paths.split, lineterminator="\n")
    write_csv(rejected[["image", "reason"]], paths.rejected, lineterminator="\n")
