"""A bundle fitted to a hospital: the weights stay to the byte, the judged films had no share in the fit."""

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.statistics.calibration import Calibration
from orchestrator.ensembling import prior_shift
from orchestrator.ensembling.adapt import REFITTED, SHIFTED, WITHDRAWN, AdaptRequest, adapt
from orchestrator.ensembling.build import EnsembleRequest, build_bundle
from orchestrator.inference.bundle import load_bundle
from tests.fake_run import QUICK, make_fake_dataset, usual_logits, write_fake_run
from tests.small_data import disc_films
from tests.small_run import write_films

LOCAL = 120


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Labelled films of 60 patients: the disc in a quarter of them, and edema on 30 films only, by chance."""
    root, draws = tmp_path_factory.mktemp("hospital"), np.random.default_rng(3)
    truth = (np.arange(LOCAL) % 4 == 0).astype(float)
    films = disc_films(truth, seed=9)
    films = np.clip(films * 0.35 + 60 + draws.normal(0, 12, films.shape), 0, 255).astype(np.uint8)  # another machine
    write_films(root, films)
    table = pd.DataFrame({
        "Path": [f"somewhere/film{number:03d}.png" for number in range(LOCAL)],
        "patient": [f"p{number // 2}" for number in range(LOCAL)],
        "Pneumonia": truth,
        "Edema": np.where(np.arange(LOCAL) < 30, np.arange(LOCAL) % 10 == 0, np.nan),
    })  # fmt: skip
    table.loc[LOCAL] = ["somewhere/none.png", "p0", 1, 0]
    table.to_csv(root / "local.csv", index=False)
    return root


@pytest.fixture(scope="module")
def adapted(house, hospital, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapted") / "bundle"
    request = AdaptRequest(
        bundle=house / "bundle", out=out, labelled=hospital / "local.csv", images=hospital, device="cpu", resamples=50
    )
    return out, adapt(request)


def entries(bundle):
    return json.loads((bundle / "bundle.json").read_text())


def test_no_weight_is_touched(house, adapted):
    out, _ = adapted
    names = sorted(path.name for path in (house / "bundle" / "weights").iterdir())
    assert sorted(path.name for path in (out / "weights").iterdir()) == names
    for name in names:
        assert (out / "weights" / name).read_bytes() == (house / "bundle" / "weights" / name).read_bytes()
    old, new = entries(house / "bundle"), entries(out)
    for slug, entry in new["findings"].items():
        assert entry["models"] == old["findings"][slug]["models"]
        assert entry["blend"] == old["findings"][slug]["blend"]
    film = disc_films(np.array([1.0, 0.0]))
    before, after = load_bundle(house / "bundle", "cpu"), load_bundle(out, "cpu")
    assert (before.logits(film) == after.logits(film)).all()


def test_enough_films_refit_and_few_move_the_prevalence(adapted):
    _, result = adapted
    assert {slug: change.how for slug, change in result.changes.items()} == {"pneumonia": REFITTED, "edema": SHIFTED}
    assert result.changes["edema"].reason.startswith("3 positives and 27 negatives")
    assert any("Too few local films to fit" in note and "edema" in note for note in result.notes)
    assert "Left out: 1 (no such file below the folder of the images)." in result.notes
    titles, rows = result.table
    assert [row[0] for row in rows] == ["edema", "pneumonia"]
    assert {len(row) for row in rows} == {len(titles)}


def test_after_is_better_on_another_machines_films(adapted):
    facts = adapted[1].changes["pneumonia"].facts
    assert facts["films"] == LOCAL
    assert facts["after"]["brier"] < facts["before"]["brier"]
    assert facts["brier_change"]["high"] < 0
    assert facts["prevalence"]["after"] == pytest.approx(0.25)


def test_labels_by_chance_are_not_flattered(house, hospital, tmp_path):
    """A judge that had seen its own films would find the refitted calibration better than the share of positives."""
    table = pd.read_csv(hospital / "local.csv")[:LOCAL]
    table["Pneumonia"] = np.random.default_rng(0).integers(0, 2, LOCAL)
    table.to_csv(tmp_path / "noise.csv", index=False)
    request = AdaptRequest(
        bundle=house / "bundle", out=tmp_path / "out", labelled=tmp_path / "noise.csv", images=hospital, device="cpu",
        resamples=20,
    )  # fmt: skip
    facts = adapt(request).changes["pneumonia"].facts
    assert facts["after"]["brier"] > 0.245


def test_the_bundle_tells_what_was_done(house, hospital, adapted):
    out, _ = adapted
    record = entries(out)["adapted"][0]
    old = entries(house / "bundle")
    assert record["from_sha256"] == hashlib.sha256((house / "bundle" / "bundle.json").read_bytes()).hexdigest()
    assert record["labels_sha256"] == hashlib.sha256((hospital / "local.csv").read_bytes()).hexdigest()
    assert (record["films"], record["patients"]) == (LOCAL, 60)
    told = record["findings"]["pneumonia"]
    assert told["previous"]["calibration"] == old["findings"]["pneumonia"]["calibration"]
    assert told["previous"]["operating_points"] == old["findings"]["pneumonia"]["operating_points"]
    films = pd.read_csv(out / record["films_list"])
    assert films["counted"].sum() == LOCAL
    first = films.iloc[0]
    assert first["sha256"] == hashlib.sha256((hospital / "film000.png").read_bytes()).hexdigest()
    assert films.iloc[-1]["reason"] == "no such file below the folder of the images"
    assert (out / entries(out)["run"]).resolve() == (house / "run").resolve()


def test_findings_without_local_labels_are_kept(house, hospital, tmp_path):
    table = pd.read_csv(hospital / "local.csv").drop(columns="Edema")
    table.to_csv(tmp_path / "one.csv", index=False)
    shutil.copytree(house / "bundle", tmp_path / "bundle")
    request = AdaptRequest(
        bundle=tmp_path / "bundle", out=tmp_path / "out", labelled=tmp_path / "one.csv", images=hospital, device="cpu",
        resamples=20,
    )  # fmt: skip
    result = adapt(request)
    assert "Kept as they were: edema." in result.notes
    assert entries(tmp_path / "out")["findings"]["edema"] == entries(house / "bundle")["findings"]["edema"]
    assert adapt(request).table == result.table  # the same command again makes the same bundle anew
    other = AdaptRequest(bundle=house / "bundle", out=tmp_path / "bundle", prevalence=("edema=0.5",), device="cpu")
    with pytest.raises(ValueError, match="exists and was not adapted from this bundle"):
        adapt(other)


def test_prevalence_by_hand_and_by_table(house, tmp_path):
    bundle = house / "bundle"
    request = AdaptRequest(bundle=bundle, out=tmp_path / "a", prevalence=("Pneumonia=0.1",), device="cpu")
    result = adapt(request)
    old, new = (entries(one)["findings"]["pneumonia"] for one in (bundle, tmp_path / "a"))
    assert Calibration.from_dict(new["calibration"]).prevalence == 0.1
    assert new["operating_points"]["f2"]["threshold"] < old["operating_points"]["f2"]["threshold"]
    assert "nothing here is measured" in result.notes[0]
    film = disc_films(np.array([1.0, 0.0] * 10))
    before, after = (load_bundle(one, "cpu") for one in (bundle, tmp_path / "a"))
    column = before.slugs.index("pneumonia")
    calls = [
        one.probabilities(film)[:, column] >= one.classifiers[column].threshold for one in (before, after)
    ]  # the same films, at another probability
    assert (calls[0] == calls[1]).all()
    (tmp_path / "p.csv").write_text("finding,prevalence\nEdema,0.2\nPneumonia,0.1\n")
    again = adapt(AdaptRequest(bundle=bundle, out=tmp_path / "b", prevalence=(str(tmp_path / "p.csv"),), device="cpu"))
    assert again.description["adapted"][0]["prevalence"] == {"edema": 0.2, "pneumonia": 0.1}
    assert entries(tmp_path / "b")["findings"]["pneumonia"]["calibration"] == new["calibration"]
    twice = adapt(AdaptRequest(bundle=tmp_path / "a", out=tmp_path / "c", prevalence=("edema=0.3",), device="cpu"))
    assert [list(one["findings"]) for one in twice.description["adapted"]] == [["pneumonia"], ["edema"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "Give either --labelled"),
        ({"prevalence": ("edema=0.1",), "labelled": "local.csv"}, "Give either --labelled"),
        ({"prevalence": ("edma=0.1",)}, "Did you mean 'edema'"),
        ({"prevalence": ("edema=0",)}, "between 0 and 1, both excluded"),
        ({"labelled": "local.csv", "path_column": "file"}, "--path-column names one that is not there"),
        ({"labelled": "local.csv", "patient_column": "who"}, "no column 'who'"),
        ({"labelled": "none.csv"}, "There is no table"),
    ],
)
def test_mistakes_are_sentences(house, hospital, tmp_path, changes, message):
    if "labelled" in changes:
        changes = changes | {"labelled": hospital / changes["labelled"], "images": hospital}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        adapt(AdaptRequest(bundle=house / "bundle", out=tmp_path / "out", device="cpu", **changes))
    assert not (tmp_path / "out").exists()


def point(**changes):
    given = {"threshold": 0.3, "useful": True, "reason": "", "sensitivity": 0.9, "specificity": 0.8, "precision": 0.6}
    return given | {"f1": 0.7, "f2": 0.8} | changes


ENTRY = {
    "calibration": {"method": "platt", "slope": 2.0, "intercept": -1.0, "prevalence": 0.25},
    "counts": {"films": 400, "positives": 100},
    "operating_points": {"f2": point(), "precision>=0.5": point(), "cost(5,1)": point(threshold=1 / 6)},
    "conformal": {"coverage": 0.9, "low": 0.1, "high": 1.0},
}


def test_shifted_points():
    shifted = prior_shift.shift_entry(ENTRY, 0.05)
    points = shifted["operating_points"]
    assert points["f2"]["threshold"] == pytest.approx(0.3 / 0.7 * (0.05 / 0.95) / (1 / 3) / (1 + 0.3 / 0.7 * 3 / 19))
    expected = 0.05 * 0.9 / (0.05 * 0.9 + 0.95 * 0.2)  # Bayes
    assert points["f2"]["precision"] == pytest.approx(expected)
    assert points["f2"]["sensitivity"] == 0.9
    assert not points["precision>=0.5"]["useful"]
    assert "precision is about 0.191" in points["precision>=0.5"]["reason"]
    assert points["cost(5,1)"]["threshold"] == 1 / 6  # what a false alarm may cost has nothing to do with prevalence
    assert points["cost(5,1)"]["sensitivity"] is None
    assert shifted["conformal"]["high"] == 1.0
    assert shifted["conformal"]["low"] < 0.1


@given(st.floats(0.01, 0.99), st.floats(-4, 4))
def test_a_shift_there_and_back_changes_nothing(share, logit):
    there = ENTRY | prior_shift.shift_entry(ENTRY, share)
    back = prior_shift.shift_entry(there, 0.25)
    calibrations = [Calibration.from_dict(one["calibration"]) for one in (ENTRY, back)]
    assert calibrations[0].apply(logit) == pytest.approx(calibrations[1].apply(logit))
    assert back["operating_points"]["f2"]["threshold"] == pytest.approx(0.3)


def test_estimated_prevalence_is_never_0_or_1():
    assert prior_shift.estimate_prevalence(np.array([np.nan]), 0.3) == pytest.approx(0.3)
    assert 0 < prior_shift.estimate_prevalence(np.zeros(5), 0.3) < 0.3
    assert prior_shift.estimate_prevalence(np.ones(1000), 0.3) == pytest.approx(1, abs=2e-3)


@pytest.fixture(scope="module")
def consistent(tmp_path_factory):
    """A bundle that raises lung opacity to its children edema and pneumonia."""
    root = tmp_path_factory.mktemp("consistent")
    run = write_fake_run(root / "run", make_fake_dataset(root / "dataset"), usual_logits())
    description = build_bundle(EnsembleRequest(run=run, out=root / "bundle", consistency=True, settings=QUICK))
    assert description["consistency"] is True
    return root / "bundle"


def raised(folder, films):
    """(probabilities by finding, the parent's own one before it is raised)."""
    bundle = load_bundle(folder, "cpu")
    logits = bundle.logits(films)
    column = bundle.slugs.index("lung_opacity")
    own = bundle.classifiers[column].calibration.apply(logits[:, column])
    return dict(zip(bundle.slugs, bundle.calibrate(logits).T, strict=True)), own


@pytest.mark.slow
def test_parents_stay_above_their_children_after_a_refit(consistent, tmp_path):
    draws = np.random.default_rng(4)
    edema, opacity = draws.random(LOCAL) < 0.5, draws.random(LOCAL) < 0.3
    films = disc_films((opacity | edema).astype(float), seed=5)
    write_films(tmp_path / "films", films)
    table = pd.DataFrame({"Path": [f"film{number:03d}.png" for number in range(LOCAL)],
                          "patient": [f"p{number // 2}" for number in range(LOCAL)],
                          "Lung Opacity": (opacity | edema).astype(int), "Edema": edema.astype(int)})  # fmt: skip
    table.to_csv(tmp_path / "local.csv", index=False)
    request = AdaptRequest(bundle=consistent, out=tmp_path / "out", labelled=tmp_path / "local.csv",
                           images=tmp_path / "films", device="cpu", resamples=20)  # fmt: skip
    result = adapt(request)
    assert {slug: change.how for slug, change in result.changes.items()} == dict.fromkeys(
        ("lung_opacity", "edema"), REFITTED
    )
    assert any("Thresholds of parents heed all of their children" in note for note in result.notes)
    children = result.changes["lung_opacity"].entry["consistency"]["children"]
    assert sorted(children) == ["edema", "pneumonia"]  # pneumonia had no labels here, and still raises its parent
    assert entries(tmp_path / "out")["consistency"] is True
    found, own = raised(tmp_path / "out", films)
    for child in ("edema", "pneumonia"):
        assert (found["lung_opacity"] >= found[child]).all()
    np.testing.assert_array_equal(found["lung_opacity"], np.max([own, found["edema"], found["pneumonia"]], axis=0))
    assert (found["lung_opacity"] > own).any()
    expected = json.loads((tmp_path / "out" / "selftest" / "expected.json").read_text())["probabilities"]
    assert expected["lung_opacity"] >= max(expected["edema"], expected["pneumonia"])


@pytest.mark.slow
def test_a_child_whose_prevalence_moves_takes_its_parent_along(consistent, tmp_path):
    films = disc_films(np.array([1.0, 0.0] * 10))
    before, _ = raised(consistent, films)
    shares = ("edema=0.95", "lung_opacity=0.95")
    adapt(AdaptRequest(bundle=consistent, out=tmp_path / "out", prevalence=shares, device="cpu"))
    after, own = raised(tmp_path / "out", films)
    assert (after["edema"] > before["edema"]).all()
    np.testing.assert_array_equal(after["lung_opacity"], np.max([own, after["edema"], after["pneumonia"]], axis=0))
    assert (after["lung_opacity"] > own).any()


@pytest.mark.slow
def test_a_parent_moved_without_its_children_gives_no_answers_that_it_cannot_stand_for(consistent, tmp_path):
    old = entries(consistent)["findings"]["lung_opacity"]
    given = ("lung_opacity=0.9", "pneumothorax=0.1")
    result = adapt(AdaptRequest(bundle=consistent, out=tmp_path / "out", prevalence=given, device="cpu"))
    new = entries(tmp_path / "out")["findings"]
    assert new["lung_opacity"]["calibration"]["prevalence"] == 0.9
    points = new["lung_opacity"]["operating_points"]
    assert old["operating_points"]["f2"]["useful"]
    assert not points["f2"]["useful"]
    assert "raised to edema, pneumonia, whose prevalence did not move with its own" in points["f2"]["reason"]
    assert points["cost(5,1)"]["threshold"] == old["operating_points"]["cost(5,1)"]["threshold"]
    assert points["cost(5,1)"]["useful"] == old["operating_points"]["cost(5,1)"]["useful"]
    assert (new["lung_opacity"]["conformal"]["low"], new["lung_opacity"]["conformal"]["high"]) == (0, 1)
    assert new["pneumothorax"]["operating_points"]["f2"]["useful"]
    assert new["edema"] == entries(consistent)["findings"]["edema"]
    assert any(note.startswith("No yes/no answers any more, cost rules apart: lung_opacity.") for note in result.notes)
    child = adapt(AdaptRequest(bundle=consistent, out=tmp_path / "child", prevalence=("edema=0.2",), device="cpu"))
    assert child.changes["lung_opacity"].how == WITHDRAWN
    with pytest.raises(
        ValueError, match=r"edema at 0.95 would be more common than lung_opacity at .* Give lung_opacity"
    ):
        adapt(AdaptRequest(bundle=consistent, out=tmp_path / "no", prevalence=("edema=0.95",), device="cpu"))
    assert not (tmp_path / "no").exists()


def test_a_family_whose_steps_differ_calls_other_films():
    """Moved alike, a raised parent's threshold calls the films that it did; moved alone, it does not."""
    draws = np.random.default_rng(0).normal(size=(2000, 2))
    before = {"opacity": ENTRY, "edema": ENTRY}
    parents = {"edema": ["opacity"], "opacity": []}

    def called(findings):
        odds = [Calibration.from_dict(findings[slug]["calibration"]).apply(draws[:, at])
                for at, slug in enumerate(("opacity", "edema"))]  # fmt: skip
        return np.max(odds, axis=0) >= findings["opacity"]["operating_points"]["f2"]["threshold"]

    moved = ENTRY | prior_shift.shift_entry(ENTRY, 0.05)
    alike, alone = {"opacity": moved, "edema": moved}, {"opacity": moved, "edema": ENTRY}
    assert prior_shift.off_scale(before, alike, parents) == {}
    assert (called(alike) == called(before)).all()
    assert prior_shift.off_scale(before, alone, parents) == {"opacity": ["opacity", "edema"]}
    assert (called(alone) != called(before)).mean() > 0.1
    entry = prior_shift.withdraw_points(alone["opacity"], ["edema"])
    assert [rule for rule, one in entry["operating_points"].items() if one["useful"]] == ["cost(5,1)"]
    assert entry["operating_points"]["f2"]["sensitivity"] is None
    assert (entry["conformal"]["low"], entry["conformal"]["high"]) == (0, 1)
    assert ENTRY["operating_points"]["f2"]["useful"]
