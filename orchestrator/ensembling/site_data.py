"""A hospital's own labelled films, read and run through a bundle's networks.

In: a table (path, patient, findings) and the folder of its images. Out: SiteFilms: logits, truth and patients of the
films that count, and why each other one does not. Called by adapt.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from orchestrator.datasets.dataset import hash_file
from orchestrator.inference.bundle import Bundle
from orchestrator.inference.films import PATH_COLUMNS, decoded_batches
from orchestrator.inference.identity import tagged
from orchestrator.inference.prediction_tables import (
    Columns,
    Table,
    patients_note,
    read_frame,
    read_truth,
    ways_to_say_in_tables,
)
from pathologies.errors import InputError

VIEW_COLUMNS = ("view", "Frontal/Lateral", "View Position", "ViewPosition", "view_position")
FRONTAL, LATERAL = ("frontal", "ap", "pa"), ("lateral", "ll", "rl")


@dataclass(frozen=True, kw_only=True)
class SiteRequest:
    """Which films, and how their table is to be read."""

    labelled: Path | None = None  # a table: path, patient, findings
    images: Path | None = None  # none: the folder of the table
    path_column: str | None = None
    patient_column: str | None = None
    patient_pattern: str | None = None
    each_row_a_patient: bool = False
    blank_as_zero: bool = False
    findings: Path | None = None


@dataclass(frozen=True, kw_only=True)
class SiteFilms:
    """Row by row the films that count."""

    logits: np.ndarray  # films x findings of the bundle, blended, before calibration
    truth: pd.DataFrame  # the findings of the bundle that the table has; 1, 0, NaN
    patients: np.ndarray
    listing: pd.DataFrame  # every row of the table: path, sha256 of the file, counted, reason
    notes: tuple[str, ...]


def read_site_films(bundle: Bundle, request: SiteRequest, on_progress: Callable[[int, int], None]) -> SiteFilms:
    """InputError / FileNotFoundError where table, folder and bundle do not fit together."""
    frame = read_frame(request.labelled)
    column = _path_column(frame, request)
    columns = Columns(
        id_name=column,
        patient_name=request.patient_column,
        patient_pattern=request.patient_pattern,
        each_row_a_patient=request.each_row_a_patient,
        findings=request.findings,
    )
    table = read_truth(request.labelled, columns, request.blank_as_zero)
    if request.patient_column and table.patient_column != request.patient_column:
        raise InputError(f"{request.labelled} has no column {request.patient_column!r}. It has: {_names(frame)}.")
    slugs = [slug for slug in bundle.slugs if slug in table.values and table.values[slug].notna().any()]
    if not slugs:
        raise InputError(f"{request.labelled} labels none of the bundle's findings: {', '.join(bundle.slugs)}.")
    paths = frame[column].astype("str").tolist()
    reasons = _unwanted_views(frame, paths, bundle.description["input"]["views"])
    files = find_files(paths, request.images or request.labelled.parent, reasons)
    patients, by = _patients(table, files, request)  # refuses before the work
    moved = sum(_below(request.images or request.labelled.parent, _parts(paths[row])) is None for row in files)
    logits, read = _logits(bundle, files, on_progress)
    reasons = {row: reason for row, reason in (reasons | read).items() if reason}
    counted = np.array([row not in reasons for row in range(len(paths))])
    if not counted.any():
        raise InputError(f"None of the {len(paths)} films can be used. The first: {paths[0]}: {reasons[0]}.")
    listing = pd.DataFrame({
        "path": paths,
        "sha256": [hash_file(files[row]) if row in files and files[row].is_file() else "" for row in range(len(paths))],
        "counted": counted,
        "reason": [reasons.get(row, "") for row in range(len(paths))],
    })  # fmt: skip
    notes = [f"{int(counted.sum())} of {len(paths)} films of {request.labelled.name} count."]
    if moved:
        notes.append(f"{moved} of them are not at their path, and were found by the end of it, which is unique.")
    notes.append(patients_note(patients[counted], by))
    notes += [f"Left out: {count} ({reason})." for reason, count in _tally(listing)]
    return SiteFilms(
        logits=logits,
        truth=table.values.loc[counted, slugs].reset_index(drop=True),
        patients=patients[counted].to_numpy(str),
        listing=listing,
        notes=tuple(notes),
    )


def _path_column(frame: pd.DataFrame, request: SiteRequest) -> str:
    if request.path_column is None:
        lowered = {str(name).casefold(): str(name) for name in reversed(frame.columns)}
        found = next((lowered[name.casefold()] for name in PATH_COLUMNS if name.casefold() in lowered), None)
        hint = f"Name it with --path-column, or call it one of: {', '.join(PATH_COLUMNS)}."
    else:
        found = request.path_column if request.path_column in frame.columns else None
        hint = "--path-column names one that is not there."
    if found is None:
        raise InputError(f"{request.labelled} has no path column. It has: {_names(frame)}. {hint}")
    if frame[found].isna().any():
        raise InputError(f"{request.labelled}: {frame[found].isna().sum()} rows have no {found}.")
    return found


def _names(frame: pd.DataFrame) -> str:
    return ", ".join(map(str, frame.columns))


def _unwanted_views(frame: pd.DataFrame, paths: list[str], views: list[str]) -> dict[int, str]:
    """{row: reason} of the films whose view the networks were not trained for; by column, else by the file's name."""
    if "all" in views:
        return {}
    column = next((name for name in VIEW_COLUMNS if name in frame.columns), None)
    told = [Path(path).stem for path in paths] if column is None else frame[column].fillna("").astype("str").tolist()
    reasons = {}
    for row, text in enumerate(told):
        word = text.strip().casefold()
        lateral = word in LATERAL if column is not None else word.endswith("lateral")
        frontal = word in FRONTAL if column is not None else word.endswith("frontal")
        if (lateral and "lateral" not in views) or (frontal and "frontal" not in views):
            reasons[row] = f"not a {' or '.join(views)} view"
    return reasons


