"""`hilum merge`, shared splits and the search for duplicates of `prepare`, through their files."""

import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from models.files.layout import DatasetPaths
from orchestrator.datasets.dataset import load_dataset
from orchestrator.datasets.merge import merge
from orchestrator.datasets.prepare import prepare
from orchestrator.datasets.request import PrepareRequest
from orchestrator.storage.scratch import locked
from pathologies.findings.catalog import load_catalog
from pathologies.labels.contract import LabelContract
from pathologies.labels.resolution import resolve
from pathologies.splits.shared_split import share_split
from tests.conftest import PROJECT
from tests.nih_like import write_nih_like
from tests.small_data import make_dataset


def request_for(folder, out, **changes):
    return PrepareRequest(**{"source": "nih", "labels": folder / "Data_Entry_2017.csv", "images": folder / "images",
                             "out": out, "size": 32} | changes)  # fmt: skip


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nih")
    write_nih_like(folder)
    return folder


@pytest.fixture(scope="module")
def inputs(films, tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    prepare(request_for(films, root / "nih"))
    return [root / "nih", make_dataset(root / "chexpert")]


def test_a_finding_that_one_does_not_label_is_unknown_there(films, tmp_path):
    prepare(request_for(films, tmp_path / "nih"))
    chexpert = make_dataset(tmp_path / "chexpert", ("fracture", "pneumonia"))
    notes = []
    manifest = merge([tmp_path / "nih", chexpert], tmp_path / "both", lambda event: notes.append(event["message"]))
    both = load_dataset(tmp_path / "both")
    frame = both.read_labels_frame()
    assert len(frame) == manifest["images"] == 48 + 180
    catalog = load_catalog()
    contract = LabelContract.from_dict(manifest["reference_contract"])
    for slug, labelled_by in (("fracture", {"chexpert"}), ("hernia", {"nih"}), ("pneumonia", {"nih", "chexpert"})):
        answer = resolve(frame, slug, contract, catalog, labelled=manifest["sources"])
        known = frame["source"].isin(labelled_by).to_numpy()
        assert (answer.weights > 0).tolist() == known.tolist(), slug
    assert any("does not label" in note for note in notes)


def test_films_and_parts_stay_with_their_rows(films, tmp_path):
    prepare(request_for(films, tmp_path / "nih"))
    chexpert = make_dataset(tmp_path / "chexpert")
    merge([tmp_path / "nih", chexpert], tmp_path / "both", lambda event: None)
    both, first, second = (load_dataset(path) for path in (tmp_path / "both", tmp_path / "nih", chexpert))
    np.testing.assert_array_equal(both.images(), np.concatenate([first.images(), second.images()]))
    np.testing.assert_array_equal(both.parts(), np.concatenate([first.parts(), second.parts()]))


def test_sizes_that_differ_and_a_full_folder_are_refused(films, tmp_path):
    prepare(request_for(films, tmp_path / "a"))
    prepare(request_for(films, tmp_path / "b", size=48))
    with pytest.raises(ValueError, match="sizes 32 and 48"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", lambda event: None)
    with pytest.raises(ValueError, match="not empty"):
        merge([tmp_path / "a", tmp_path / "a"], tmp_path / "b", lambda event: None)
    with pytest.raises(ValueError):
        merge([tmp_path / "a"], tmp_path / "c", lambda event: None)


# Killed when it comes to the named step for the given time.
KILLED = """
import os, sys
from pathlib import Path
from orchestrator.datasets import merge as module
from orchestrator.datasets.dataset import Dataset

name, turn, *places = sys.argv[1:]
owner = Dataset if name == "images" else module
whole, count = getattr(owner, name), []

def until(*words, **options):
    count.append(1)
    if len(count) == int(turn):
        os.kill(os.getpid(), 9)
    return whole(*words, **options)

setattr(owner, name, until)
*inputs, out = map(Path, places)
module.merge(inputs, out, lambda event: None)
"""


def test_killed_anywhere_the_same_merge_starts_again(inputs, tmp_path):
    whole = merge(inputs, tmp_path / "whole", lambda event: None)
    for name, turn in (("images", 2), ("write_manifest", 1)):  # amid the films, before the manifest
        out = tmp_path / f"{name}{turn}"
        done = subprocess.run([sys.executable, "-c", KILLED, name, str(turn), *map(str, inputs), str(out)], cwd=PROJECT)
        assert done.returncode == -9
        assert any(out.iterdir())
        assert merge(inputs, out, lambda event: None) == whole
        assert {path.name: path.read_bytes() for path in out.iterdir()} == {
            path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()
        }


def test_a_finished_merge_is_left_alone_and_anything_else_refused(inputs, tmp_path):
    out = tmp_path / "out"
    whole = merge(inputs, out, lambda event: None)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    DatasetPaths(out).merging.touch()  # as of a kill just before its end
    assert merge(inputs, out, lambda event: None) == whole
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(ValueError, match="not empty"):
        merge(inputs[::-1], out, lambda event: None)
    for name, left in (("notes.txt", ()), ("notes.txt", ("merging.lock",)), ("images.u8", ())):
        other = tmp_path / f"{name}{len(left)}"
        other.mkdir()
        for one in (name, *left):
            (other / one).write_text("somebody's")
        with pytest.raises(ValueError, match="not empty"):
            merge(inputs, other, lambda event: None)
        assert (other / name).read_text() == "somebody's"


def test_of_two_merges_at_once_one_is_refused(inputs, tmp_path):
    with locked(DatasetPaths(tmp_path / "out").merging), pytest.raises(ValueError, match="Another hilum merge"):
        merge(inputs, tmp_path / "out", lambda event: None)


def test_the_same_film_in_two_parts_is_dropped_from_the_later(films, tmp_path):
    """A copy under another patient's name: in both parts it would let a network recognise what it was trained on."""
    copied = tmp_path / "films"
    shutil.copytree(films, copied)
    plain = prepare(request_for(copied, tmp_path / "plain"))
    split = pd.read_csv(tmp_path / "plain" / "split.csv", dtype="str")
    earlier = split[split["part"] == "train"]["image_id"].iloc[0]
    later = split[split["part"] == "test"]["image_id"].iloc[0]
    shutil.copyfile(copied / "images" / earlier, copied / "images" / later)
    notes = []
    manifest = prepare(request_for(copied, tmp_path / "leaky"), lambda event: notes.append(event.get("message", "")))
    rejected = pd.read_csv(tmp_path / "leaky" / "rejected.csv")
    assert rejected["image"].tolist() == [later]
    assert manifest["images"] == plain["images"] - 1
    assert any(earlier in note and later in note for note in notes)
    after = pd.read_csv(tmp_path / "leaky" / "split.csv", dtype="str").set_index("image_id")["part"]
    before = split.set_index("image_id")["part"].drop(later)
    assert after.to_dict() == before.to_dict()
    dataset = load_dataset(tmp_path / "leaky")
    assert dataset.images().shape == (manifest["images"], 32, 32)
    dataset.check_images()


def test_a_shared_split_is_taken_over(films, tmp_path):
    from models.files.layout import write_json

    prepare(request_for(films, tmp_path / "a", seed=5))
    ours = load_dataset(tmp_path / "a")
    write_json(tmp_path / "split.json", share_split(ours.read_labels_frame(), ours.parts(), "long enough"))
    assert "patient" not in (tmp_path / "split.json").read_text().replace("patients", "")
    prepare(request_for(films, tmp_path / "b", seed=9, shared_split=tmp_path / "split.json", salt="long enough"))
    np.testing.assert_array_equal(load_dataset(tmp_path / "b").parts(), ours.parts())
    with pytest.raises(ValueError, match="another salt"):
        prepare(request_for(films, tmp_path / "c", shared_split=tmp_path / "split.json", salt="wrong one"))
    with pytest.raises(ValueError, match="exclude each other"):
        request_for(films, tmp_path / "d", shared_split=tmp_path / "split.json", fold=(1, 5))


def test_official_lists_are_kept_when_asked_for(films, tmp_path):
    names = sorted(path.name for path in (films / "images").iterdir())
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "test_list.txt").write_text("\n".join(names[-8:]) + "\n")
    (lists / "train_val_list.txt").write_text("\n".join(names[:-8]) + "\n")
    prepare(request_for(films, tmp_path / "a", official=True, options={"official_lists": str(lists)}))
    split = pd.read_csv(tmp_path / "a" / "split.csv", dtype="str")
    assert sorted(split[split["part"] == "test"]["image_id"]) == names[-8:]
    with pytest.raises(ValueError, match="official"):
        prepare(request_for(films, tmp_path / "b", official=True))
