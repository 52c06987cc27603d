"""Patients stay together, parts stay alike, and the same data always give the same parts."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathologies.sources.registry import read_labels
from pathologies.splits.assignment import (
    FRACTIONS,
    PARTS,
    assign_parts,
    check_disjoint,
    drift_warnings,
    official_parts,
    positive_rates,
    split_hash,
)
from pathologies.splits.shared_split import apply_split, check_split, share_split
from tests.chexpert_like import SLUGS, as_label_frame, chexpert_like

FINDINGS = ("edema", "fracture", "pneumonia")
GOLDEN = "baa2512cff95cba0d929bd6ee63ed8d38bfb7a8cb992af840605ceb04facc95a"


def random_frame(patients: int, seed: int, most: int = 6) -> pd.DataFrame:
    """Raw labels of 1, 0, -1 and NaN for patients with 1 to `most` images each."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, most + 1, patients))
    names = [f"patient{number:05d}" for number in patient]
    frame = pd.DataFrame({"image_id": [f"{name}/{row}.png" for row, name in enumerate(names)], "patient_id": names})
    for slug, rate in zip(FINDINGS, (0.4, 0.05, 0.15), strict=True):
        frame[slug] = rng.choice(np.float32([1, 0, -1, np.nan]), len(frame), p=[rate, 0.3, 0.1, 0.6 - rate])
    return frame


frames = st.builds(random_frame, st.integers(4, 60), st.integers(0, 10_000))
seeds = st.integers(0, 1_000)


@settings(max_examples=40, deadline=None)
@given(frames, seeds)
def test_every_row_has_a_part_and_no_patient_two(frame, seed):
    parts = assign_parts(frame, FINDINGS, seed=seed)
    assert parts.shape == (len(frame),)
    assert set(parts) == set(PARTS)  # none is empty, from four patients on
    assert pd.Series(parts).groupby(frame["patient_id"].to_numpy()).nunique().max() == 1
    check_disjoint(frame, parts)


@settings(max_examples=25, deadline=None)
@given(frames, seeds, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(frame, seed, random):
    order = list(range(len(frame)))
    random.shuffle(order)
    parts = assign_parts(frame, FINDINGS, seed=seed)
    shuffled = assign_parts(frame.iloc[order], FINDINGS, seed=seed)
    np.testing.assert_array_equal(shuffled, parts[order])
    assert split_hash(frame.iloc[order], shuffled) == split_hash(frame, parts)
    np.testing.assert_array_equal(assign_parts(frame, FINDINGS, seed=seed), parts)


@settings(max_examples=15, deadline=None)
@given(st.builds(random_frame, st.integers(8, 40), st.integers(0, 10_000)), seeds, st.integers(2, 5))
def test_folds_test_every_patient_once(frame, seed, folds):
    tested = np.zeros(len(frame), int)
    for number in range(1, folds + 1):
        parts = assign_parts(frame, FINDINGS, seed=seed, fold=(number, folds))
        check_disjoint(frame, parts)
        assert set(parts) == set(PARTS) or len(frame["patient_id"].unique()) < folds * 3
        tested += parts == "test"
    np.testing.assert_array_equal(tested, 1)


def test_another_seed_gives_other_parts():
    frame = random_frame(200, 0)
    assert (assign_parts(frame, FINDINGS, seed=1) != assign_parts(frame, FINDINGS, seed=2)).mean() > 0.2


def test_parts_do_not_depend_on_uncertain_or_blank_cells():
    frame = random_frame(100, 3)
    other = frame.assign(**{slug: frame[slug].where(frame[slug] == 1, 0) for slug in FINDINGS})
    np.testing.assert_array_equal(assign_parts(frame, FINDINGS), assign_parts(other, FINDINGS))


@pytest.mark.parametrize("fold", [None, (2, 5)])
def test_parts_are_alike_and_of_the_size_asked_for(fold):
    frame = random_frame(1_500, 7)
    parts = assign_parts(frame, FINDINGS, fold=fold)
    shares = np.array([np.mean(parts == part) for part in PARTS])
    wanted = np.array(FRACTIONS) if fold is None else np.append(np.array(FRACTIONS[:3]) / 0.85 * 0.8, 0.2)
    np.testing.assert_allclose(shares, wanted, atol=0.003)
    rates = 100 * positive_rates(frame, parts, FINDINGS)
    assert (rates.max() - rates.min()).max() < 0.5
    patients = frame.groupby(parts)["patient_id"].nunique()
    images_each = frame.groupby(parts).size() / patients
    assert images_each.max() - images_each.min() < 0.1  # large patients do not gather in the largest part


@pytest.mark.parametrize("seed", range(5))
def test_small_data_are_as_even_as_whole_patients_allow(seed):
    frame = random_frame(150, seed)
    parts = assign_parts(frame, FINDINGS, seed=seed)
    for slug in FINDINGS:
        positive = frame[slug] == 1
        for part, share in zip(PARTS, FRACTIONS, strict=True):
            assert abs((positive & (parts == part)).sum() - share * positive.sum()) <= 1


def test_large_patients_spread_over_the_parts():
    rng = np.random.default_rng(0)
    sizes = np.floor(rng.pareto(1.3, 2_000) + 1).clip(max=90).astype(int)
    patient = np.repeat(np.arange(2_000), sizes)
    frame = pd.DataFrame({"image_id": np.arange(len(patient)).astype(str), "patient_id": patient.astype(str)})
    frame["edema"] = (rng.random(len(patient)) < 0.4).astype(np.float32)
    parts = pd.Series(assign_parts(frame, ["edema"])).groupby(patient).first()
    largest = parts.iloc[np.argsort(-sizes)[:200]].value_counts(normalize=True)
    np.testing.assert_allclose(largest[list(PARTS)], FRACTIONS, atol=0.03)


@pytest.mark.parametrize("patients", [4, 5, 10, 20])
def test_tiny_data_still_fill_every_part(patients):
    parts = assign_parts(random_frame(patients, 1, most=40), FINDINGS)
    assert set(parts) == set(PARTS)


def test_a_fraction_of_zero_leaves_a_part_empty():
    frame = random_frame(30, 0)
    parts = assign_parts(frame, FINDINGS, fractions=(0.7, 0, 0, 0.3))
    assert set(parts) == {"train", "test"}
    assert set(assign_parts(frame, [], fractions=(1, 0, 0, 0))) == {"train"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0.5, 0.1, 0.1, 0.1)}, "add up to 0.8"),
        ({"fractions": (0.5, 0.5)}, "not 4 numbers"),
        ({"fractions": (1.2, -0.2, 0, 0)}, "not 4 numbers"),
        ({"fold": (0, 5)}, "Fold 0/5"),
        ({"fold": (6, 5)}, "Fold 6/5"),
        ({"fold": (1, 1)}, "Fold 1/1"),
        ({"fold": (1, 9)}, "cannot fill 9 folds"),
        ({"fold": (1, 2), "fractions": (0, 0, 0, 1)}, "at least one"),
    ],
)
def test_impossible_splits_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        assign_parts(random_frame(8, 0), FINDINGS, **options)


