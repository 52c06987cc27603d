"""A split that can be given away: which image lies in which part, under salted names.

Goes in: the label frame and its parts. Comes out: a table of salted patient and image names with a content hash, ready
for JSON, which tells nothing about a patient to whom neither the data nor the salt is known. With both, the same parts
are taken over (`apply_split`) or compared (`check_split`). Called by `prepare`.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from pathologies.errors import InputError
from pathologies.splits.assignment import PARTS

FORMAT = "hilum-split/1"
SHORTEST_SALT = 8


def share_split(frame: pd.DataFrame, parts: np.ndarray | pd.Series, salt: str) -> dict:
    """The manifest: format, images and patients per part, rows [patient, image, part] by salted name, and their hash.

    The salt is not in it. Patient names such as 'patient00001' can be guessed from their hash by anyone who has the
    salt, so it goes only to those who may have the data.
    """
    rows = sorted(
        [patient, image, str(part)]
        for patient, image, part in zip(
            _salted(frame["patient_id"], salt), _salted(frame["image_id"], salt), parts, strict=True
        )
    )
    strange = sorted({row[2] for row in rows} - set(PARTS))
    if strange:
        raise InputError(f"Unknown part(s) {strange}. Known: {', '.join(PARTS)}.")
    counts = {part: sum(row[2] == part for row in rows) for part in PARTS}
    return {
        "format": FORMAT,
        "salt_hash": _salt_hash(salt),
        "images": counts,
        "rows": rows,
        "hash": _content_hash(rows),
    }


def apply_split(manifest: Mapping, frame: pd.DataFrame, salt: str) -> np.ndarray:
    """The parts of a shared split for the rows of `frame`, by image; an image that it does not know is an error."""
    _check_manifest(manifest, salt)
    known = {image: part for _, image, part in manifest["rows"]}
    found = [known.get(image) for image in _salted(frame["image_id"], salt)]
    absent = [image for image, part in zip(frame["image_id"], found, strict=True) if part is None]
    if absent:
        raise InputError(
            f"{len(absent)} of {len(frame)} images are not in the shared split, such as {', '.join(absent[:5])}. "
            "Is it a split of the same data set?"
        )
    return np.array(found, dtype=str)


def check_split(manifest: Mapping, frame: pd.DataFrame, parts: np.ndarray | pd.Series, salt: str) -> None:
    """Raise InputError where `parts` are not those of the shared split, naming the first five images that differ."""
    expected = apply_split(manifest, frame, salt)
    differ = np.flatnonzero(expected != np.asarray(parts, dtype=str))
    if len(differ):
        first = "; ".join(
            f"{frame['image_id'].iloc[row]}: {np.asarray(parts)[row]} here, {expected[row]} there" for row in differ[:5]
        )
        raise InputError(f"{len(differ)} of {len(frame)} images lie in other parts than in the shared split ({first}).")
    if len(frame) != len(manifest["rows"]):
        raise InputError(f"The shared split has {len(manifest['rows'])} images, {len(frame)} are here.")


def _check_manifest(manifest: Mapping, salt: str) -> None:
    if manifest.get("format") != FORMAT:
        raise InputError(f"Not a shared split: format {manifest.get('format')!r}, expected {FORMAT!r}.")
    if manifest.get("salt_hash") != _salt_hash(salt):
        raise InputError("The shared split was made with another salt. Ask its authors for theirs.")
    if manifest.get("hash") != _content_hash(manifest["rows"]):
        raise InputError("The shared split does not have the content that its hash states: it was changed or cut off.")


def _salted(names: Iterable[str], salt: str) -> list[str]:
    if len(salt) < SHORTEST_SALT:
        raise InputError(f"A salt of {len(salt)} characters can be guessed. Give {SHORTEST_SALT} or more.")
    key = salt.encode()
    return [hmac.new(key, str(name).encode(), hashlib.sha256).hexdigest()[:32] for name in names]


def _salt_hash(salt: str) -> str:
    return hashlib.sha256(f"{FORMAT}\t{salt}".encode()).hexdigest()[:16]


def _content_hash(rows: list) -> str:
    return hashlib.sha256(json.dumps([list(row) for row in rows], separators=(",", ":")).encode()).hexdigest()
