"""What every label reader shares: the frame that it fills, reading tables by column name, and finding image files.

Goes in: a CSV file (gzipped or not) and, where it is at hand, the folder of its images. Comes out: columns of the label
frame, or an error that names file, row, what was found and what is allowed. Called by the readers beside it.
"""

import os
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from pathologies.errors import InputError, nearest
from pathologies.labels.frame import META_COLUMNS

RAW_VALUES = "1, 0, -1 (uncertain) or empty (not mentioned)"
MOST_AGE = 120.0
UNREADABLE = (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError, EOFError, OSError, zlib.error)


@dataclass(frozen=True, kw_only=True)
class SourceFrame:
    frame: pd.DataFrame  # META_COLUMNS, then a float32 column per finding, coded as LABEL_CODES; one row per image
    findings: tuple[str, ...]  # slugs that the source labels, in the catalogue's order
    dropped: pd.DataFrame  # columns image, reason: rows of the label file that are not in the frame
    notes: tuple[str, ...]  # what was read otherwise than it is written, in sentences


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    labels: Path  # the label file
    images: Path | None  # the folder of the images; without it paths stay as the label file implies them
    names: Mapping[str, Sequence[str]]  # slug -> how this source writes it
    options: Mapping[str, object] = field(default_factory=dict)  # the options that the source's row of SOURCES lists


def read_table(path: Path, *, columns: Iterable[str] | None = None, text: Iterable[str] = ()) -> pd.DataFrame:
    """A CSV file, gzipped if its name ends in .gz; only the empty cell is missing; columns in `text` stay strings."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No label file at '{path}'. Give the path of a .csv or .csv.gz file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header would shift columns
            table = pd.read_csv(
                path,
                index_col=False,
                dtype={name: "str" for name in text},
                keep_default_na=False,
                na_values=[""],
                low_memory=False,
            )
    except (*UNREADABLE, pd.errors.ParserWarning) as error:
        raise InputError(f"'{path}' cannot be read as a CSV table: {error}") from error
    return table if columns is None else table[list(dict.fromkeys(columns))]


def read_columns(path: Path, names: Mapping[str, Sequence[str]], *, text: Iterable[str] = ()) -> pd.DataFrame:
    """The columns of a CSV file that `names` (key -> possible names) asks for, under their keys; `text` has keys."""
    header = header_of(path)
    found = {key: find_column(header, list(aliases), path) for key, aliases in names.items()}
    table = read_table(path, columns=found.values(), text=[found[key] for key in text])
    return table.rename(columns={column: key for key, column in found.items()})


def header_of(path: Path) -> list[str]:
    """The column names of a CSV file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No label file at '{path}'. Give the path of a .csv or .csv.gz file.")
    try:
        return [str(name) for name in pd.read_csv(path, nrows=0).columns]
    except UNREADABLE as error:
        raise InputError(f"'{path}' cannot be read as a CSV table: {error}") from error


def plain(name: str) -> str:
    """A name without the differences that do not matter: case, underscores, spaces at the ends and doubled."""
    return " ".join(str(name).replace("_", " ").casefold().split())


def find_column(header: Sequence[str], names: Sequence[str], path: Path, *, required: bool = True) -> str | None:
    """The one column of `header` that is called by one of `names`; None if it may be absent and is."""
    wanted = {plain(name) for name in names}
    found = [column for column in header if plain(column) in wanted]
    if len(found) > 1:
        raise InputError(f"{path}: the columns {found} all mean {names[0]!r}. Keep one of them.")
    if found:
        return found[0]
    if not required:
        return None
    hint = nearest(names[0], header, "Did the file mean")
    raise InputError(f"{path}: no column {' or '.join(map(repr, names))}.{hint} The file has: {', '.join(header)}.")


def finding_columns(header: Sequence[str], names: Mapping[str, Sequence[str]], path: Path) -> dict[str, str]:
    """slug -> column of the file; every finding of `names` must be there."""
    if not names:
        raise InputError(f"{path}: no finding of the catalogue has a name in this source, so nothing can be read.")
    return {slug: find_column(header, list(aliases), path) for slug, aliases in names.items()}


