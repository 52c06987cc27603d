"""Filters: what passes, what is counted, what "the first studies" means."""

import numpy as np
import pandas as pd
import pytest

from pathologies.labels.filters import filter_frame, study_numbers


def frame_of(rows):
    frame = pd.DataFrame(rows, columns=["patient_id", "study_id", "view", "projection"])
    return frame.assign(image_id=[str(i) for i in range(len(frame))])


FRAME = frame_of(
    [
        ("p1", "p1/study1", "frontal", "AP"),
        ("p1", "p1/study1", "lateral", ""),
        ("p1", "p1/study2", "frontal", "PA"),
        ("p1", "p1/study10", "frontal", "AP"),
        ("p2", "p2/study3", "frontal", "LL"),
        ("p2", "p2/study5", "frontal", "AP"),
        ("p3", "p3/study1", "", ""),
    ]
)


def test_no_filter_changes_nothing():
    frame, dropped = filter_frame(FRAME)
    assert frame is FRAME
    assert dropped == {}


def test_each_row_is_counted_by_the_first_filter_it_fails():
    frame, dropped = filter_frame(FRAME, frontal=True, projections=("AP", "PA"), first_studies=4)
    assert frame["image_id"].tolist() == ["0", "2"]
    assert dropped == {"frontal": 2, "projections": 1, "first_studies": 2}
    assert len(frame) + sum(dropped.values()) == len(FRAME)


def test_numbered_studies_go_by_their_number_even_with_gaps():
    assert study_numbers(FRAME).tolist() == [1, 1, 2, 10, 3, 5, 1]
    frame, _ = filter_frame(FRAME, first_studies=4)
    assert frame["study_id"].tolist() == ["p1/study1", "p1/study1", "p1/study2", "p2/study3", "p3/study1"]


def test_other_studies_go_by_rank_in_natural_order_whatever_the_row_order():
    frame = frame_of(
        [("7", f"7/{n}", "frontal", "PA") for n in (10, 9, 0, 9, 11)] + [("8", "s50414267", "frontal", "AP")]
    )
    assert study_numbers(frame).tolist() == [3, 2, 1, 2, 4, 1]
    order = np.array([4, 5, 2, 0, 3, 1])
    np.testing.assert_array_equal(study_numbers(frame.iloc[order]), study_numbers(frame)[order])
    assert filter_frame(frame, first_studies=2)[0]["study_id"].tolist() == ["7/9", "7/0", "7/9", "s50414267"]


def test_another_filter_moves_no_study_forward():
    frame = frame_of([("7", "7/1", "lateral", ""), ("7", "7/2", "frontal", "PA"), ("8", "8/1", "frontal", "PA")])
    kept, dropped = filter_frame(frame, frontal=True, first_studies=1)
    assert kept["study_id"].tolist() == ["8/1"]
    assert dropped == {"frontal": 1, "first_studies": 1}


def test_bad_requests():
    with pytest.raises(ValueError, match=r"No film has projection 'XP'\. Projections in the labels: AP, LL, PA"):
        filter_frame(FRAME, projections=("AP", "XP"))
    with pytest.raises(ValueError, match="Allowed: 1 or more"):
        filter_frame(FRAME, first_studies=0)
    with pytest.raises(ValueError, match="No row of 1 is left"):
        filter_frame(FRAME.iloc[[1]], frontal=True)
