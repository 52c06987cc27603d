"""Prediction tables and truth tables from anywhere.

In: CSV or Parquet files, one row per film, study or patient, with an id column and any subset of findings under any of
their names. Out: Tables, which orchestrator.evaluation.alignment brings to the same rows. Called by
orchestrator.evaluation.compare_tables for `hilum evaluate --predictions`, and by `hilum adapt` for the labels of a
hospital.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from orchestrator.inference.identity import patients_by_layout, patients_by_pattern
from pathologies.errors import InputError
from pathologies.findings.catalog import find_pathology, load_catalog
from pathologies.findings.pathology import Pathology
from pathologies.labels.frame import UNCERTAIN, UNKNOWN
from pathologies.table_files import read_csv_file, read_parquet_file

ID_NAMES = ("study", "study_id", "path", "image", "image_id", "image index", "imageid", "image_path", "filename")
ID_NAMES += ("file_name", "file", "dicom_path", "dicom_id", "id", "key", "unnamed: 0")
PATIENT_NAMES = ("patient_id", "patient id", "patientid", "patient", "subject_id")
NO_FINDINGS = {"no finding": "no_finding", "support devices": "support_devices"}  # CheXpert's columns beyond findings
CALL = "_positive"  # hilum's own tables carry their calls in <slug>_positive
EACH_ROW = "--each-row-a-patient"
ONE_PATIENT = "All rows are of one patient, so that every interval has the width zero and means nothing."
ANSWER = "_answer"  # and their answers of three kinds in <slug>_answer


@dataclass(frozen=True, kw_only=True)
class Table:
    """One file: scores (or truth) per finding slug, calls where the file has them, and the id of each row."""

    name: str
    id_column: str
    ids: pd.Series
    patient_column: str | None
    patients: pd.Series | None  # none: nothing says whose the rows are
    patients_by: str  # what says so
    values: pd.DataFrame
    calls: pd.DataFrame
    ignored: Mapping[str, str]  # column -> why
    level: str  # what a row is: image, study or patient


@dataclass(frozen=True, kw_only=True)
class Columns:
    """How to read the columns of the files."""

    id_name: str | None = None  # in the tables that have it; else the first of ID_NAMES
    patient_name: str | None = None  # of the truth; else the first of PATIENT_NAMES, else by the ids
    patient_pattern: str | None = None  # a regular expression whose group is the patient in an id of the truth
    each_row_a_patient: bool = False  # the user says so, of a truth of which nothing else tells
    findings: Path | None = None  # a folder with pathologies of one's own


def read_table(path: Path, columns: Columns | None = None, name: str | None = None) -> Table:
    """Read one file; columns that are no finding are set aside with the reason."""
    columns = columns or Columns()
    frame = read_frame(Path(path))
    id_column = _find_column(frame, columns.id_name, (*ID_NAMES, *PATIENT_NAMES))
    if id_column is None:
        have, wanted = ", ".join(map(str, frame.columns)), ", ".join(ID_NAMES[:-1])
        raise InputError(f"{path} has no id column. It has: {have}. Name one with --id, or call it one of: {wanted}.")
    patient_column = _find_column(frame, columns.patient_name, PATIENT_NAMES)
    if frame[id_column].isna().any():
        raise InputError(f"{path}: {frame[id_column].isna().sum()} rows have no {id_column}.")
    catalog = load_catalog(columns.findings)
    values, calls, ignored, origin = {}, {}, {}, {}
    for column in frame.columns.difference([id_column, patient_column], sort=False):
        if str(column).endswith(ANSWER) and str(column).removesuffix(ANSWER) in frame.columns:
            continue
        stem = str(column).removesuffix(CALL)
        slug, reason = _slug_of(stem, catalog)
        target = calls if str(column).endswith(CALL) and stem in frame.columns else values
        if slug is None:
            ignored[str(column)] = reason
        elif slug in target:
            raise InputError(f"{path}: the columns {origin[slug]!r} and {column!r} both mean {slug}. Drop one of them.")
        else:
            origin[slug] = column
            target[slug] = _numbers(frame[column], path)
    ids = _plain_ids(frame[id_column])
    return Table(
        name=name or Path(path).stem,
        id_column=str(id_column),
        ids=ids,
        patient_column=patient_column,
        patients=None
        if patient_column is None
        else frame[patient_column].astype("str").where(frame[patient_column].notna(), ""),
        patients_by="" if patient_column is None else f"the column {str(patient_column)!r}",
        values=pd.DataFrame(values, index=frame.index),
        calls=pd.DataFrame(calls, index=frame.index),
        ignored=ignored,
        level=_level_of(ids, str(id_column)),
    )


def _plain_ids(column: pd.Series) -> pd.Series:
    """Ids as text, forward slashes only; patient1_study1_view1.png becomes patient1/study1/view1.png."""
    ids = column.astype("str").str.strip().str.replace("\\", "/", regex=False).str.rstrip("/")
    ids = ids.str.replace(r"(?i)(patient\w*?\d)[_ -](study\d)", r"\1/\2", regex=True)
    ids = ids.str.replace(r"(?i)(/study\d+)[_ -](?=view)", r"\1/", regex=True)
    return ids.str.replace(r"(?i)(/study\d+)\.[a-z]+$", r"\1", regex=True)


def _level_of(ids: pd.Series, column: str) -> str:
    """What the rows stand for, by the last part of their ids, else by the name of the id column."""
    for level in ("study", "patient"):
        if len(ids) and ids.str.contains(rf"(?i)(?:^|/){level}\d+$", regex=True).all():
            return level
    if "study" in column.casefold():
        return "study"
    return "patient" if column.casefold() in PATIENT_NAMES else "image"


def read_frame(path: Path) -> pd.DataFrame:
    """A Parquet file as it is; a CSV with every cell as text, separated by commas, semicolons or tabs."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {str(path)!r}.")
    if path.suffix == ".parquet":
        return read_parquet_file(path)
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline()
    separator = max(",;\t", key=first.count)
    # As text: an id such as 00000012 must keep its zeros.
    frame = read_csv_file(path, sep=separator, skipinitialspace=True, dtype="str", encoding="utf-8-sig")
    return frame.rename(columns=lambda column: str(column).strip())


