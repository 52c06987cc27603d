"""orchestrator/ensembling/replace.py: one finding replaced, the others as they were to the byte."""

import json
import shutil

import numpy as np
import pytest

from models.files.layout import read_json
from orchestrator.cli.app import app
from orchestrator.ensembling.build import EnsembleRequest, build_bundle
from orchestrator.ensembling.replace import ReplaceRequest, replace_findings, replacement_table
from orchestrator.inference.bundle import load_bundle, self_test
from orchestrator.inference.predict import PredictRequest, predict
from tests.fake_run import QUICK, make_fake_dataset, make_logits, make_truth, usual_logits, write_fake_run
from tests.small_data import disc_films
from tests.small_run import rewrite_bundle, write_films


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """dataset, run (all findings), better (a run of one better pneumothorax and pneumonia), bundle, consistent."""
    root = tmp_path_factory.mktemp("replace")
    dataset = make_fake_dataset(root / "dataset")
    write_fake_run(root / "run", dataset, usual_logits())
    better = {slug: [make_logits(make_truth()[slug], 0.7, 77)] for slug in ("pneumothorax", "pneumonia")}
    write_fake_run(root / "better", dataset, better, seed=500)
    for name, consistency in (("bundle", False), ("consistent", True)):
        build_bundle(EnsembleRequest(run=root / "run", out=root / name, consistency=consistency, settings=QUICK))
    return root


def replaced(place, out, targets=("pneumothorax",), bundle="bundle", run="better", **changes):
    request = {"run": place / run, "bundle": place / bundle, "targets": targets, "out": out, "settings": QUICK}
    return replace_findings(ReplaceRequest(**(request | changes)))


def test_the_other_findings_stay_as_they_were_to_the_byte(place, tmp_path):
    old = read_json(place / "bundle" / "bundle.json")
    replaced(place, tmp_path / "new")
    new = read_json(tmp_path / "new" / "bundle.json")
    others = ("lung_opacity", "edema", "pneumonia")
    for slug in others:
        assert json.dumps(new["findings"][slug], sort_keys=True) == json.dumps(old["findings"][slug], sort_keys=True)
        for model in old["findings"][slug]["models"]:
            assert (tmp_path / "new" / model["file"]).read_bytes() == (place / "bundle" / model["file"]).read_bytes()
    assert len(new["findings"]["pneumothorax"]["models"]) == 1
    assert new["findings"]["pneumothorax"]["position"] == old["findings"]["pneumothorax"]["position"]
    assert not (tmp_path / "new" / "weights" / "pneumothorax-1.safetensors").exists()
    assert (tmp_path / "new" / new["run"]).resolve() == (place / "run").resolve()
    assert (tmp_path / "new" / new["runs"]["pneumothorax"]).resolve() == (place / "better").resolve()


def test_the_predictions_of_the_others_stay_as_they_were_to_the_byte(place, tmp_path):
    films = write_films(tmp_path / "films", disc_films(np.array([1, 0, 1, 0, 1])))
    replaced(place, tmp_path / "new")
    tables = []
    for number, bundle in enumerate((place / "bundle", tmp_path / "new")):
        request = PredictRequest(
            bundle=bundle, inputs=tuple(map(str, films)), out=tmp_path / f"{number}.csv", device="cpu"
        )
        predict(request)
        tables.append([line.split(",") for line in (tmp_path / f"{number}.csv").read_text().splitlines()])
    columns = tables[0][0]
    assert columns == tables[1][0]
    for index, name in enumerate(columns):
        same = [row[index] for row in tables[0]] == [row[index] for row in tables[1]]
        assert same != name.startswith("pneumothorax") or name.endswith("_positive"), name


def test_the_report_says_what_changed(place, tmp_path):
    description = replaced(place, tmp_path / "new")
    report = description["replaced"]
    assert set(report["unchanged"]) == {"lung_opacity", "edema", "pneumonia"}
    one = report["findings"]["pneumothorax"]
    assert one["role"] == "replaced"
    assert one["after"]["auc"] > one["before"]["auc"]
    assert one["auc_gain"]["value"] == pytest.approx(one["after"]["auc"] - one["before"]["auc"])
    assert one["auc_gain"]["low"] < one["auc_gain"]["value"] < one["auc_gain"]["high"]
    titles, rows = replacement_table(read_json(tmp_path / "new" / "bundle.json"))
    assert rows[0][:2] == ["pneumothorax", "replaced"]
    assert len(rows[0]) == len(titles)


def test_dependants_are_named_and_nothing_is_written(place, tmp_path):
    with pytest.raises(ValueError, match=r"depend on pneumonia: lung_opacity \(by consistency\).*--refit-dependents"):
        replaced(place, tmp_path / "new", ("pneumonia",), "consistent")
    assert not (tmp_path / "new").exists()
    replaced(place, tmp_path / "new", ("pneumothorax",), "consistent")  # it has neither parent nor child