def test_bad_frames_are_refused():
    frame = random_frame(8, 0)
    with pytest.raises(ValueError, match="3 patients cannot fill the 4 parts"):
        assign_parts(random_frame(3, 0), FINDINGS)
    with pytest.raises(ValueError, match="'hernia'"):
        assign_parts(frame, ["hernia"])
    frame.loc[2, "patient_id"] = ""
    with pytest.raises(ValueError, match="Row 2"):
        assign_parts(frame, FINDINGS)


def test_a_patient_on_two_sides_is_named():
    frame = random_frame(20, 0)
    parts = assign_parts(frame, FINDINGS)
    patient = frame["patient_id"].value_counts().index[0]
    row = np.flatnonzero(frame["patient_id"] == patient)[0]
    parts[row] = "test" if parts[row] == "train" else "train"
    with pytest.raises(ValueError, match=f"1 patient.*{patient}"):
        check_disjoint(frame, parts)


def test_the_hash_sees_every_change():
    frame = random_frame(20, 0)
    parts = assign_parts(frame, FINDINGS)
    other = parts.copy()
    other[3] = "test" if parts[3] != "test" else "train"
    assert len(split_hash(frame, parts)) == 64
    assert split_hash(frame, other) != split_hash(frame, parts)


def test_the_parts_of_one_frame_stay_what_they_are():
    """A change of the method moves films of every data set that is prepared anew, test films among them: it must be
    meant. Labels by arithmetic, so that no random generator has a share in it."""
    patient = np.repeat(np.arange(150), 1 + 7 * np.arange(150) % 6)
    rows = np.arange(len(patient))
    frame = pd.DataFrame({"image_id": rows.astype(str), "patient_id": [f"patient{number}" for number in patient]})
    for place, (slug, rate) in enumerate(zip(FINDINGS, (0.4, 0.05, 0.15), strict=True)):
        frame[slug] = ((rows + 1) * (2654435761 + 2 * place * 40503) % 2**32 / 2**32 < rate).astype(np.float32)
    assert split_hash(frame, assign_parts(frame, FINDINGS)) == GOLDEN


def test_drift_is_a_sentence_for_each_finding_that_drifts():
    frame = pd.DataFrame({"edema": np.float32([1] * 10 + [0] * 90 + [1] * 13 + [0] * 87), "fracture": np.float32(0)})
    parts = np.repeat(["train", "test"], 100)
    assert drift_warnings(frame, parts, ["fracture"]) == []
    (sentence,) = drift_warnings(frame, parts, ["edema", "fracture"])
    assert sentence.startswith("edema: 13.0 % positive in test, 10.0 % in train")
    assert drift_warnings(frame, parts, ["edema"], points=4) == []


