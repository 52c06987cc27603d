"""A prepared data set, opened and checked.

In: the folder that `prepare` completed. Out: its manifest, labels, parts and images, or an error that says what does
not fit. Called by everything that trains on or evaluates a data set.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.data.cache import open_images
from models.files.layout import DatasetPaths, read_json, to_plain
from pathologies.errors import InputError
from pathologies.splits.assignment import check_disjoint, split_hash
from pathologies.table_files import read_parquet_file

FORMAT = "hilum-dataset/1"
SEAL = "manifest_sha256"  # key of the manifest's own hash
SAME_DATA = ("images_sha256", "labels_sha256", "split_hash")  # equal: the same films, labels and parts
ALIKE = ("size", "letterbox", "intensity")  # equal: films that one network can take


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A complete data set. Row i of the frame, entry i of the parts and image i are the same film."""

    manifest: dict[str, Any]
    paths: DatasetPaths

    @property
    def root(self) -> Path:
        return self.paths.root

    def read_labels_frame(self) -> pd.DataFrame:
        """The raw label frame, one row per image."""
        return read_parquet_file(self.paths.labels)

    def parts(self) -> np.ndarray:
        """One part name per image; no patient lies in two parts."""
        return read_split(self.paths)["part"].to_numpy(str)

    def images(self) -> np.memmap:
        """N x size x size uint8, read-only."""
        return open_images(self.root)

    def check_images(self) -> None:
        """Compare the images with their hash in the manifest: one reading of the whole file."""
        _require_hash(self.paths.images, self.manifest["images_sha256"])


def load_dataset(path: Path | str) -> Dataset:
    """Open a data set, with its labels and split compared with the manifest and the images with their size.

    FileNotFoundError when the folder holds no complete data set, InputError when its files do not belong together.
    """
    paths = DatasetPaths(Path(path))
    if not paths.manifest.is_file():
        what = "is not complete: run its prepare again" if paths.shards.is_dir() else "has no manifest.json"
        raise FileNotFoundError(
            f"No prepared data set at {paths.root}: it {what}. Correct the path, or make it: "
            f"`hilum prepare SOURCE --labels FILE --images FOLDER --out {paths.root}`."
        )
    manifest = read_json(paths.manifest)
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{paths.manifest} has format {manifest.get('format')!r}; {FORMAT!r} is read. Prepare it again."
        )
    if manifest.get(SEAL, manifest_hash(manifest)) != manifest_hash(manifest):
        raise InputError(f"{paths.manifest} was changed after it was written. Copy or prepare the data again.")
    _require_hash(paths.labels, manifest["labels_sha256"])
    split = read_split(paths)
    if len(split) != manifest["images"] or split_hash(split, split["part"]) != manifest["split_hash"]:
        raise InputError(f"{paths.split} is not the split that its manifest describes. Copy or prepare the data again.")
    check_disjoint(split, split["part"])
    open_images(paths.root)
    return Dataset(manifest=manifest, paths=paths)


def differing(one: Mapping[str, Any], other: Mapping[str, Any], names: Iterable[str] = SAME_DATA) -> list[str]:
    """Those of `names` of which the two say different things: none where both are of the same data."""
    return [name for name in names if one.get(name) != other.get(name)]


def is_manifest(name: str) -> bool:
    """All that a new data set has to know of what lies where it goes."""
    return name == "manifest.json"


def part_rows(manifest: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """(titles, rows): films, patients and each finding's positives, by part."""
    parts = manifest["parts"]
    rows = [["films", *[part["images"] for part in parts.values()]]]
    rows += [["patients", *[part["patients"] for part in parts.values()]]]
    rows += [[slug, *[part["positives"][slug] for part in parts.values()]] for slug in manifest["findings"]]
    return ["positives by part", *parts], rows


def manifest_hash(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of all that a manifest says but its own hash."""
    plain = {name: value for name, value in manifest.items() if name != SEAL}
    return hashlib.sha256(json.dumps(to_plain(plain), sort_keys=True).encode()).hexdigest()


def read_split(paths: DatasetPaths) -> pd.DataFrame:
    """image_id, patient_id, part; names that look like numbers or like nothing stay names."""
    if not paths.split.is_file():
        raise FileNotFoundError(f"{paths.split} is missing. Copy or prepare the data again.")
    try:
        return pd.read_csv(paths.split, dtype="str", keep_default_na=False)
    except ValueError as error:  # no text, or no table: what pandas raises of both is one
        raise InputError(f"{paths.split} is damaged ({error}). Copy or prepare the data again.") from error


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_hash(path: Path, expected: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Copy or prepare the data again.")
    found = hash_file(path)
    if found != expected:
        raise InputError(
            f"{path} was changed after it was prepared (SHA-256 {found[:12]}, the manifest says {expected[:12]}). "
            "Copy or prepare the data again."
        )
