"""models/data/targets.py, models/files/layout.py: targets with a column of their own, and where a branch begins."""

import dataclasses
import zipfile

import numpy as np
import pytest

from models.data.targets import Targets
from models.files.layout import TargetPaths, branch_file
from tests.small_data import make_targets


def table(own: int) -> Targets:
    """Two findings; the own one is unknown on every fourth film, the other on the first ten."""
    one = make_targets((np.random.default_rng(0).random(90) < 0.4).astype(float))
    value = np.column_stack([one.value, 1 - one.value])
    value[::4, 1] = np.nan
    value[:10, 0] = np.nan
    weight = (~np.isnan(value)).astype(np.float32)
    return dataclasses.replace(one, value=value, weight=weight, slugs=np.array([b"a", b"b"]), own=own)


def test_films_are_used_where_the_own_target_is_known():
    targets = table(own=1)
    found = targets.usable("train")
    assert np.array_equal(found, [index for index in targets.all_of("train") if index % 4])
    assert targets.epoch_films == len(found)
    assert np.array_equal(targets.judged.value, targets.value[:, 1], equal_nan=True)
    assert (targets.judged.own, targets.judged.outputs, targets.outputs) == (-1, None, 2)
    assert targets.judged_columns(np.arange(6).reshape(3, 2)).tolist() == [1, 3, 5]
    assert len(table(own=-1).usable("train")) > len(found)
    assert table(own=-1).judged_columns(np.zeros((3, 2))).shape == (3, 2)


def test_the_file_says_which_column_is_the_own_one_and_others_are_as_before(tmp_path):
    for own, names in ((1, {"own.npy"}), (-1, set())):
        table(own).save(tmp_path / "targets.npz")
        loaded = Targets.load(tmp_path / "targets.npz")
        assert loaded.own == own
        assert np.array_equal(loaded.usable("train"), table(own).usable("train"))
        with zipfile.ZipFile(tmp_path / "targets.npz") as stored:
            assert {name for name in stored.namelist() if name.startswith("own")} == names


@pytest.mark.parametrize("own", [0, 2])
def test_a_column_that_is_not_there_is_refused(own):
    targets = table(-1).only(0) if own == 0 else table(-1)
    with pytest.raises(ValueError, match=f"own={own} is no column"):
        dataclasses.replace(targets, own=own)


def test_a_branch_begins_in_the_same_run_wherever_that_lies(tmp_path):
    target = TargetPaths(tmp_path / "run" / "edema" / "0")
    (tmp_path / "run" / "shared" / "0").mkdir(parents=True)
    assert branch_file("shared/0", target) == tmp_path / "run" / "shared" / "0" / "branch.ckpt"
    assert branch_file(str(tmp_path / "other"), target) == tmp_path / "other" / "branch.ckpt"
