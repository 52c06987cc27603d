"""Films as they are handed in, files, arrays or DICOM data sets, brought to what a bundle's networks see.

In: what a user names: files, folders, globs, a CSV with a path column; or numpy arrays; or pydicom data sets. Out:
their names, and batches of (name, uint8 film or the reason why there is none), each decoded once for all networks.
Called by `predict`, by `Bundle.predict` and by the ensembler's site data.
"""

import glob
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from models.data.images import film_of_array, film_of_dicom, try_load_image
from pathologies.errors import InputError
from pathologies.table_files import read_csv_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
PATH_COLUMNS = ("path", "Path", "image", "Image", "file", "filename", "Image Index", "dicom_path")
BATCH = 32  # films that are decoded, and asked about, at once
Named = tuple[Any, Any]  # a film's name, and where it comes from: a path, an array, a data set


def named_films(films: Any) -> list[Named]:
    """One film or many of one kind, with their names. Errors: InputError for nothing, for a mixture, for other things.

    films: paths as `collect_paths` takes them; arrays, each height x width, or one array of N x height x width; pydicom
    data sets. A path's name is the path, that of a data set its SOPInstanceUID, that of an array its number from 0.
    """
    given = _as_list(films)
    kinds = {_kind(one) for one in given}
    if len(kinds) != 1 or kinds == {""}:
        got = ", ".join(sorted({type(one).__name__ for one in given})) or "nothing"
        raise InputError(f"Give paths, or arrays of height x width, or pydicom data sets, of one kind; got {got}.")
    kind = kinds.pop()
    if kind == "path":
        return [(str(path), path) for path in collect_paths([str(one) for one in given])]
    if kind == "array":
        return [(str(index), np.asarray(one)) for index, one in enumerate(given)]
    return [(str(one.get("SOPInstanceUID") or index), one) for index, one in enumerate(given)]


def _as_list(films: Any) -> list[Any]:
    kind = _kind(films)
    if kind == "array":
        values = np.asarray(films)
        return list(values) if values.ndim in (1, 3) else [values]  # 1: a column of paths
    if kind or not isinstance(films, Iterable):
        return [films]
    return list(films)


def _kind(one: Any) -> str:
    """path, array, dataset; nothing for what is no film."""
    if isinstance(one, str | Path):
        return "path"
    if isinstance(one, np.ndarray):
        return "array"
    from pydicom.dataset import Dataset

    if isinstance(one, Dataset):  # before the next question, to which it says yes
        return "dataset"
    return "array" if hasattr(one, "__array__") else ""


def read_film(source: Any, size: int, version: int) -> np.ndarray | str:
    """uint8, size x size, or the reason why there is none."""
    if isinstance(source, str | Path):
        return try_load_image(source, size, version)
    read = film_of_array if isinstance(source, np.ndarray) else film_of_dicom
    try:
        return read(source, size, version)
    except InputError as error:
        return str(error)


def decoded_batches(
    named: Sequence[Named], size: int, version: int, workers: int
) -> Iterator[list[tuple[Any, np.ndarray | str]]]:
    """Batches of (name, film or reason), decoded by threads a few batches ahead.

    size, version: the pixels of a side and the intensity contract of the bundle that is asked.
    """

    def read(one: Named) -> tuple[Any, np.ndarray | str]:
        return one[0], read_film(one[1], size, version)

    with ThreadPoolExecutor(workers) as pool:
        chunks = [named[start : start + BATCH] for start in range(0, len(named), BATCH)]
        ahead = [[pool.submit(read, one) for one in chunk] for chunk in chunks[:3]]
        for upcoming in itertools.chain(chunks[3:], itertools.repeat([], min(3, len(chunks)))):
            yield [future.result() for future in ahead.pop(0)]
            ahead.append([pool.submit(read, one) for one in upcoming])


def collect_paths(inputs: Sequence[str]) -> list[Path]:
    """Files as given, the images below a folder in order of name, the matches of a glob, the path column of a CSV."""
    if not inputs:
        raise InputError("Nothing to predict: name files, folders, a glob in quotes, or a CSV with a path column.")
    found: list[Path] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            images = [one for one in sorted(path.rglob("*")) if one.suffix.lower() in SUFFIXES and one.is_file()]
            if not images:
                raise FileNotFoundError(f"No image below {path}. Looked for: {', '.join(SUFFIXES)}.")
            found += images
        elif path.suffix.lower() == ".csv" and path.is_file():
            found += listed_paths(path)
        elif not path.exists() and glob.has_magic(text):
            matches = sorted(glob.glob(text, recursive=True))
            if not matches:
                raise FileNotFoundError(f"No file matches {text!r}.")
            found += [Path(one) for one in matches]
        elif not path.exists():
            raise FileNotFoundError(f"There is no file or folder {text!r}. Give files, folders, globs or a CSV.")
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def listed_paths(table: Path) -> list[Path]:
    """The path column of a CSV; relative paths are looked up from the CSV's folder, then from here."""
    frame = read_csv_file(table, dtype="str", keep_default_na=False)
    column = next((name for name in PATH_COLUMNS if name in frame.columns), None)
    if column is None:
        raise InputError(
            f"{table} has no path column. It has: {', '.join(map(str, frame.columns))}. "
            f"One of these is wanted: {', '.join(PATH_COLUMNS)}."
        )
    beside = [table.parent / str(one) for one in frame[column]]
    return [one if one.exists() else Path(str(name)) for one, name in zip(beside, frame[column], strict=True)]