def raw_values(column: pd.Series, path: Path) -> np.ndarray:
    """A label column as float32; anything but 1, 0, -1 and empty is an error with its line."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float32, na_value=np.nan)
    bad = (column.notna().to_numpy() & np.isnan(numbers)) | ~(np.isin(numbers, (1, 0, -1)) | np.isnan(numbers))
    refuse_values(column, bad, path, RAW_VALUES)
    return numbers


def mapped(column: pd.Series, table: Mapping[str, str], path: Path) -> np.ndarray:
    """The cells of a column through a literal table; empty is ''; a cell that is not in the table is an error."""
    values = column.map(dict(table))
    refuse_values(column, (values.isna() & column.notna()).to_numpy(), path, ", ".join(map(repr, table)) + " or empty")
    return values.fillna("").to_numpy(dtype=object)


def mapped_or_noted(column: pd.Series, table: Mapping[str, str], notes: list[str]) -> np.ndarray:
    """As `mapped`, for columns that no label hangs on: other values become '' and are counted in a note."""
    values = column.map(dict(table))
    other = (values.isna() & column.notna()).to_numpy()
    if other.any():
        kinds = ", ".join(map(repr, sorted(column[other].astype("str").unique())[:5]))
        notes.append(f"{other.sum()} values of '{column.name}' ({kinds}) read as unknown.")
    return values.fillna("").to_numpy(dtype=object)


def refuse_values(column: pd.Series, bad: np.ndarray, path: Path, allowed: str) -> None:
    """Stop at cells that mean nothing here, naming the first five lines of the file that hold one."""
    if not bad.any():
        return
    rows = np.flatnonzero(bad)
    found = column.iloc[rows[:5]].tolist()
    cells = "; ".join(f"line {row + 2}: {cell!r}" for row, cell in zip(rows, found, strict=False))
    raise InputError(
        f"{path}: column '{column.name}' holds {len(rows)} unknown value(s) ({cells}). "
        f"Allowed: {allowed}. Correct the file or map its values with the source 'table'."
    )


def years(column: pd.Series, notes: list[str], *, unknown_zero: bool = False) -> np.ndarray:
    """Ages in years as float32: 58, '058Y', '010M', '004D'; what no living person can be is NaN, and noted.

    `unknown_zero`: the source writes 0 where it does not know the age.
    """
    if pd.api.types.is_numeric_dtype(column):
        age = column.to_numpy(np.float32, na_value=np.nan).copy()
    else:
        parts = column.str.extract(r"^\s*(\d+(?:\.\d+)?)\s*([YyMmWwDd]?)\s*$")
        unit = parts[1].str.upper().map({"Y": 1.0, "": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25})
        age = (pd.to_numeric(parts[0]) * unit).to_numpy(np.float32, na_value=np.nan)
    impossible = (age < 0) | (age > MOST_AGE) | (np.isnan(age) & column.notna().to_numpy())
    if impossible.any():
        example = column.to_numpy()[np.flatnonzero(impossible)[0]]
        notes.append(f"{impossible.sum()} ages outside 0 to {MOST_AGE:.0f} years (such as {example}) read as unknown.")
    age[impossible] = np.nan
    if unknown_zero and (zero := age == 0).any():
        notes.append(f"{zero.sum()} ages of 0 read as unknown.")
        age[zero] = np.nan
    return age


def refuse_duplicates(ids: pd.Series, path: Path) -> None:
    """Every image stands in a label file once."""
    twice = ids[ids.duplicated()]
    if len(twice):
        first = ", ".join(twice.unique()[:5])
        raise InputError(f"{path}: {len(twice)} image(s) are listed more than once ({first}). Keep one row of each.")


def build_frame(columns: Mapping[str, object], findings: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The label frame from its columns; what a source does not know is '' or NaN."""
    frame = pd.DataFrame(dict(columns))
    for name in META_COLUMNS:
        if name in ("age", "no_finding"):
            values = frame[name] if name in frame else pd.Series(np.nan, index=frame.index)
            frame[name] = values.astype(np.float32)
        else:
            frame[name] = (frame[name] if name in frame else pd.Series("", index=frame.index)).astype("str")
    labels = pd.DataFrame({slug: np.asarray(v, np.float32) for slug, v in findings.items()}, index=frame.index)
    return pd.concat([frame[list(META_COLUMNS)], labels], axis=1)