def _patients(table: Table, files: dict[int, Path], request: SiteRequest) -> tuple[pd.Series, str]:
    """(the patient of each row, what says so); where the table does not tell, the DICOM files do, or it is refused."""
    if table.patients is not None:
        return table.patients, table.patients_by
    told = {row: tagged(file, "patient") for row, file in files.items()}
    nobody = [str(files[row]) for row, name in told.items() if name is None]
    if nobody:
        raise InputError(
            f"Nothing says whose {len(nobody)} of the {len(files)} films of {request.labelled} are, the first "
            f"{nobody[0]!r}, so none can be kept out of the fit that judges it. "
            + ways_to_say_in_tables("--patient-column COLUMN")
        )
    return pd.Series(told, dtype="object").reindex(table.ids.index).fillna("").astype("str"), "the DICOM tag PatientID"


def find_files(paths: list[str], folder: Path, reasons: dict[int, str]) -> dict[int, Path]:
    """{row: file}, each row's path below the folder; what is not found, or not for certain, gets its reason.

    Where there is no such file, one end of a path may stand for the other: a row that names more folders than lie below
    `folder` (a/b/1.png for b/1.png), or fewer (1.png for a/1.png), if nothing else in the table or in the folder could
    be meant. Folders that differ are two films. Twice the same film is one.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}. Say where the images lie with --images.")
    wanted = {row: _parts(text) for row, text in enumerate(paths) if row not in reasons}
    found = {row: file for row, parts in wanted.items() if (file := _below(folder, parts)) is not None}
    rest = {row: parts for row, parts in wanted.items() if row not in found}
    if rest:
        found |= _by_ends(rest, set(found.values()), folder, reasons)
    files: dict[int, Path] = {}
    seen: set[Path] = set()
    for row in sorted(found):
        if found[row] in seen:
            reasons[row] = "the same file as a row above"
        else:
            files[row] = found[row]
            seen.add(found[row])
    return files


def _by_ends(
    rest: dict[int, tuple[str, ...]], taken: set[Path], folder: Path, reasons: dict[int, str]
) -> dict[int, Path]:
    """The files of rows whose path leads to none, where exactly one path of the table can mean exactly one file."""
    named: dict[str, list[tuple[str, ...]]] = {}
    for root, _, names in os.walk(folder):
        above = Path(root).relative_to(folder).parts
        for name in names:
            named.setdefault(name, []).append((*above, name))
    meant: dict[int, list[tuple[str, ...]]] = {}
    claims: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for row, parts in rest.items():
        meant[row] = [one for one in named.get(parts[-1], []) if _one_ends_the_other(parts, one)]
        for one in meant[row]:
            claims.setdefault(one, set()).add(parts)
    found = {}
    for row, parts in rest.items():
        files = meant[row]
        if len(files) > 1:
            reasons[row] = "more than one file of this name below the folder of the images: give its path"
        elif not files and parts[-1] in named:
            reasons[row] = "no such file below the folder of the images; one of this name lies in another folder"
        elif not files:
            reasons[row] = "no such file below the folder of the images"
        elif len(claims[files[0]]) > 1 or folder.joinpath(*files[0]) in taken:
            reasons[row] = "a file of this name that another row of the table can mean too: give its path"
        else:
            found[row] = folder.joinpath(*files[0])
    return found


def _parts(text: str) -> tuple[str, ...]:
    """The folders and the name of a path of a table, with either slash."""
    return Path(text.strip().replace("\\", "/")).parts or ("",)


def _below(folder: Path, parts: tuple[str, ...]) -> Path | None:
    """The file of a path from `folder` on, or from a folder above it whose names the path repeats."""
    above = folder.absolute().parts
    for start in range(len(parts)):
        if parts[:start] == above[len(above) - start :] and (file := folder.joinpath(*parts[start:])).is_file():
            return file
    return None


def _one_ends_the_other(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    short = min(len(one), len(other))
    return one[-short:] == other[-short:]


def _logits(bundle: Bundle, files: dict[int, Path], on_progress) -> tuple[np.ndarray, dict[int, str]]:
    """(logits of the readable films in the order of the rows, {row: why it cannot be read})."""
    blocks, reasons, done = [np.zeros((0, len(bundle.slugs)))], {}, 0
    for batch in decoded_batches(list(files.items()), bundle.size, bundle.intensity, os.cpu_count() or 1):
        films = []
        for row, film in batch:
            if isinstance(film, str):
                reasons[row] = film
            else:
                films.append(film)
        if films:
            blocks.append(bundle.logits(np.stack(films)))
        done += len(batch)
        on_progress(done, len(files))
    return np.concatenate(blocks), reasons


def _tally(listing: pd.DataFrame) -> list[tuple[str, int]]:
    out = listing.loc[~listing["counted"], "reason"]
    return [(str(reason), int(count)) for reason, count in out.value_counts().items()]
