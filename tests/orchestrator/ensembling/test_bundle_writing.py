"""orchestrator/ensembling/bundle_writing.py: a bundle gives way to a whole new one, an adapted one on request only."""

import hashlib
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from models.files.layout import RunPaths, read_json
from orchestrator.ensembling.adapt import AdaptRequest, adapt
from orchestrator.ensembling.build import EnsembleRequest, build_bundle
from orchestrator.ensembling.replace import ReplaceRequest, replace_findings
from orchestrator.inference.bundle import load_bundle
from tests.conftest import PROJECT

# The command, ended by SIGKILL when it is about to write the new bundle.json.
KILLED = """
import os, signal, sys
from pathlib import Path
from orchestrator.ensembling.build import EnsembleRequest, build_bundle

def hook(event, words):
    if event == "open" and str(words[0]).endswith("-bundle.json") and words[1] != "r":
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
build_bundle(EnsembleRequest(run=Path(sys.argv[1]), out=Path(sys.argv[2]), targets=("edema",)))
"""


@pytest.fixture
def place(house, tmp_path):
    """A folder that holds nothing but a copy of the bundle, its run below another."""
    shutil.copytree(house / "bundle", tmp_path / "place" / "bundle")
    return tmp_path / "place"


@pytest.fixture
def broken(house, tmp_path):
    """A run whose members of pneumonia answered for other films: no bundle can be made of it, which shows late."""
    run = shutil.copytree(house / "run", tmp_path / "run")
    path = RunPaths(run).target("pneumonia", 1).predictions
    table = pd.read_parquet(path)
    table[table["image_id"] != table.loc[table["part"] == "calibrate", "image_id"].iloc[0]].to_parquet(path)
    return run


def contents(folder):
    """{name: hash} of every file below a folder, hidden ones too."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def by_prevalence(bundle, out, word="edema=0.2"):
    return adapt(AdaptRequest(bundle=bundle, out=out, prevalence=(word,), device="cpu"))


def test_an_ensemble_that_fails_leaves_the_bundle_that_was_there(house, place, broken):
    before = contents(place)
    with pytest.raises(ValueError, match="trained on different views or films"):
        build_bundle(EnsembleRequest(run=broken, out=place / "bundle", dataset=house / "dataset"))
    assert contents(place) == before
    assert load_bundle(place / "bundle", "cpu").slugs == ["edema", "pneumonia"]


def test_a_replacement_that_fails_too(house, place, broken):
    before = contents(place)
    request = {"bundle": house / "bundle", "targets": ("pneumonia",), "dataset": house / "dataset"}
    with pytest.raises(ValueError, match="trained on different views or films"):
        replace_findings(ReplaceRequest(run=broken, out=place / "bundle", **request))
    assert contents(place) == before


def test_an_adaptation_that_fails_too(house, place):
    out = place / "adapted"
    by_prevalence(house / "bundle", out)
    before = contents(place)
    with pytest.raises(ValueError, match="is not a number between 0 and 1"):
        by_prevalence(house / "bundle", out, "edema=2")
    assert contents(place) == before
    assert load_bundle(out, "cpu").description["adapted"]


def test_an_adapted_bundle_is_replaced_on_request_only(house, place):
    out = place / "adapted"
    by_prevalence(house / "bundle", out)
    before = contents(place)
    with pytest.raises(ValueError, match="was adapted to local films.*another --out, or --force"):
        build_bundle(EnsembleRequest(run=house / "run", out=out))
    request = {"run": house / "run", "bundle": house / "bundle", "targets": ("edema",), "out": out}
    with pytest.raises(ValueError, match="was adapted to local films.*another --out, or --force"):
        replace_findings(ReplaceRequest(**request))
    assert contents(place) == before
    build_bundle(EnsembleRequest(run=house / "run", out=out, force=True))
    assert "adapted" not in load_bundle(out, "cpu").description


def test_what_is_no_part_of_a_bundle_stays(house, place):
    out = place / "bundle"
    (out / "test_reads.jsonl").write_text("{}\n")
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("mine")
    build_bundle(EnsembleRequest(run=house / "run", out=out, targets=("edema",)))
    assert (out / "test_reads.jsonl").read_text() == "{}\n"
    assert (out / "notes" / "mine.txt").read_text() == "mine"
    assert [path.name for path in (out / "weights").iterdir()] == ["edema-0.safetensors"]
    assert [path.name for path in place.iterdir()] == ["bundle"]


def test_an_unfinished_folder_of_before_is_no_hindrance(house, place):
    out = place / "bundle"
    (out / "bundle.json").unlink()
    build_bundle(EnsembleRequest(run=house / "run", out=out, targets=("edema",)))
    assert load_bundle(out, "cpu").slugs == ["edema"]


@pytest.mark.slow
def test_a_killed_ensemble_leaves_the_bundle_that_was_there(house, place):
    out, before = place / "bundle", contents(place / "bundle")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(house / "run"), str(out)], cwd=PROJECT, check=False)
    assert killed.returncode == -9
    assert contents(out) == before
    assert len(list(place.glob(".tmp-bundle-*"))) == 2  # the folder and its lock
    films = np.zeros((1, 32, 32), np.uint8)
    expected = load_bundle(house / "bundle", "cpu").probabilities(films)
    np.testing.assert_array_equal(load_bundle(out, "cpu").probabilities(films), expected)
    build_bundle(EnsembleRequest(run=house / "run", out=out, targets=("edema",)))
    assert list(read_json(out / "bundle.json")["findings"]) == ["edema"]
    assert [path.name for path in place.iterdir()] == ["bundle"]
