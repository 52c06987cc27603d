"""Tables from disk: a file that is no such table is bad input, whatever pandas raises of it.

In: the path of a CSV or Parquet file. Out: a frame. Called wherever a user's table, or one that lies in a folder of
hilum's, is read.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from pathologies.errors import InputError


def read_csv_file(path: Path | str, **options: Any) -> pd.DataFrame:
    """`pandas.read_csv`. Errors: InputError for an empty file, other bytes than text, or rows of unequal length."""
    try:
        return pd.read_csv(path, **options)
    except ValueError as error:  # EmptyDataError, ParserError and UnicodeDecodeError all are
        raise InputError(f"{path} cannot be read as a CSV table: {str(error).strip()}") from error


def read_parquet_file(path: Path | str, columns: list[str] | None = None) -> pd.DataFrame:
    """`pandas.read_parquet`. Errors: InputError for a file that is cut, damaged or no Parquet."""
    try:
        return pd.read_parquet(path, columns=columns)
    except ValueError as error:  # pyarrow's ArrowInvalid is one
        raise InputError(f"{path} cannot be read as a Parquet table: {str(error).strip()}") from error
