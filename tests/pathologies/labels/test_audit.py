"""The audit: its counts on a hand-made frame, on a file of CheXpert's size, and that it is plain data."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from pathologies.findings.catalog import CHEXPERT_TARGETS, load_catalog
from pathologies.labels.audit import AUDIT_HEADER, audit_labels, audit_rows
from pathologies.labels.contract import reference_contract
from pathologies.labels.filters import filter_frame
from tests.chexpert_like import COUNTS, SLUGS, as_label_frame, chexpert_like, write_chexpert_like
from tests.conftest import PROJECT

CATALOG = load_catalog()
BLANK = np.nan


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "image_id": list("abcdef"),
            "patient_id": ["p1", "p1", "p1", "p2", "p2", "p3"],
            "study_id": ["s1", "s1", "s2", "s3", "s4", "s5"],
            "view": ["frontal", "lateral", "frontal", "frontal", "frontal", ""],
            "projection": ["AP", "", "PA", "AP", "AP", ""],
            "age": np.float32([61, 61, 61, 0, BLANK, 39]),
            "sex": ["M", "M", "M", "F", "F", ""],
            "source": "chexpert",
            "no_finding": np.float32([BLANK, BLANK, BLANK, BLANK, BLANK, 1]),
            "lung_opacity": np.float32([BLANK, BLANK, 1, 0, -1, BLANK]),
            "edema": np.float32([1, 1, -1, 1, 0, BLANK]),
        }
    )


def test_counts_before_and_after(frame):
    report = audit_labels(frame, CATALOG)
    assert (report["rows"], report["patients"], report["studies"]) == (6, 3, 5)
    assert report["views"] == {"frontal": 4, "lateral": 1, "unknown": 1}
    assert report["projections"] == {"AP": 3, "PA": 1, "unknown": 2}
    assert report["sex"] == {"M": 3, "F": 2, "unknown": 1}
    assert report["studies_per_patient"]["patients"] == {"1": 1, "2": 2}
    assert report["images_per_patient"]["maximum"] == 3
    age = report["age"]
    assert (age["known"], age["unknown"], age["zero"], age["median"]) == (5, 1, 1, 61)
    assert age["by_decade"] == {"0-9": 1, "30-39": 1, "60-69": 3}
    opacity = report["findings"]["lung_opacity"]
    assert [opacity[key] for key in ("positive", "negative", "uncertain", "blank")] == [1, 1, 1, 3]
    assert opacity["closure_lifted"] == 2
    assert opacity["contradictions"] == 1
    assert opacity["after"] == {"positive": 3, "negative": 3, "soft": 0, "unknown": 0}
    assert opacity["changes"]["no_finding_filled"] == 1
    assert opacity["changes"]["uncertain_as_zeros"] == 1
    assert report["findings"]["edema"]["positive_by_projection"] == {"AP": 2, "unknown": 1}


def test_vectors_and_cooccurrence_read_uncertain_and_blank_as_zero(frame):
    report = audit_labels(frame, CATALOG)
    vectors = report["label_vectors"]
    assert vectors["findings"] == ["lung_opacity", "edema"]
    assert (vectors["distinct"], vectors["none"]) == (3, 2)
    assert vectors["most_common"][0] == {"findings": ["edema"], "rows": 3}
    assert report["cooccurrence"]["positive"] == [[1, 0], [0, 3]]


def test_another_contract_and_what_is_passed_on(frame):
    contract = reference_contract(["edema"], closure=False)
    report = audit_labels(frame, CATALOG, contract, dropped={"frontal": 7}, notes=("A note.",))
    assert list(report["findings"]) == ["edema"]
    assert report["findings"]["edema"]["after"] == {"positive": 3, "negative": 2, "soft": 0, "unknown": 1}
    assert report["contract"] == contract.to_dict()
    assert report["dropped"] == {"frontal": 7}
    assert report["notes"] == ["A note."]


def test_unknown_has_a_column_of_its_own(frame):
    frame["lung_opacity"] = np.float32([-2, -2, 1, 0, -1, BLANK])
    report = audit_labels(frame, CATALOG)
    opacity = report["findings"]["lung_opacity"]
    assert [opacity[key] for key in ("positive", "negative", "uncertain", "blank", "unknown")] == [1, 1, 1, 1, 2]
    assert opacity["closure_lifted"] == 0  # the positive edema beside it makes nothing known
    assert opacity["after"] == {"positive": 1, "negative": 3, "soft": 0, "unknown": 2}
    row = dict(zip(AUDIT_HEADER, audit_rows(report)[0], strict=True))
    assert (row["blank"], row["unknown"], row["unknown after"]) == ("1", "2", "2")


def test_source_that_does_not_label_a_finding_is_not_blank(frame):
    frame["source"] = ["chexpert"] * 4 + ["nih"] * 2
    labelled = {"chexpert": ["lung_opacity", "edema"], "nih": ["edema"]}
    opacity = audit_labels(frame, CATALOG, labelled=labelled)["findings"]["lung_opacity"]
    assert [opacity[key] for key in ("positive", "negative", "uncertain", "blank", "not_labelled")] == [1, 1, 0, 2, 2]
    assert opacity["after"]["unknown"] == 2


def test_report_is_plain_data_and_a_table(frame):
    report = audit_labels(frame, CATALOG)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    rows = audit_rows(report)
    assert [len(row) for row in rows] == [len(AUDIT_HEADER)] * 2
    assert rows[0] == ["lung_opacity", "1", "1", "1", "3", "0", "zeros", "2", "1", "3", "3", "0", "0"]


def test_empty_frame_and_unknown_ages(frame):
    report = audit_labels(frame.iloc[:0], CATALOG)
    assert report["rows"] == 0
    assert report["views"]["frontal"] == 0
    assert report["label_vectors"]["distinct"] == 0
    json.dumps(report, allow_nan=False)
    assert audit_labels(frame.assign(age=np.float32(BLANK)), CATALOG)["age"] == {"known": 0, "unknown": 6, "zero": 0}


def test_small_file_of_chexpert_form():
    frame = as_label_frame(chexpert_like(0.01, seed=1))
    report = audit_labels(frame, CATALOG)
    assert list(report["findings"]) == list(CHEXPERT_TARGETS)
    expected = pd.Series((frame[list(CHEXPERT_TARGETS)] == 1).apply(tuple, axis=1))
    assert report["label_vectors"]["distinct"] == expected.nunique()
    assert report["label_vectors"]["most_common"][0]["rows"] == expected.value_counts().iloc[0]
    kept, dropped = filter_frame(frame, frontal=True, first_studies=4, projections=("AP", "PA"))
    assert len(kept) == len(frame) - sum(dropped.values())


SCRIPT = """
import json, re, sys
from pathologies.labels.audit import audit_labels
from pathologies.findings.catalog import load_catalog
from pathologies.labels.filters import filter_frame
from pathologies.sources.registry import read_labels
source = read_labels("chexpert", sys.argv[1])
report = audit_labels(source.frame, load_catalog(), notes=source.notes)
kept, dropped = filter_frame(source.frame, frontal=True, first_studies=4, projections=("AP", "PA"))
filtered = audit_labels(kept, load_catalog(), dropped=dropped)
kilobytes = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
json.dump({"whole": report, "filtered": filtered, "gigabytes": kilobytes / 2**20}, sys.stdout)
"""


@pytest.mark.slow
def test_file_of_chexpert_size_within_a_gigabyte(tmp_path):
    table = write_chexpert_like(tmp_path / "train.csv")
    root = PROJECT
    run = subprocess.run([sys.executable, "-c", SCRIPT, table], capture_output=True, text=True, cwd=root, check=True)
    result = json.loads(run.stdout)
    report = result["whole"]
    assert report["rows"] == 223_414
    assert report["patients"] == 64_540
    assert (report["views"]["frontal"], report["views"]["lateral"]) == (191_027, 32_387)
    assert (report["projections"]["AP"], report["projections"]["PA"]) == (161_590, 29_420)
    for name, slug in SLUGS.items():
        finding = report["findings"][slug]
        assert (finding["positive"], finding["negative"], finding["uncertain"]) == COUNTS[name]
        assert finding["blank"] == 223_414 - sum(COUNTS[name])
    assert result["filtered"]["rows"] == 223_414 - sum(result["filtered"]["dropped"].values())
    assert result["gigabytes"] < 1