@pytest.mark.parametrize("fold", [None, (2, 4)])
def test_films_that_cannot_be_known_are_spread_and_are_no_negatives(fold):
    frame = random_frame(300, 3, most=2)
    frame.loc[np.random.default_rng(4).random(len(frame)) < 0.5, "edema"] = -2
    parts = assign_parts(frame, FINDINGS, fold=fold)
    known = frame["edema"] != -2
    shares = pd.Series(parts).value_counts(normalize=True)
    counts = known.groupby(parts).sum()
    np.testing.assert_allclose(counts, shares[counts.index] * known.sum(), atol=1.5)
    rates = positive_rates(frame, parts, FINDINGS)
    for part in rates.index:
        assert rates.loc[part, "edema"] == (frame["edema"][known & (parts == part)] == 1).mean()
    frame.loc[parts == "test", "edema"] = -2
    assert "test: no film has a label of edema; not compared with the other parts." in drift_warnings(
        frame, parts, FINDINGS
    )


def test_a_part_without_labels_has_no_rate_to_drift():
    """A hidden test part is not one where nobody is ill."""
    columns = {"edema": np.float32([1, 0] * 50 + [np.nan] * 100), "fracture": np.float32([np.nan] * 200)}
    parts = np.repeat(["train", "test"], 100)
    (sentence,) = drift_warnings(pd.DataFrame(columns), parts, ["edema", "fracture"])
    assert sentence == "test: no film has a label of edema; not compared with the other parts."


def test_official_parts_are_kept():
    frame = random_frame(60, 0)
    number = frame["patient_id"].str[-2:].astype(int)
    frame["official_split"] = np.select([number < 45, number < 50], ["train", "valid"], "test")
    parts = official_parts(frame, FINDINGS)
    assert set(parts[number >= 50]) == {"test"}
    assert set(parts[(number >= 45) & (number < 50)]) == {"select"}
    assert set(parts[number < 45]) == {"train", "calibrate"}
    check_disjoint(frame, parts)
    without = official_parts(frame.assign(official_split=np.where(number < 50, "train_val", "test")), FINDINGS)
    assert set(without[number < 50]) == {"train", "select", "calibrate"}
    with pytest.raises(ValueError, match="no official split to keep"):
        official_parts(frame.assign(official_split="train"), FINDINGS)
    with pytest.raises(ValueError, match=r"official split \[''\]"):
        official_parts(frame.assign(official_split=np.where(number < 50, "", "test")), FINDINGS)
    mixed = frame.assign(official_split=np.where(np.arange(len(frame)) % 2, "train", "test"))
    with pytest.raises(ValueError, match="more than one part"):
        official_parts(mixed, FINDINGS)


def test_a_shared_split_names_nobody_and_comes_back():
    frame = random_frame(30, 0)
    parts = assign_parts(frame, FINDINGS)
    text = json.dumps(share_split(frame, parts, "a long salt"))
    assert "patient0" not in text
    assert "a long salt" not in text
    manifest, order = json.loads(text), np.random.default_rng(0).permutation(len(frame))
    np.testing.assert_array_equal(apply_split(manifest, frame.iloc[order], "a long salt"), parts[order])
    check_split(manifest, frame.iloc[order], parts[order], "a long salt")
    assert share_split(frame.iloc[order], parts[order], "a long salt")["hash"] == manifest["hash"]


def test_a_shared_split_that_does_not_fit_is_refused():
    frame = random_frame(30, 0)
    parts = assign_parts(frame, FINDINGS)
    manifest = share_split(frame, parts, "a long salt")
    with pytest.raises(ValueError, match="another salt"):
        check_split(manifest, frame, parts, "another salt")
    with pytest.raises(ValueError, match="1 of .* other parts"):
        check_split(manifest, frame, np.where(np.arange(len(frame)) == 5, "moved", parts), "a long salt")
    with pytest.raises(ValueError, match="are here"):
        check_split(manifest, frame.iloc[1:], parts[1:], "a long salt")
    with pytest.raises(ValueError, match="not in the shared split"):
        apply_split(manifest, frame.assign(image_id=frame["image_id"] + "x"), "a long salt")
    changed = json.loads(json.dumps(manifest))
    changed["rows"][0][2] = "test" if changed["rows"][0][2] != "test" else "train"
    with pytest.raises(ValueError, match="changed or cut off"):
        apply_split(changed, frame, "a long salt")
    with pytest.raises(ValueError, match="can be guessed"):
        share_split(frame, parts, "short")
    with pytest.raises(ValueError, match="Not a shared split"):
        apply_split({}, frame, "a long salt")


def test_five_folds_of_real_labels_do_not_drift(real_data):
    read = read_labels("nih", real_data / "nih-sample" / "Data_Entry_2017.csv")
    for number in range(1, 6):
        parts = assign_parts(read.frame, read.findings, fold=(number, 5))
        assert drift_warnings(read.frame, parts, read.findings) == []


@pytest.mark.slow
@pytest.mark.parametrize("fold", [None, (3, 5)])
def test_full_size_split_is_even(fold):
    frame, slugs = as_label_frame(chexpert_like()), tuple(SLUGS.values())
    parts = assign_parts(frame, slugs, fold=fold)
    check_disjoint(frame, parts)
    rates = 100 * positive_rates(frame, parts, slugs)
    assert (rates.max() - rates.min()).max() < 0.5
    if fold is None:
        np.testing.assert_allclose([np.mean(parts == part) for part in PARTS], FRACTIONS, atol=0.001)
