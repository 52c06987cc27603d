"""orchestrator/evaluation/evaluate_bundle.py: a bundle judged on a part; every reading of the test labels is on record
first.
"""

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from models.data.intensity import INTENSITY_CONTRACTS
from models.files.layout import RunPaths, read_json, read_json_lines, write_json
from models.statistics.metrics import auc
from orchestrator.datasets.dataset import load_dataset
from orchestrator.evaluation.evaluate_bundle import EvaluateRequest, evaluate
from orchestrator.inference.bundle import load_bundle
from pathologies.findings.catalog import CHEXPERT_TARGETS, load_catalog
from tests.small_data import make_dataset
from tests.small_run import FILMS, FINDINGS


def run(root, out, **request):
    wanted = {"bundle": root / "bundle", "dataset": root / "dataset", "out": out, "device": "cpu", "resamples": 20}
    return evaluate(EvaluateRequest(**wanted | request))


@pytest.fixture(scope="module")
def own(house, tmp_path_factory):
    """A house of this file's own, so that its log of readings is not disturbed."""
    return shutil.copytree(house, tmp_path_factory.mktemp("own") / "house")


@pytest.fixture(scope="module")
def result(own):
    return run(own, own / "judged")


@pytest.fixture
def undrawn(monkeypatch):
    """Without the pictures, which take most of the time."""
    monkeypatch.setattr("orchestrator.evaluation.evaluate_bundle._draw", lambda *words: None)


def test_the_figures_are_of_the_test_part_and_the_bundles_answers(own, result):
    dataset = load_dataset(own / "dataset")
    rows = np.flatnonzero(dataset.parts() == "test")
    truth = dataset.read_labels_frame().iloc[rows]
    probability = load_bundle(own / "bundle", "cpu").probabilities(dataset.images()[rows])
    assert result.report.rows == len(rows)
    for column, slug in enumerate(("edema", "pneumonia")):
        finding = result.report.findings[slug]
        assert finding.figures["auc"].value == pytest.approx(auc(probability[:, column], truth[slug].to_numpy()))
        assert finding.positives == (truth[slug] == 1).sum()
    table = pd.read_csv(own / "judged" / "predictions.csv")
    assert table["path"].tolist() == truth["image_id"].tolist()
    np.testing.assert_allclose(table[["edema", "pneumonia"]], probability, atol=1e-5)


def test_tables_and_pictures_are_there(own, result):
    names = {path.name for path in (own / "judged").iterdir()}
    assert {"metrics.csv", "table.txt", "report.json", "predictions.csv", "overview.png", "pneumonia.png"} <= names
    digest = hashlib.sha256((own / "bundle" / "bundle.json").read_bytes()).hexdigest()
    assert "pneumonia" in (own / "judged" / "table.txt").read_text()
    assert f"Bundle bundle, SHA-256 {digest}." in (own / "judged" / "table.txt").read_text()
    assert json.loads((own / "judged" / "report.json").read_text())["bundle_sha256"] == digest
    figures = pd.read_csv(own / "judged" / "metrics.csv").set_index("finding")
    assert figures.loc["pneumonia", "auc"] == pytest.approx(result.report.findings["pneumonia"].figures["auc"].value)


def test_the_reading_is_on_record_in_the_run(own, result):
    lines = read_json_lines(RunPaths(own / "run").test_reads)
    assert lines[0]["command"] == "evaluate"
    assert lines[0]["split_hash"] == load_dataset(own / "dataset").manifest["split_hash"]
    assert len(lines[0]["bundle_sha256"]) == 64


def test_it_is_on_record_before_the_labels_are_looked_at(own, undrawn, tmp_path):
    """A reading that fails on the way has been a reading."""
    before = len(read_json_lines(RunPaths(own / "run").test_reads))
    with pytest.raises((ValueError, OSError), match="absent"):
        run(own, tmp_path / "judged", truth=tmp_path / "absent.csv")
    lines = read_json_lines(RunPaths(own / "run").test_reads)
    assert len(lines) == before + 1
    assert lines[-1]["truth"] == "absent.csv"
    assert not (tmp_path / "judged").exists()


def test_other_parts_are_no_reading_and_flatter(own, undrawn, tmp_path):
    before = len(read_json_lines(RunPaths(own / "run").test_reads))
    result = run(own, tmp_path / "judged", part="calibrate")
    assert "these figures flatter it" in result.notes[0]
    assert len(read_json_lines(RunPaths(own / "run").test_reads)) == before


def test_without_the_run_the_bundle_keeps_the_record(own, undrawn, tmp_path):
    alone = shutil.copytree(own / "bundle", tmp_path / "elsewhere" / "deeper" / "bundle")
    run(own, tmp_path / "judged", bundle=alone)
    assert len(read_json_lines(alone / "test_reads.jsonl")) == 1


def test_another_data_set_is_noted(own, undrawn, tmp_path):
    other = make_dataset(tmp_path / "other", FINDINGS, films=FILMS, seed=5)
    result = run(own, tmp_path / "judged", dataset=other)
    assert "another data set" in result.notes[0]
    assert result.report.findings["pneumonia"].figures["auc"].value > 0.7


