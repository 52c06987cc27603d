"""Several label frames as one: what `hilum merge A B --out C` does to the labels.

Goes in: the frames of prepared data sets with their parts and the findings that each source labels. Comes out: one
frame with the union of the columns, rows in the order of the inputs, so that the image caches are joined end to end.
A finding that a source does not label is UNKNOWN there and missing from that source's list; either makes it unknown
under every label policy (in merges of before it is NaN there, and the list alone does). Called by
`orchestrator.datasets.merge`, which then looks for films that lie in two parts (`splits.duplicates`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pathologies.errors import InputError
from pathologies.labels.frame import META_COLUMNS, UNKNOWN
from pathologies.splits.assignment import check_disjoint

# Data sets that hold the same films: (one, other, how they hang together).
KNOWN_OVERLAPS = (
    ("nih", "rsna", "the RSNA Pneumonia Detection Challenge (2018) is cut from NIH ChestX-ray14"),
    ("nih", "siim", "the SIIM-ACR Pneumothorax Segmentation set (2019) is cut from NIH ChestX-ray14"),
    ("rsna", "siim", "both are cut from NIH ChestX-ray14"),
    ("chexpert", "chexphoto", "CheXphoto is made of photographs of CheXpert films"),
)
NAMES = ("image_id", "patient_id", "study_id")


@dataclass(frozen=True, kw_only=True)
class MergeInput:
    name: str  # what the user calls it, for messages
    frame: pd.DataFrame  # the label frame
    parts: np.ndarray  # one part per row
    sources: Mapping[str, Sequence[str]]  # source -> findings that it labels


@dataclass(frozen=True, kw_only=True)
class Merged:
    frame: pd.DataFrame
    parts: np.ndarray
    sources: dict[str, tuple[str, ...]]
    findings: tuple[str, ...]
    notes: tuple[str, ...]


def merge_frames(inputs: Sequence[MergeInput]) -> Merged:
    """The frames below one another. Raises InputError for a film or a patient that the inputs contradict each other on.

    Images, patients and studies are called '<source>:<name>', so that equal names of different sources stay apart and
    a patient of one source in two inputs stays one patient.
    """
    if len(inputs) < 2:
        raise InputError(f"{len(inputs)} data set(s) given. Merging needs at least two.")
    for given in inputs:
        _check_input(given)
    notes = overlap_notes(_sources_in(inputs))
    sources = _common_findings(inputs, notes)
    findings = tuple(dict.fromkeys(slug for given in inputs for slugs in given.sources.values() for slug in slugs))
    frame = pd.concat([_prefixed(given.frame) for given in inputs], ignore_index=True)
    frame = frame[[*META_COLUMNS, *findings]]
    frame = frame.astype({name: np.float32 for name in ("no_finding", *findings)})
    for slug in findings:
        labelled = frame["source"].isin([source for source, slugs in sources.items() if slug in slugs])
        frame[slug] = frame[slug].where(labelled, np.float32(UNKNOWN))
    parts = np.concatenate([np.asarray(given.parts, dtype=str) for given in inputs])
    _check_images(inputs, frame)
    check_disjoint(frame, parts)
    for source, slugs in sources.items():
        if unknown := [slug for slug in findings if slug not in slugs]:
            notes.append(f"{source} does not label {', '.join(unknown)}: unknown for all of its images.")
    return Merged(frame=frame, parts=parts, sources=sources, findings=findings, notes=tuple(notes))


def overlap_notes(sources: Sequence[str]) -> list[str]:
    """A sentence for every two of the sources that are known to hold the same films."""
    notes = []
    for one, other, why in KNOWN_OVERLAPS:
        first = [source for source in sources if one in _words(source)]
        second = [source for source in sources if other in _words(source) and source not in first]
        if first and second:
            notes.append(
                f"'{first[0]}' and '{second[0]}' hold the same films: {why}. A film, or a patient under another name, "
                "can lie in two parts: look for duplicates, or leave one of them out."
            )
    return notes


def _words(source: str) -> list[str]:
    return re.split(r"[^a-z]+", source.lower())


def _sources_in(inputs: Sequence[MergeInput]) -> list[str]:
    return list(dict.fromkeys(source for given in inputs for source in given.sources))


def _check_input(given: MergeInput) -> None:
    if len(given.frame) != len(given.parts):
        raise InputError(f"{given.name}: {len(given.frame)} rows and {len(given.parts)} parts.")
    missing = [name for name in META_COLUMNS if name not in given.frame.columns]
    if missing:
        raise InputError(f"{given.name}: the label frame has no column(s) {missing}.")
    unlisted = sorted(set(given.frame["source"]) - set(given.sources))
    if unlisted:
        raise InputError(
            f"{given.name}: rows of source {unlisted}, but it lists the findings of {list(given.sources)}."
        )
    absent = sorted({slug for slugs in given.sources.values() for slug in slugs} - set(given.frame.columns))
    if absent:
        raise InputError(f"{given.name}: it says that it labels {absent}, but has no such column(s).")


def _common_findings(inputs: Sequence[MergeInput], notes: list[str]) -> dict[str, tuple[str, ...]]:
    """source -> findings that it labels in every input that holds it: half a source's labels are no labels."""
    sources: dict[str, tuple[str, ...]] = {}
    for given in inputs:
        for source, slugs in given.sources.items():
            if source not in sources:
                sources[source] = tuple(slugs)
                continue
            partly = sorted(set(sources[source]) ^ set(slugs))
            sources[source] = tuple(slug for slug in sources[source] if slug in slugs)
            if partly:
                notes.append(
                    f"{source} labels {', '.join(partly)} in some of the data sets only: unknown for all its images."
                )
    return sources


def _prefixed(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its names under their source, unless an earlier merge has done so."""
    prefix = frame["source"].astype("str") + ":"
    named = {}
    for column in NAMES:
        values = frame[column].astype("str")
        done = np.array([value.startswith(p) for value, p in zip(values, prefix, strict=True)], bool)
        named[column] = values.where(done, prefix + values)
    return frame.assign(**named)


def _check_images(inputs: Sequence[MergeInput], frame: pd.DataFrame) -> None:
    twice = frame.loc[frame["image_id"].duplicated(), "image_id"]
    if len(twice):
        names = " and ".join(given.name for given in inputs)
        raise InputError(
            f"{len(twice)} image(s) are in more than one of {names}, such as {', '.join(twice.head(5))}. "
            "Leave them out of one."
        )
