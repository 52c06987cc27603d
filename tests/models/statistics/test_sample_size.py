"""The underpowered guard: its formulas against published figures and against simulation."""

import math

import numpy as np
import pytest

from models.statistics.sample_size import (
    HALF_WIDTH,
    Z_95,
    auc_standard_error,
    cases_needed_for_proportion,
    judge_sample_size,
    positives_needed_for_auc,
)


def test_standard_error_of_the_published_example():
    # Hanley and McNeil 1982: 51 abnormal and 58 normal CT images, area 0.893, standard error 0.032.
    assert auc_standard_error(0.893, 51, 58) == pytest.approx(0.032, abs=0.001)


def test_standard_error_of_the_exponential_model_it_is_exact_for():
    rng, auc, positives, negatives = np.random.default_rng(0), 0.8, 30, 60
    rate = auc / (1 - auc)  # scores of the negatives decay so many times faster
    areas = [
        np.mean(rng.exponential(1, positives)[:, None] > rng.exponential(1 / rate, negatives)) for _ in range(4000)
    ]
    assert np.mean(areas) == pytest.approx(auc, abs=0.003)
    assert np.std(areas) == pytest.approx(auc_standard_error(auc, positives, negatives), rel=0.05)


def test_cases_for_a_proportion():
    # n = 1.96^2 s (1 - s) / 0.05^2; 385 is the textbook number for s = 0.5.
    assert cases_needed_for_proportion(0.5) == 385
    assert cases_needed_for_proportion(0.8) == 246
    assert cases_needed_for_proportion(0.8, half_width=0.1) == 62
    assert cases_needed_for_proportion(1.0) == 1


@pytest.mark.parametrize("auc", [0.5, 0.7, 0.85, 0.95])
@pytest.mark.parametrize("ratio", [0.2, 1, 9])
def test_needed_positives_are_the_fewest(auc, ratio):
    needed = positives_needed_for_auc(auc, ratio=ratio)
    assert Z_95 * auc_standard_error(auc, needed, math.ceil(ratio * needed)) <= HALF_WIDTH
    assert Z_95 * auc_standard_error(auc, needed - 1, math.ceil(ratio * (needed - 1))) > HALF_WIDTH


def test_guard_marks_what_is_below_the_minimum():
    assert judge_sample_size(20, 20).underpowered is False
    assert judge_sample_size(20, 20).note == ""
    assert judge_sample_size(19, 1000).underpowered is True
    assert judge_sample_size(1000, 19).underpowered is True
    assert judge_sample_size(25, 1000, minimum=30).underpowered is True


@pytest.mark.parametrize("positives", [0, 1])  # Fracture, Lung Lesion and Pleural Other in CheXpert's valid.csv
def test_findings_of_the_validation_file_are_underpowered(positives):
    power = judge_sample_size(positives, 200 - positives)
    assert power.underpowered
    assert power.note.startswith(f"underpowered: {positives} positives (fewer than 20); a 95 % interval of +-0.05")
    assert power.positives_needed_for_auc > 20
    assert math.isnan(power.auc_half_width) == (positives == 0)


def test_note_speaks_of_the_scarcer_class():
    power = judge_sample_size(400, 3)
    assert "3 negatives (fewer than 20)" in power.note
    assert f"{power.negatives_needed_for_auc:,} negatives for the AUC" in power.note
    assert "specificity" in power.note


def test_more_cases_narrow_the_interval():
    widths = [judge_sample_size(n, 10 * n).auc_half_width for n in (5, 20, 80, 320)]
    assert widths == sorted(widths, reverse=True)


def test_bad_input():
    with pytest.raises(ValueError, match="Allowed: 0 or more"):
        judge_sample_size(-1, 3)
    with pytest.raises(ValueError, match="needs both classes"):
        auc_standard_error(0.8, 0, 3)
    with pytest.raises(ValueError, match="The AUC is 1.2"):
        positives_needed_for_auc(1.2)
    with pytest.raises(ValueError, match="Allowed: above 0"):
        positives_needed_for_auc(0.8, ratio=0)