def without_empty(labels: Mapping[str, np.ndarray], path: Path, notes: list[str]) -> dict[str, np.ndarray]:
    """The findings that at least one row says something about; the others get no column, and a note."""
    empty = [slug for slug, values in labels.items() if np.isnan(values).all()]
    if len(empty) == len(labels):
        raise InputError(f"{path}: every label cell of {', '.join(labels)} is empty, so there is nothing to learn.")
    if empty:
        notes.append(f"Empty in every row, so without a column: {', '.join(empty)}.")
    return {slug: values for slug, values in labels.items() if slug not in empty}


def nothing_dropped() -> pd.DataFrame:
    return pd.DataFrame({"image": pd.Series(dtype="str"), "reason": pd.Series(dtype="str")})


def drop_rows(image: pd.Series, bad: np.ndarray, reason: str) -> pd.DataFrame:
    """The rows of `image` that are left out, with the reason for all of them."""
    return pd.DataFrame({"image": image[bad].astype("str"), "reason": reason}).reset_index(drop=True)


def locate_tree(images: Path, paths: Sequence[str], roots: Sequence[str]) -> str:
    """Which of `roots` (prefixes, '' or ending in '/') below `images` leads to the files of `paths`.

    Looks at the first few files alone; single files that are absent are found when they are decoded.
    """
    images = require_folder(images)
    below = sorted(f"{entry.name}/" for entry in os.scandir(images) if entry.is_dir())
    candidates = list(dict.fromkeys([*roots, "", *below]))
    probe = list(dict.fromkeys([*paths[:5], *(paths[i] for i in np.linspace(0, len(paths) - 1, 20).astype(int))]))
    hits = {root: sum((images / f"{root}{path}").is_file() for path in probe) for root in candidates}
    best = max(candidates, key=lambda root: hits[root])
    if hits[best]:
        return best
    missing = "\n  ".join(str(images / f"{candidates[0]}{path}") for path in probe[:5])
    tried = ", ".join(repr(root) for root in candidates[:8])
    raise FileNotFoundError(
        f"None of the first images of the label file lies below '{images}' (tried the folders {tried}). "
        f"Missing, for example:\n  {missing}\nGive the folder that holds them."
    )


def locate_files(images: Path, names: Sequence[str], *, by_stem: bool = False) -> pd.Series:
    """The path below `images` of every file name, wherever it lies in the tree; absent ones keep their bare name.

    `by_stem`: the names carry no extension, and any will do.
    """
    images = require_folder(images)
    found: dict[str, str] = {}
    for folder, folders, files in os.walk(images):
        folders.sort()
        prefix = os.path.relpath(folder, images).replace(os.sep, "/")
        prefix = "" if prefix == "." else f"{prefix}/"
        for name in sorted(files):
            found.setdefault(os.path.splitext(name)[0] if by_stem else name, prefix + name)
    paths = pd.Series(names, dtype="str").map(found)
    if paths.isna().all() and len(paths):
        first = "\n  ".join(map(str, names[:5]))
        raise FileNotFoundError(
            f"No image of the label file lies below '{images}' ({len(found)} files there). Missing, for example:\n"
            f"  {first}\nGive the folder that holds them."
        )
    return paths.fillna(pd.Series(names, dtype="str"))


def require_folder(images: Path) -> Path:
    if not Path(images).is_dir():
        raise FileNotFoundError(f"No image folder at '{images}'.")
    return Path(images)
