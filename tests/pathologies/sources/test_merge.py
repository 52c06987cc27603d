"""Joined data sets keep apart what must stay apart, and unknown what is unknown."""

import numpy as np
import pytest

from pathologies.findings.catalog import load_catalog
from pathologies.findings.policy import LabelPolicy
from pathologies.labels.contract import LabelContract
from pathologies.labels.resolution import resolve
from pathologies.sources.common import build_frame
from pathologies.sources.merge import MergeInput, merge_frames, overlap_notes

CHEXPERT = {"edema": [1, np.nan], "fracture": [0, -1]}
NIH = {"edema": [0, 1], "hernia": [1, 0]}


def given(name: str, source: str, labels: dict, parts: list[str], number: int = 1, patients: list | None = None):
    rows = range(len(parts))
    columns = {
        "image_id": [f"{number}_{row}.png" for row in rows],
        "patient_id": patients or [f"p{number}_{row}" for row in rows],
        "study_id": [f"s{number}_{row}" for row in rows],
        "view": "frontal",
        "path": [f"{number}_{row}.png" for row in rows],
        "source": source,
        "no_finding": [1.0 if source == "nih" else np.nan] * len(parts),
    }
    frame = build_frame(columns, {slug: np.float32(values) for slug, values in labels.items()})
    return MergeInput(name=name, frame=frame, parts=np.array(parts), sources={source: tuple(labels)})


def two() -> list[MergeInput]:
    return [given("A", "chexpert", CHEXPERT, ["train", "test"]), given("B", "nih", NIH, ["train", "select"])]


def test_the_union_of_columns_in_the_order_of_the_inputs():
    merged = merge_frames(two())
    assert merged.findings == ("edema", "fracture", "hernia")
    assert merged.sources == {"chexpert": ("edema", "fracture"), "nih": ("edema", "hernia")}
    assert merged.parts.tolist() == ["train", "test", "train", "select"]
    assert merged.frame["image_id"].tolist() == ["chexpert:1_0.png", "chexpert:1_1.png", "nih:1_0.png", "nih:1_1.png"]
    assert merged.frame["patient_id"].is_unique  # equal names of two sources are two patients
    assert merged.frame["path"].tolist()[0] == "1_0.png"
    np.testing.assert_array_equal(merged.frame["hernia"], np.float32([-2, -2, 1, 0]))  # unknown, not blank
    np.testing.assert_array_equal(merged.frame["fracture"], np.float32([0, -1, -2, -2]))
    np.testing.assert_array_equal(merged.frame["edema"], np.float32([1, np.nan, 0, 1]))  # blank stays blank
    assert merged.frame["edema"].dtype == np.float32
    assert any("nih does not label fracture" in note for note in merged.notes)


def test_a_finding_that_a_source_does_not_label_is_unknown_under_every_policy():
    merged = merge_frames(two())
    contract = LabelContract(policies={"hernia": LabelPolicy(uncertain="zeros", blank="zero")})
    found = resolve(merged.frame, "hernia", contract, load_catalog(), labelled=merged.sources)
    np.testing.assert_array_equal(found.values, np.float32([np.nan, np.nan, 1, 0]))
    np.testing.assert_array_equal(found.weights, np.float32([0, 0, 1, 1]))


def test_a_patient_of_one_source_stays_one_patient():
    first = given("A", "nih", NIH, ["train", "train"], patients=["p", "p"])
    same = given("B", "nih", NIH, ["train", "train"], number=2, patients=["p", "q"])
    assert merge_frames([first, same]).frame["patient_id"].tolist() == ["nih:p", "nih:p", "nih:p", "nih:q"]
    other = given("B", "nih", NIH, ["test", "test"], number=2, patients=["p", "q"])
    with pytest.raises(ValueError, match=r"nih:p \(test\+train\)"):
        merge_frames([first, other])


def test_merging_a_merged_data_set_does_not_rename_again():
    merged = merge_frames(two())
    again = MergeInput(name="AB", frame=merged.frame, parts=merged.parts, sources=merged.sources)
    third = given("C", "padchest", {"edema": [1, 0]}, ["test", "train"])
    frame = merge_frames([again, third]).frame
    assert frame["image_id"].tolist()[2:5] == ["nih:1_0.png", "nih:1_1.png", "padchest:1_0.png"]


def test_half_labelled_sources_count_as_unlabelled():
    first = given("A", "vindr", {"edema": [1, 0], "fracture": [0, 0]}, ["train", "test"])
    second = given("B", "vindr", {"edema": [1, 0]}, ["train", "test"], number=2)
    merged = merge_frames([first, second])
    assert merged.sources == {"vindr": ("edema",)}
    assert any("some of the data sets only" in note for note in merged.notes)
    assert (merged.frame["fracture"] == -2).all()


def test_a_merge_of_before_keeps_its_meaning():
    """There, what a source does not label is NaN: its list of findings alone makes it unknown."""
    merged = merge_frames(two())
    old = merged.frame.assign(hernia=merged.frame["hernia"].where(merged.frame["hernia"] >= 0))
    contract = LabelContract(policies={"hernia": LabelPolicy(uncertain="zeros", blank="zero")})
    found = resolve(old, "hernia", contract, load_catalog(), labelled=merged.sources)
    np.testing.assert_array_equal(found.values, np.float32([np.nan, np.nan, 1, 0]))


def test_known_overlaps_are_said():
    notes = merge_frames([two()[1], given("R", "rsna-2018", {"edema": [1, 0]}, ["train", "test"])]).notes
    assert any("RSNA Pneumonia Detection Challenge" in note for note in notes)
    assert len(overlap_notes(["SIIM", "nih"])) == 1
    assert len(overlap_notes(["siim", "rsna", "nih"])) == 3
    assert overlap_notes(["nih", "chexpert", "padchest"]) == []


def test_contradictions_are_refused():
    first, second = two()
    with pytest.raises(ValueError, match="at least two"):
        merge_frames([first])
    with pytest.raises(ValueError, match="2 image.*more than one of A and A"):
        merge_frames([first, first])
    for change, message in (
        ({"parts": second.parts[:1]}, "2 rows and 1 parts"),
        ({"sources": {"nih": ("edema", "mass")}}, r"labels \['mass'\]"),
        ({"sources": {"other": ("edema",)}}, r"rows of source \['nih'\]"),
        ({"frame": second.frame.drop(columns="view")}, r"no column\(s\) \['view'\]"),
    ):
        wrong = MergeInput(**{**vars(second), **change})
        with pytest.raises(ValueError, match=message):
            merge_frames([first, wrong])
