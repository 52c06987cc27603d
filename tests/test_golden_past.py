"""What an earlier hilum made is read by this one: the same digests, nothing trained again, the same answers.

The archive was written by tests/make_golden_past.py, with the hilum of its name.
"""

import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.config import TrainConfig
from orchestrator.cli.app import main
from tests.conftest import PROJECT
from tests.make_golden_past import BUNDLES, COMMANDS, settings_of

ARCHIVE = PROJECT / "tests" / "golden" / "past-0.1.tar.xz"
TRAININGS = [command for command in COMMANDS if command[0] in ("train", "tune")]


@pytest.fixture
def past(tmp_path, monkeypatch) -> Path:
    """A fresh copy, and the folder that commands work in."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    return end.value.code or 0


def content(folder: Path, *left_out: str) -> dict[str, str]:
    """The hash of every file, but for those that each command writes anew."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in left_out
    }


def answers(path: Path) -> pd.DataFrame:
    return pd.read_csv(path).set_index("path")


def assert_same_answers(new: pd.DataFrame, old: pd.DataFrame) -> None:
    """Probabilities to 1e-5, decisions exactly; a new column is no difference."""
    assert list(new.index) == list(old.index)
    for name in old.columns:
        if name.endswith("_positive"):
            assert new[name].isna().equals(old[name].isna()), name
            assert (new[name].dropna() == old[name].dropna()).all(), name
        else:
            np.testing.assert_allclose(new[name], old[name], atol=1e-5, rtol=0, err_msg=name)


def test_it_is_small():
    assert ARCHIVE.stat().st_size < 200_000


def test_digests_of_configurations_stay(past):
    stored = json.loads((past / "answers" / "digests.json").read_text(encoding="utf-8"))
    assert len(stored) == 8  # two findings with two members, a shared network, two trials, a member from a trial
    for name, digest in stored.items():
        config = json.loads((past / name).read_text(encoding="utf-8"))["config"]
        assert TrainConfig(**config).digest() == digest, name


@pytest.mark.parametrize("command", TRAININGS, ids=lambda command: " ".join(command[:1] + command[-1:]))
def test_nothing_is_trained_again(past, command):
    """The same command finds everything finished: not a byte of the run changes but its plan and its lists."""
    folder = past / command[command.index("--out") + 1]
    kept = ("plan.json", "ledger.jsonl", "config.json", "search.json", "trials.csv", ".lock")
    before = {name: value for name, value in content(folder, *kept).items() if not name.startswith("tuned/")}
    assert run(*command, *settings_of(command)) == 0
    after = content(folder, *kept)
    assert {name: after.get(name) for name in before} == before
    assert not [name for name in after if "attempts/2" in name]


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_bundle_answers_as_it_did(past, bundle):
    assert run("predict", bundle, "films", "--out", "new.csv") == 0
    assert_same_answers(answers(past / "new.csv"), answers(past / "answers" / f"{bundle}.csv"))


def test_a_bundle_made_now_of_a_run_of_then(past):
    """Blends and calibration come out as they did; how a threshold is chosen may be another rule by now."""
    assert run("ensemble", "run", "--dataset", "dataset", "--out", "again") == 0
    assert run("predict", "again", "films", "--out", "new.csv") == 0
    old = answers(past / "answers" / "bundle.csv")
    assert_same_answers(answers(past / "new.csv"), old[[name for name in old if not name.endswith("_positive")]])


def test_a_bundle_of_then_is_evaluated_and_adapted_now(past):
    assert run("evaluate", "bundle", "dataset", "--part", "test", "--out", "figures") == 0
    assert run("adapt", "bundle", "--out", "adapted", "--prevalence", "lung_opacity=0.1") == 0
    assert run("predict", "adapted", "films", "--out", "new.csv") == 0
    old = answers(past / "answers" / "bundle-adapted.csv")
    assert_same_answers(answers(past / "new.csv"), old[[name for name in old if not name.endswith("_positive")]])
