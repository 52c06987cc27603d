"""Tables from anywhere brought to the same rows: the films, studies or patients that all of them have.

In: Tables, one of them the truth. Out: AlignedTables, row by row. Called by orchestrator.evaluation.compare_tables.
Liberal about how an id is written (prefix, view, suffix, slashes), strict about what it means: two ids never become one
by accident.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from orchestrator.inference.aggregation import aggregate_ids, aggregate_scores, aggregate_truth
from orchestrator.inference.identity import LEVELS, ids_at, recognise
from orchestrator.inference.prediction_tables import Table, patients_note, ways_to_say_in_tables
from pathologies.errors import InputError


@dataclass(frozen=True, kw_only=True)
class AlignedTables:
    """Every table and the truth on the same rows, which are those that all of them have."""

    scores: Mapping[str, pd.DataFrame]
    calls: Mapping[str, pd.DataFrame]
    truth: pd.DataFrame
    patients: pd.Series
    readers: Mapping[str, pd.DataFrame]
    level: str
    notes: tuple[str, ...]


def align(tables: list[Table], truth: Table, readers: list[Table], level: str | None = None) -> AlignedTables:
    """Bring all tables to one level and to the rows that all of them have; the truth's rows decide the patients.

    level: none means the coarsest that a table speaks of: studies as soon as one has studies. Films of a study are
    averaged.
    """
    everyone = [truth, *tables, *readers]
    level = _common_level(everyone, level)
    names = [table.name for table in [*tables, *readers]]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"Two tables are called {repeated[0]!r}; rename one of the files.")
    keys, patients, note = _row_keys(everyone, level)
    rows = pd.Index(sorted(set(keys[0].dropna()).intersection(*[set(one.dropna()) for one in keys[1:]])))
    notes = [note, *_left_out_notes(everyone, keys, rows)]
    key_of = dict(zip((table.name for table in everyone), keys, strict=True))
    return AlignedTables(
        scores={table.name: aggregate_scores(table.values, key_of[table.name]).reindex(rows) for table in tables},
        calls={table.name: _group_calls(table, key_of[table.name]).reindex(rows) for table in tables},
        truth=aggregate_truth(truth.values, keys[0]).reindex(rows),
        patients=patients.reindex(rows),
        readers={
            table.name: aggregate_scores(table.values, key_of[table.name], "max").reindex(rows) for table in readers
        },
        level=level,
        notes=tuple(note for note in notes if note),
    )


def _common_level(tables: list[Table], wanted: str | None) -> str:
    """The level to judge at; InputError where a table has coarser rows than that."""
    if wanted is not None and wanted not in LEVELS:
        raise InputError(f"Unknown level {wanted!r}. Known: {', '.join(LEVELS)}.")
    coarsest = max(tables, key=lambda table: LEVELS.index(table.level))
    if wanted is not None and LEVELS.index(wanted) < LEVELS.index(coarsest.level):
        raise InputError(
            f"{coarsest.name} has a row per {coarsest.level}, so nothing can be judged by {wanted}. "
            f"Leave --level out, or name the column of the {wanted}s by --id."
        )
    if wanted == "study":
        _require_studies(tables)
    return wanted or coarsest.level


def _require_studies(tables: list[Table]) -> None:
    """InputError where studies are asked for of films whose ids do not name them: each would pass for a study."""
    for table in tables:
        nameless = [one for one in table.ids if recognise(one) is None] if table.level == "image" else []
        if nameless:
            raise InputError(
                f"{table.name} has a row per film, and {len(nameless)} of {len(table.ids)} ids name no study, the "
                f"first {nameless[0]!r}. Ids in the layout of CheXpert, MIMIC-CXR or NIH do; else name the column of "
                "the studies by --id, or leave --level out."
            )


def _row_keys(tables: list[Table], level: str) -> tuple[list[pd.Series], pd.Series, str]:
    """(the key of each row of each table, the patient of each key, a note); the first table is the truth.

    For patients, films or studies are matched first and the truth says whose they are.
    """
    below = max((table.level for table in tables), key=LEVELS.index)
    keys = _common_form([ids_at(table.ids, below if level == "patient" else level) for table in tables])
    if keys is None and level == "patient":
        keys = _common_form([ids_at(table.ids, level) for table in tables])
    if keys is None:
        raise _strangers(tables)
    patients, note = patients_of(tables[0], keys[0])
    if level == "patient":
        keys = [key.map(patients) for key in keys]
        patients = aggregate_ids(keys[0], keys[0])
    return keys, patients, note


def _common_form(keys: list[pd.Series]) -> list[pd.Series] | None:
    """The keys in the form that matches most rows: as is, without suffix, file names, file names without suffix.

    A form that makes one key of two (view1.jpg of every patient) is none.
    """
    best, most = None, 0
    for form in (lambda key: key, _without_suffix, _file_name, lambda key: _without_suffix(_file_name(key))):
        shaped = [form(key) for key in keys]
        if any(one.nunique() < key.nunique() for one, key in zip(shaped, keys, strict=True)):
            continue
        meet = [len(set(shaped[0]) & set(other)) for other in shaped[1:]]
        if min(meet) > most:
            best, most = shaped, min(meet)
    return best


def _strangers(tables: list[Table]) -> InputError:
    """Names the first table that shares no row with the truth."""
    truth, *others = ((table, set(_without_suffix(_file_name(table.ids)))) for table in tables)
    apart = next((table for table, names in others if not names & truth[1]), tables[-1])
    ours, theirs = (repr(table.ids.iloc[0]) if len(table.ids) else "nothing" for table in (apart, truth[0]))
    return InputError(f"{apart.name} and the truth share no row: {ours} against {theirs}. Name the column with --id.")


def _file_name(key: pd.Series) -> pd.Series:
    return key.str.replace(r"^.*/", "", regex=True)


def _without_suffix(key: pd.Series) -> pd.Series:
    return key.str.replace(r"\.[A-Za-z]+$", "", regex=True)


def patients_of(truth: Table, key: pd.Series) -> tuple[pd.Series, str]:
    """The patient of each key, and a note of how many there are. InputError where nothing says whose the rows are."""
    if truth.patients is None:
        raise InputError(
            f"Nothing says whose the {len(truth.ids)} rows of the truth are, the first {truth.ids.iloc[0]!r}, so there "
            "are no intervals by patient. " + ways_to_say_in_tables("--patient COLUMN")
        )
    several = truth.patients.groupby(key).nunique() > 1
    if several.any():
        raise InputError(
            f"The truth has {int(several.sum())} ids that rows of several patients share, the first "
            f"{several.index[several][0]!r}. Name a column by --id whose ids tell the patients apart."
        )
    return aggregate_ids(truth.patients, key), patients_note(truth.patients, truth.patients_by)


def _group_calls(table: Table, key: pd.Series) -> pd.DataFrame:
    """The table's own calls: a study is positive if one of its films is."""
    return aggregate_scores(table.calls, key, "max")


def _left_out_notes(tables: list[Table], keys: list[pd.Series], rows: pd.Index) -> list[str]:
    notes = []
    for table, key in zip(tables, keys, strict=True):
        names = pd.unique(key.fillna("(unknown patient)"))
        outside = len(names) - int(np.isin(names, rows).sum())
        if outside:
            notes.append(f"{table.name}: {outside} of {len(names)} rows are not in every table and are left out.")
        if table.ignored:
            notes.append(f"{table.name}: not a finding, ignored: {', '.join(table.ignored)}.")
    return notes
