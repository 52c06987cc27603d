"""A file that is no table is bad input, whatever the reader raises of it."""

import pandas as pd
import pytest

from pathologies.errors import InputError
from pathologies.table_files import read_csv_file, read_parquet_file

NOT_CSV = {
    "empty": b"",
    "not text": b"a,b\n\xff\xfe\x00,1\n",
    "unequal rows": b"a,b\n1,2\n1,2,3\n",
    "open quote": b'a,b\n"1,2\n',
}


@pytest.mark.parametrize("name", NOT_CSV)
def test_a_file_that_is_no_csv(tmp_path, name):
    path = tmp_path / "table.csv"
    path.write_bytes(NOT_CSV[name])
    with pytest.raises(InputError, match=r"table\.csv cannot be read as a CSV table: \S"):
        read_csv_file(path)


@pytest.mark.parametrize("keep", [0, 3, 40, -1])
def test_a_parquet_file_that_is_cut(tmp_path, keep):
    path = tmp_path / "table.parquet"
    pd.DataFrame({"a": range(5)}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"table\.parquet cannot be read as a Parquet table: \S"):
        read_parquet_file(path)


def test_a_file_that_is_not_there_stays_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_csv_file(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError):
        read_parquet_file(tmp_path / "none.parquet")
