"""Prepared data sets as one: `hilum merge A B --out C`.

In: DATASET folders of one size. Out: a DATASET folder in which a finding that one of them does not label is unknown for
its films; the same film in two parts is dropped from the later one. Called by `hilum merge`.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.files.layout import TEMPORARY_PREFIX, DatasetPaths, publishing, read_json, remove_temporaries, to_plain
from orchestrator.datasets.dataset import ALIKE, FORMAT, Dataset, differing, load_dataset
from orchestrator.datasets.manifest import describe_files, describe_rows, map_images, write_manifest
from orchestrator.datasets.prepare import write_tables
from orchestrator.storage.scratch import locked_alone
from pathologies.errors import InputError
from pathologies.sources.merge import Merged, MergeInput, merge_frames
from pathologies.splits.duplicates import Duplicates, duplicates_between_parts
from pathologies.table_files import read_csv_file

CHUNK = 1024  # films copied at once


def merge(inputs: Sequence[Path], out: Path, on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write the joined data set and return its manifest. InputError for data sets that do not go together.

    After a kill the same command starts again; onto what it has finished it does nothing.
    """
    datasets = [load_dataset(path) for path in inputs]
    _require_alike(datasets)
    paths = DatasetPaths(out)
    _require_usable(paths, datasets)
    merged = merge_frames([_input(dataset) for dataset in datasets])
    for note in merged.notes:
        on_event({"event": "note", "message": note})
    # The lock is the marker: what lies beside it was left by a merge, and whoever holds it may write it again.
    with locked_alone(paths.merging, f"Another hilum merge is working on {paths.root}."):
        if paths.manifest.exists():  # another has just finished it, or this one was killed just after
            _require_usable(paths, datasets)
            manifest = read_json(paths.manifest)
        else:
            remove_temporaries(paths.root)
            manifest = _make(datasets, merged, paths, on_event)
        paths.merging.unlink(missing_ok=True)
    return manifest


def _require_usable(paths: DatasetPaths, datasets: list[Dataset]) -> None:
    """InputError unless the folder is new, or this command has finished it, or a killed merge has left it."""
    there = {path.name for path in paths.root.iterdir()} if paths.root.exists() else set()
    if paths.manifest.exists():
        usable = read_json(paths.manifest).get("merged_from") == to_plain(_origins(datasets))
    else:
        own = {path.name for path in (paths.labels, paths.images, paths.split, paths.rejected, paths.merging)}
        left = paths.merging.name in there
        usable = not there or (left and all(name in own or name.startswith(TEMPORARY_PREFIX) for name in there))
    if not usable:
        raise InputError(f"--out {paths.root} is not empty. Give a new folder.")


def _make(
    datasets: list[Dataset], merged: Merged, paths: DatasetPaths, on_event: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    images_sha256 = _join(datasets, paths.images, np.ones(len(merged.frame), bool))
    images = map_images(paths, len(merged.frame), datasets[0].manifest["size"])
    duplicates = duplicates_between_parts(merged.frame, merged.parts, images)
    rejected = _rejected(datasets, duplicates)
    if not duplicates.keep.all():
        on_event({"event": "note", "message": f"{len(duplicates.dropped)} films lie in an earlier part too: dropped"})
        images_sha256 = _join(datasets, paths.images, duplicates.keep)
    frame, parts = merged.frame[duplicates.keep].reset_index(drop=True), merged.parts[duplicates.keep]
    write_tables(paths, frame, parts, rejected)
    manifest = _describe(datasets, merged, frame, parts)
    return write_manifest(paths, manifest | describe_files(paths, images_sha256, manifest["size"], parts, rejected))


def _input(dataset: Dataset) -> MergeInput:
    return MergeInput(
        name=str(dataset.root),
        frame=dataset.read_labels_frame(),
        parts=dataset.parts(),
        sources=dataset.manifest["sources"],
    )


def _require_alike(datasets: list[Dataset]) -> None:
    first = datasets[0] if datasets else None
    for dataset in datasets[1:]:
        changed = differing(dataset.manifest, first.manifest, ALIKE)
        if changed:
            raise InputError(
                f"{first.root} and {dataset.root} differ in {', '.join(changed)} "
                f"(sizes {first.manifest['size']} and {dataset.manifest['size']}). Prepare them alike first."
            )
        if dataset.manifest["reference_contract"]["closure"] != first.manifest["reference_contract"]["closure"]:
            raise InputError(f"{first.root} and {dataset.root} have different closure settings. Prepare them alike.")


def _join(datasets: list[Dataset], out: Path, keep: np.ndarray) -> str:
    """Copy the kept films of all, in order; returns the SHA-256."""
    digest, at = hashlib.sha256(), 0
    with publishing(out) as temporary, temporary.open("wb") as stream:
        for dataset in datasets:
            images = dataset.images()
            for start in range(0, len(images), CHUNK):
                films = images[start : start + CHUNK]
                data = films[keep[at : at + len(films)]].tobytes()
                at += len(films)
                digest.update(data)
                stream.write(data)
    return digest.hexdigest()


def _rejected(datasets: list[Dataset], duplicates: Duplicates) -> pd.DataFrame:
    tables = [read_csv_file(dataset.paths.rejected, dtype="str", keep_default_na=False) for dataset in datasets]
    return pd.concat([*tables, duplicates.dropped[["image", "reason"]]], ignore_index=True)


def _describe(datasets: list[Dataset], merged: Merged, frame: pd.DataFrame, parts: np.ndarray) -> dict[str, Any]:
    first = datasets[0].manifest
    facts = describe_rows(frame, parts, merged.findings)
    return {
        **facts,
        "format": FORMAT,
        "source": "merged",
        "sources": {name: list(slugs) for name, slugs in merged.sources.items()},
        "merged_from": _origins(datasets),
        **{name: first[name] for name in (*ALIKE, "fractions", "seed", "fold")},
        "label_file_sha256": None,
        "filters": {},
        "dropped": {},
    }


def _origins(datasets: list[Dataset]) -> list[dict[str, Any]]:
    kept = ("labels_sha256", "images_sha256", "split_hash", "source", "fractions", "seed", "fold")
    return [
        {"label_codes": dataset.manifest.get("label_codes"), **{name: dataset.manifest[name] for name in kept}}
        for dataset in datasets
    ]