def test_a_finding_that_the_data_does_not_label_is_noted(own, undrawn, tmp_path):
    other = make_dataset(tmp_path / "other", ("pneumonia",), films=FILMS, seed=5)
    result = run(own, tmp_path / "judged", dataset=other)
    assert list(result.report.findings) == ["pneumonia"]
    assert any("not scored: edema" in note for note in result.notes)


def test_films_of_another_size_are_refused(own, tmp_path):
    from tests.small_data import disc_films, write_dataset

    truth = (np.random.default_rng(0).random(90) < 0.4).astype(float)
    other = write_dataset(tmp_path / "other", {"pneumonia": truth}, disc_films(truth, size=48))
    with pytest.raises(ValueError, match="takes films with size 32, the data set has 48.*--size 32"):
        run(own, tmp_path / "judged", dataset=other)


def test_other_intensities_are_refused(own, tmp_path):
    other = make_dataset(tmp_path / "other", FINDINGS, films=90)
    write_json(other / "manifest.json", read_json(other / "manifest.json") | {"intensity": INTENSITY_CONTRACTS[1]})
    with pytest.raises(ValueError, match="with intensity contract 2, the data set has 1. .*--size 32 --intensity 2"):
        run(own, tmp_path / "judged", dataset=other)


def write_truth(path, frame, pneumonia):
    """A CheXpert label file of the films in `frame`."""
    table = pd.DataFrame({"Path": frame["path"], "Sex": "Female", "Age": 50, "Frontal/Lateral": "Frontal",
                          "AP/PA": "AP", "No Finding": ""})  # fmt: skip
    catalog = load_catalog()
    for slug in CHEXPERT_TARGETS:
        table[catalog[slug].name] = pneumonia if slug == "pneumonia" else ""
    table["Support Devices"] = ""
    table.to_csv(path, index=False)
    return path


def test_a_truth_file_takes_the_place_of_the_labels(own, undrawn, tmp_path):
    """Turned round, it turns the AUC round."""
    frame = load_dataset(own / "dataset").read_labels_frame()
    truth = write_truth(tmp_path / "truth.csv", frame, 1 - frame["pneumonia"])
    turned = run(own, tmp_path / "judged", truth=truth)
    usual = run(own, tmp_path / "usual")
    assert list(turned.report.findings) == ["pneumonia"]
    assert turned.report.findings["pneumonia"].figures["auc"].value == pytest.approx(
        1 - usual.report.findings["pneumonia"].figures["auc"].value
    )


def test_uncertain_labels_stand_beside_as_0_and_as_1(own, undrawn, tmp_path):
    """The main figures are those without them; the ends are what truths with 0 and with 1 in their place give."""
    frame = load_dataset(own / "dataset").read_labels_frame()
    hedged = np.arange(len(frame)) % 3 == 0
    label = {name: frame["pneumonia"].mask(hedged, value) for name, value in (("u", -1), ("absent", 0), ("present", 1))}
    found = {
        name: run(own, tmp_path / name, truth=write_truth(tmp_path / f"{name}.csv", frame, values))
        for name, values in label.items()
    }
    (row,) = found["u"].data["uncertain"]
    main = found["u"].report.findings["pneumonia"]
    assert row["uncertain"] == main.unknown > 0
    assert row["auc_left_out"] == main.figures["auc"].value
    assert row["ece_left_out"] == pytest.approx(main.figures["ece"].value)
    for name in ("absent", "present"):
        other = found[name].report.findings["pneumonia"]
        assert row[f"auc_{name}"] == other.figures["auc"].value
        assert row[f"ece_{name}"] == pytest.approx(other.figures["ece"].value)
        assert row[f"rate_{name}"] == pytest.approx(other.prevalence)
        assert found[name].uncertain is None
        assert not (tmp_path / name / "uncertain.csv").exists()
    assert pd.read_csv(tmp_path / "u" / "uncertain.csv")["finding"].tolist() == ["pneumonia"]
    assert "uncertain labels" in (tmp_path / "u" / "table.txt").read_text()
    assert read_json(tmp_path / "u" / "report.json")["uncertain"] == [row]
    assert any(note.startswith("Uncertain labels are left out") for note in found["u"].notes)
    (patients,) = run(own, tmp_path / "p", truth=tmp_path / "u.csv", level="patient").data["uncertain"]
    assert patients["rate_absent"] < patients["rate_present"]


def test_a_truth_file_of_other_films_is_refused(own, undrawn, tmp_path):
    frame = load_dataset(own / "dataset").read_labels_frame().iloc[:40]
    truth = write_truth(tmp_path / "truth.csv", frame, frame["pneumonia"])
    with pytest.raises(ValueError, match=r"has no row for \d+ of 80 films.*Is it the truth of this data set"):
        run(own, tmp_path / "judged", truth=truth)


@pytest.mark.parametrize(("word", "error"), [({"part": "tset"}, "Unknown part 'tset'"), ({"level": "film"}, "level")])
def test_words_that_mean_nothing(own, tmp_path, word, error):
    with pytest.raises(ValueError, match=error):
        run(own, tmp_path / "judged", **word)