def test_dependants_are_fitted_again_where_that_is_asked_for(place, tmp_path):
    old = read_json(place / "consistent" / "bundle.json")["findings"]
    description = replaced(place, tmp_path / "new", ("pneumonia",), "consistent", refit_dependents=True)
    new = read_json(tmp_path / "new" / "bundle.json")["findings"]
    assert description["replaced"]["findings"]["lung_opacity"]["role"] == "fitted again"
    assert new["edema"] == old["edema"]
    assert new["pneumothorax"] == old["pneumothorax"]
    assert new["lung_opacity"]["models"] == old["lung_opacity"]["models"]
    assert new["lung_opacity"]["calibration"] == old["lung_opacity"]["calibration"]  # its own logits are the same
    assert new["lung_opacity"]["conformal"] != old["lung_opacity"]["conformal"]  # its final probabilities are not
    assert "weights/pneumonia-1.safetensors" not in new["lung_opacity"]["consumes"]
    self_test(load_bundle(tmp_path / "new", "cpu"))


def test_a_refit_equals_a_bundle_made_at_once(place, tmp_path):
    """Replacing with the same networks gives the same entries, dependants included."""
    replaced(place, tmp_path / "new", ("pneumonia",), "consistent", run="run", refit_dependents=True)
    old, new = (read_json(one / "bundle.json")["findings"] for one in (place / "consistent", tmp_path / "new"))
    for slug in ("lung_opacity", "edema", "pneumothorax"):
        for name in ("operating_points", "conformal", "calibration", "cross_validated"):
            assert new[slug][name] == old[slug][name], (slug, name)


def test_stacking_makes_a_dependant(place, tmp_path):
    truth = make_truth()["edema"]
    logits = {"edema": [make_logits(truth, 30, 1)], "lung_opacity": [make_logits(truth, 1, 2)]}
    write_fake_run(tmp_path / "run", place / "dataset", logits)
    build_bundle(EnsembleRequest(run=tmp_path / "run", out=tmp_path / "bundle", settings=QUICK))
    changes = {"bundle": tmp_path / "bundle", "run": tmp_path / "run", "targets": ("lung_opacity",)}
    with pytest.raises(ValueError, match=r"edema \(by stacking\)"):
        replaced(place, tmp_path / "new", **changes)
    description = replaced(place, tmp_path / "new", **changes, refit_dependents=True)
    assert description["findings"]["edema"]["combine"] == "stacking"
    assert description["findings"]["lung_opacity"]["combine"] == "mean of logits"


def test_wrong_requests(place, tmp_path):
    with pytest.raises(ValueError, match="Say with --targets what to replace. The bundle has: edema"):
        replaced(place, tmp_path / "new", ())
    with pytest.raises(ValueError, match="The bundle has no fracture to replace"):
        replaced(place, tmp_path / "new", ("fracture",))
    with pytest.raises(ValueError, match="has no finished training of edema"):
        replaced(place, tmp_path / "new", ("edema",))
    with pytest.raises(ValueError, match="--out is the bundle itself"):
        replaced(place, place / "bundle")
    changed = shutil.copytree(place / "bundle", tmp_path / "changed")
    old = read_json(changed / "bundle.json")
    rewrite_bundle(changed, old | {"data": old["data"] | {"split_hash": "0"}})
    with pytest.raises(ValueError, match="not the one that the bundle was made on: split_hash differ"):
        replaced(place, tmp_path / "new", bundle=changed)
    rewrite_bundle(changed, old | {"adapted": [{"from_sha256": "0"}]})
    with pytest.raises(ValueError, match="was adapted to local films"):
        replaced(place, tmp_path / "new", bundle=changed)
    assert not (tmp_path / "new").exists()


def test_the_command_ends_with_one_table_and_writes_every_candidate_beside_it(place, tmp_path, capsys):
    words = ["ensemble", str(place / "better"), "--out", str(tmp_path / "new"), "--replace", str(place / "bundle")]
    app(args=[*words, "--targets", "pneumothorax"], prog_name="hilum", standalone_mode=False)
    shown = capsys.readouterr().out
    assert "What the replacement changed" in shown
    assert shown.rstrip().splitlines()[-5].startswith("on part calibrate, cross-validated")  # the last table
    kept = (tmp_path / "new" / "comparisons.txt").read_text()
    assert "Every blend that was compared" in kept
    assert {"stacking", "isotonic"} <= set(kept.split())
    assert kept.splitlines()[0] not in shown
    app(args=[*words, "--targets", "pneumothorax", "-v"], prog_name="hilum", standalone_mode=False)
    assert kept in capsys.readouterr().out
    with pytest.raises(ValueError, match="--consistency is a property of the whole bundle"):
        app(args=[*words, "--consistency"], prog_name="hilum", standalone_mode=False)
    with pytest.raises(ValueError, match="--refit-dependents belongs to --replace"):
        app(args=[*words[:4], "--refit-dependents"], prog_name="hilum", standalone_mode=False)