def _find_column(frame: pd.DataFrame, named: str | None, known: tuple[str, ...]):
    if named is not None and named in frame.columns:
        return named
    lowered = {str(column).casefold(): column for column in reversed(frame.columns)}
    return next((lowered[name] for name in known if name in lowered), None)


def require_columns(tables: list[Table], truth: Table, columns: Columns) -> None:
    """InputError where a column that was named is nowhere: a typo must not choose another one silently."""
    found = list(dict.fromkeys(table.id_column for table in [truth, *tables]))
    if columns.id_name is not None and columns.id_name not in found:
        raise InputError(f"No table has the column {columns.id_name!r} of --id. Found instead: {', '.join(found)}.")
    if columns.patient_name is not None and truth.patient_column != columns.patient_name:
        raise InputError(f"The truth has no column {columns.patient_name!r}, which --patient names.")


def _slug_of(name: str, catalog: Mapping[str, Pathology]) -> tuple[str | None, str]:
    plain = name.strip().casefold().replace("_", " ")
    if plain in NO_FINDINGS:
        return NO_FINDINGS[plain], ""
    for form in (name, plain):
        try:
            return find_pathology(form, catalog).slug, ""
        except ValueError as error:
            reason = str(error)
    return None, reason


def _numbers(column: pd.Series, path) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    wrong = column[numbers.isna() & column.notna()]
    if len(wrong):
        raise InputError(f"{path}: column {column.name!r} holds {wrong.iloc[0]!r}, which is not a number.")
    if np.isinf(numbers).any():
        raise InputError(f"{path}: column {column.name!r} holds an infinite value.")
    return numbers


def read_truth(path: Path, columns: Columns | None = None, blank_as_zero: bool = False) -> Table:
    """A table whose values are 1, 0, -1 (uncertain), -2 (unknown) or blank; -1 and -2 are left out, and so is blank,
    unless it stands for absent, as in CheXpert's label files.
    """
    table = read_table(path, columns, name="truth")
    values = table.values
    odd = values.where(~values.isin([UNKNOWN, UNCERTAIN, 0, 1])).stack().dropna()
    if len(odd):
        raise InputError(f"{path}: column {odd.index[0][1]!r} holds {odd.iloc[0]:g}. A truth is 1, 0, -1, -2 or blank.")
    known = values.where(values >= 0)
    patients, by = _patients(table, columns or Columns(), path)
    values = known.mask(values.isna(), 0.0) if blank_as_zero else known
    return replace(table, values=values, patients=patients, patients_by=by)


def _patients(table: Table, columns: Columns, path: Path) -> tuple[pd.Series | None, str]:
    """(the patient of each row, what says so): a pattern or a column of the user's, or ids in a known layout."""
    if columns.patient_pattern is not None:
        return patients_by_pattern(table.ids, columns.patient_pattern), "--patient-pattern"
    if columns.each_row_a_patient:
        if table.patients is not None:
            raise InputError(
                f"{path} has the patient column {table.patient_column!r}: leave {EACH_ROW} out, or the column."
            )
        return table.ids.copy(), EACH_ROW
    if table.patients is None:
        return patients_by_layout(table.ids), "their folders and names"
    nobody = table.patients.str.strip() == ""
    if nobody.any():
        raise InputError(
            f"{path}: {int(nobody.sum())} of {len(nobody)} rows have no {table.patient_column}, the first "
            f"{table.ids[nobody].iloc[0]!r}. Fill them in, or leave those rows out."
        )
    return table.patients, table.patients_by


def ways_to_say_in_tables(column: str) -> str:
    """What the user can do about rows of nobody."""
    return (
        f"Name their column by {column}, or give --patient-pattern REGEX, whose group is the patient in an id; ids in "
        "the layout of CheXpert, MIMIC-CXR or NIH say it themselves. Or say that each row is a patient of its own: "
        f"{EACH_ROW}."
    )


def patients_note(patients: pd.Series, by: str) -> str:
    """How many patients there are, and what says so."""
    if by == EACH_ROW:
        return f"Each of the {len(patients):,} rows counts as a patient of its own, as {EACH_ROW} says."
    number = patients.nunique()
    alarm = f" {ONE_PATIENT}" if number == 1 < len(patients) else ""
    return f"{number:,} patient{'' if number == 1 else 's'} in {len(patients):,} labelled rows, by {by}.{alarm}"
