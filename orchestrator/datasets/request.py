"""What `hilum prepare` was asked for, and how a manifest says it.

In: the options of the command. Out: a `PrepareRequest`; the part of the manifest that it decides, and how a complete
data set differs from that. Called by the commands and by `orchestrator.datasets.prepare`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.data.intensity import INTENSITY_CONTRACTS, NEWEST, intensity_version
from models.files.layout import read_json, to_plain
from orchestrator.datasets.dataset import FORMAT, hash_file
from pathologies.errors import InputError
from pathologies.splits.assignment import FRACTIONS


@dataclass(frozen=True, kw_only=True)
class PrepareRequest:
    """What `hilum prepare` was asked for."""

    source: str  # a row of pathologies.sources.registry.SOURCES
    labels: Path  # the label file
    images: Path  # the folder of the images
    out: Path  # the data set's folder
    size: int = 320  # side of the prepared images in pixels
    patients: int | None = None  # a random subset of so many patients; none: all
    fractions: tuple[float, ...] = FRACTIONS  # shares of train, select, calibrate, test
    seed: int = 0  # of the subset and of the parts
    fold: tuple[int, int] | None = None  # (i, k): fold i of k is the test part
    official: bool = False  # keep the source's own test set (and validation set) instead of hilum's parts
    shared_split: Path | None = None  # parts that others published (`hilum split share`), with their salt
    salt: str = ""
    findings: Path | None = None  # a folder with pathology files of one's own
    frontal: bool = False  # frontal films only
    first_studies: int | None = None  # of each patient, the first so many studies
    projections: tuple[str, ...] = ()  # only these; none: all
    workers: int | None = None  # decoding threads; none: one per CPU
    max_rejected: float = 0.10  # share of the images that may be unusable
    shard_images: int = 512  # images that a kill can cost
    options: Mapping[str, Any] = field(default_factory=dict)  # of the source
    intensity: int | None = None  # version of the intensity contract; none: the newest, or what a complete one has

    def __post_init__(self) -> None:
        for name, lowest, highest in (("size", 16, 4096), ("patients", 1, None), ("workers", 1, None)):
            value = getattr(self, name)
            if value is not None and (value < lowest or (highest and value > highest)):
                raise InputError(f"{name} is {value}. Allowed: {lowest} {f'to {highest}' if highest else 'or more'}.")
        if sum(map(bool, (self.official, self.fold, self.shared_split))) > 1:
            raise InputError("An official split, a shared split and a fold exclude each other: take one of them.")
        if self.shared_split and not self.shared_split.is_file():
            raise FileNotFoundError(f"No shared split at '{self.shared_split}'. It is made by `hilum split share`.")
        if self.intensity is not None:
            intensity_version({"version": self.intensity})
        if not 0 <= self.max_rejected <= 1:
            raise InputError(f"max_rejected is {self.max_rejected}. Allowed: a share from 0 to 1.")


def describe_request(request: PrepareRequest) -> dict[str, Any]:
    """The part of the manifest that the request decides: what a second prepare is compared with."""
    if not request.labels.is_file():
        raise FileNotFoundError(f"No label file at '{request.labels}'. Give the path of a .csv or .csv.gz file.")
    if not request.images.is_dir():
        raise FileNotFoundError(f"No image folder at '{request.images}'. Give the folder that holds the images.")
    return to_plain(
        {
            "format": FORMAT,
            "source": request.source,
            "label_file_sha256": hash_file(request.labels),
            "size": request.size,
            "letterbox": True,
            "intensity": INTENSITY_CONTRACTS[request.intensity or NEWEST],
            "fractions": request.fractions,
            "seed": request.seed,
            "fold": request.fold,
            "official": request.official,
            "shared_split": read_json(request.shared_split).get("hash") if request.shared_split else None,
            "filters": {
                "patients": request.patients,
                "frontal": request.frontal,
                "first_studies": request.first_studies,
                "projections": request.projections,
            },
            "options": {name: _fingerprint(value) for name, value in request.options.items() if value is not None},
        }
    )


def _fingerprint(value: object) -> object:
    """An option's value; where it names a file, or a folder of lists, the hash of the content instead of the place."""
    path = Path(str(value))
    if path.is_file():
        return f"sha256:{hash_file(path)}"
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.suffix in (".txt", ".csv") and one.is_file())
        lines = "".join(f"{one.name}\t{hash_file(one)}\n" for one in files)
        return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
    return value


def differences(manifest: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """A line for every key of `wanted` of which the manifest says something else."""
    return [
        f"{name}: it has {_short(manifest.get(name))}, asked for {_short(value)}"
        for name, value in wanted.items()
        if manifest.get(name) != value
    ]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
