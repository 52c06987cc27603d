"""The command line: help everywhere, exit code 2 and a sentence for every bad input, 1 where something fell short."""

import json

import numpy as np
import pandas as pd
import pytest
import typer

from orchestrator.cli import app as cli
from orchestrator.cli.app import app, main
from orchestrator.option_values import read_fold, read_fractions, read_member_settings, read_words
from tests.small_data import disc_films, make_dataset, write_dataset
from tests.small_run import SETTINGS, write_films

NIH = """Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position
00000001_000.png,Edema|Mass,0,1,58,M,PA
00000002_000.png,No Finding,0,2,61,F,AP
"""
TINY = [word for name, value in (SETTINGS | {"epochs": 1}).items() for word in ("--set", f"{name}={value}")]

OLD = ["--from-scratch", "--folds", "1"]


def commands(group=None, path=()):
    """Every command and group, as words."""
    group = group or typer.main.get_command(app)
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


@pytest.fixture
def hilum(capsys, monkeypatch):
    """Run a command; (exit code, standard output, standard error)."""
    monkeypatch.delenv("HILUM_TRACEBACK", raising=False)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*words):
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


def refused(answer, *words):
    """Exit code 2, these words in the sentence, and no traceback."""
    code, out, err = answer
    flat = " ".join(err.split())
    assert code == 2, flat
    assert "Traceback" not in flat + out
    for word in words:
        assert word in flat


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command_has_help(hilum, path):
    code, out, _ = hilum(*path, "--help")
    assert code == 0
    assert "Usage: hilum" in out
    assert len(out) > 200


def test_unknown_words_are_refused(hilum):
    refused(hilum("trian"), "trian")
    refused(hilum("train"), "Missing argument")
    refused(hilum("train", "d", "--out", "r", "--epochs", "3"), "--epochs")
    refused(hilum("train", "d", "--out", "r", "--members", "0"), "members")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--targets", "efusion"], "Unknown target 'efusion'. Did you mean 'pleural_effusion'?"),
        (["--targets", "hernia"], "does not label hernia"),
        (["--set", "epoch=3"], "Unknown setting 'epoch'. Did you mean 'epochs'?"),
        (["--set", "epochs"], "--set wants name=value"),
        (["--set", "epochs=many"], "expected an int"),
        (["--set", "epochs=0"], "too small"),
        (["--set", "learning_rate=nan"], "learning_rate"),
        (["--set", "views=side"], "frontal, lateral, all"),
        (["--set", "precision=fp64"], "fp32, bf16, fp16"),
        (["--set", "device=gpu"], "cuda"),
        (["--set", "uncertain=one"], "uncertain"),
        (["--set", "positive_weight=-1"], "positive_weight"),
        (["--findings", "nowhere"], "nowhere"),
        (["--folds", "some"], "--folds some: give a number from 1 (none) on, or auto."),
        (["--folds", "0"], "--folds 0: give a number from 1"),
        (["--folds", "999"], "patients cannot fill 999 folds"),
        (["--folds", "5", "--set", "patience=2"], "patience=2 chooses epochs by the part select"),
    ],
)
def test_train_refuses_before_anything_starts(hilum, house, tmp_path, words, sentence):
    refused(hilum("train", house / "dataset", "--out", tmp_path / "run", "--inline", *words), sentence)
    assert not (tmp_path / "run" / "plan.json").exists()


def test_train_refuses_what_is_no_data_set(hilum, tmp_path):
    refused(hilum("train", tmp_path / "typo", "--out", tmp_path / "run", "--inline"), "No prepared data set at")
    data = make_dataset(tmp_path / "dataset", films=36)
    (data / "images.u8").write_bytes(b"short")
    refused(hilum("train", data, "--out", tmp_path / "run", "--inline"), "images.u8 has 5 bytes")


def test_train_refuses_another_configuration_of_a_finished_target(hilum, house):
    answer = hilum("train", house / "dataset", "--out", house / "run", "--inline", "--set", "epochs=99")
    refused(answer, "are trained already, with another configuration", "--force")


@pytest.fixture
def label_file(tmp_path):
    (tmp_path / "images").mkdir()
    path = tmp_path / "labels.csv"
    path.write_text(NIH)
    return path


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--fold", "1-5"], "--fold '1-5': expected i/k, for example 1/5."),
        (["--fold", "6/5"], "fold"),
        (["--fold", "0/5"], "fold"),
        (["--fractions", "0.6,0.4"], "--fractions '0.6,0.4': expected four shares that sum to 1"),
        (["--fractions", "a,b,c,d"], "expected four shares"),
        (["--fractions", "0.6,0.6,0.6,0.6"], "expected four shares"),
        (["--size", "0"], "size"),
        (["--labels", "nowhere.csv"], "nowhere.csv"),
        (["--images", "nowhere"], "nowhere"),
    ],
)
def test_prepare_refuses(hilum, tmp_path, label_file, words, sentence):
    usual = {"--labels": label_file, "--images": tmp_path / "images", "--out": tmp_path / "dataset", "--size": 32}
    usual |= {words[0]: words[1]}
    refused(hilum("prepare", "nih", *[word for pair in usual.items() for word in pair]), sentence)
    assert not (tmp_path / "dataset" / "manifest.json").exists()


def test_prepare_and_audit_know_their_sources(hilum, tmp_path, label_file):
    words = ["--labels", label_file, "--images", tmp_path / "images", "--out", tmp_path / "dataset"]
    refused(hilum("prepare", "chexprt", *words), "'chexprt'", "chexpert")
    refused(hilum("labels", "audit", label_file, "--source", "nihh"), "'nihh'", "nih")
    refused(hilum("labels", "audit", tmp_path / "nowhere.csv"), "nowhere.csv")


@pytest.mark.parametrize(
    "words", [["--patients", "0"], ["--prevalence", "high"], ["--labels", "dirty"], ["--size", "1"]]
)
def test_phantom_refuses(hilum, tmp_path, words):
    refused(hilum("phantom", tmp_path / "films", *words), words[0].removeprefix("--"))


def test_ensemble_refuses(hilum, house, tmp_path):
    refused(hilum("ensemble", tmp_path, "--out", tmp_path / "b"), "is not a run: it has no plan.json")
    refused(hilum("ensemble", house / "run", "--out", tmp_path / "b", "--targets", "pneumona"), "Did you mean")
    refused(hilum("ensemble", house / "run", "--out", house / "run"), "--out")
    (tmp_path / "file").touch()
    refused(hilum("ensemble", house / "run", "--out", tmp_path / "file"), "file")


def test_predict_refuses(hilum, house, tmp_path):
    out = ["--out", tmp_path / "p.csv"]
    film = write_films(tmp_path / "films", np.random.default_rng(0).integers(0, 255, (1, 32, 32), np.uint8))[0]
    refused(hilum("predict", tmp_path, film, *out), "is not a bundle")
    refused(hilum("predict", house / "run", film, *out), "It is a run", "hilum ensemble")
    refused(hilum("predict", house / "bundle", tmp_path / "typo.png", *out), "There is no file or folder")
    refused(hilum("predict", house / "bundle", film, "--out", tmp_path / "p.xlsx"), ".csv or .parquet")
    refused(hilum("predict", house / "bundle", film, "--device", "gpu", *out), "Unknown device 'gpu'")
    (tmp_path / "list.csv").write_text("name\na.png\n")
    refused(hilum("predict", house / "bundle", tmp_path / "list.csv", *out), "no path column")
    (tmp_path / "empty.csv").touch()
    refused(hilum("predict", house / "bundle", tmp_path / "empty.csv", *out))
    assert not (tmp_path / "p.csv").exists()


def test_predict_with_broken_images(hilum, house, tmp_path):
    films = np.random.default_rng(0).integers(0, 255, (2, 32, 32), np.uint8)
    good, broken = write_films(tmp_path / "films", films)
    broken.write_bytes(broken.read_bytes()[:100])
    code, out, err = hilum("predict", house / "bundle", good, broken, "--device", "cpu", "--out", tmp_path / "p.csv")
    assert code == 0
    assert "pneumonia" in out
    assert "1 image could not be read" in err
    assert pd.read_csv(tmp_path / "p.rejected.csv")["reason"].tolist() == ["truncated"]
    code, _, _ = hilum("predict", house / "bundle", broken, "--out", tmp_path / "p.csv")
    assert code == 1


def test_evaluate_refuses(hilum, house, tmp_path):
    refused(hilum("evaluate", house / "bundle", tmp_path), "No prepared data set at")
    refused(hilum("evaluate", tmp_path, house / "dataset"), "is not a bundle")
    refused(hilum("evaluate", house / "bundle", house / "dataset", "--part", "tset"), "Unknown part 'tset'")


def test_a_failed_target_ends_with_the_table_and_exit_code_1(hilum, tmp_path):
    truth = {"fracture": np.zeros(90), "pneumonia": (np.arange(90) % 3 == 0).astype(float)}
    data = write_dataset(tmp_path / "dataset", truth, disc_films(truth["pneumonia"]))
    code, out, err = hilum("train", data, "--out", tmp_path / "run", "--inline", *OLD, *TINY)
    assert code == 1
    rows = {line.split()[0]: line.split()[1] for line in out.splitlines()[1:]}
    assert rows == {"pneumonia": "ok", "fracture": "failed"}
    assert "Not trained: fracture/0" in err
    code, out, err = hilum("ensemble", tmp_path / "run", "--out", tmp_path / "bundle")
    assert code == 0
    assert "Left out: fracture/0 (failed" in err


def test_the_table_goes_to_standard_output_and_progress_to_the_other(hilum, house):
    code, out, err = hilum("train", house / "dataset", "--out", house / "run", "--inline", *_as_trained())
    assert code == 0
    assert "peak memory" in out.splitlines()[0]
    assert "was finished already" in err
    assert "was finished already" not in out
    assert f"Next: hilum ensemble {house / 'run'}" in err.replace("\n", "")


def _as_trained():
    return [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]


def test_ctrl_c_is_a_sentence_and_130(hilum, monkeypatch, house, tmp_path):
    def interrupted(request, on_event):
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.training.launch.train_run", interrupted)
    code, _, err = hilum("train", house / "dataset", "--out", tmp_path / "run")
    assert code == 130
    assert "give the same command again" in " ".join(err.split())


def test_brackets_in_a_sentence_are_shown(hilum, tmp_path):
    refused(hilum("predict", tmp_path, "[red]film[/].png", "--out", tmp_path / "p.csv"), "[red]film[/].png")


def test_the_traceback_can_be_had(hilum, monkeypatch, tmp_path):
    monkeypatch.setenv("HILUM_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        main(["ensemble", str(tmp_path), "--out", str(tmp_path / "b")])


@pytest.mark.parametrize("kind", [ValueError, KeyError, TypeError, ImportError])
def test_a_defect_of_ours_is_told_apart_from_bad_input(hilum, monkeypatch, house, tmp_path, kind):
    """Exit 70, one sentence, and the traceback in a file that is named."""

    def defective(request, on_event):
        raise kind("inner secret")

    monkeypatch.setattr("orchestrator.training.launch.train_run", defective)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, _, err = hilum("train", house / "dataset", "--out", tmp_path / "run")
    assert code == 70
    assert "Traceback" not in err
    (file,) = tmp_path.glob("hilum-error-*.txt")
    assert str(file) in "".join(err.split("\n"))
    assert f"{kind.__name__}: " in file.read_text(encoding="utf-8")
    assert "in defective" in file.read_text(encoding="utf-8")
    assert file.stat().st_mode & 0o077 == 0


def test_an_error_of_the_systems_is_a_sentence():
    assert cli._sentence(PermissionError(13, "Permission denied", "/data/x")) == "Permission denied: /data/x"
    assert cli._sentence(FileNotFoundError("There is no x.")) == "There is no x."
    assert cli._sentence(ValueError()) == "ValueError"


def test_audit_as_json_is_json_alone(hilum, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(NIH)
    code, out, _ = hilum("labels", "audit", path, "--source", "nih", "--json")
    assert code == 0
    assert json.loads(out)["rows"] == 2


def test_words_are_parsed():
    assert read_words(" a, b,,c ") == ("a", "b", "c")
    assert read_fractions("0.7,0.1,0.1,0.1") == (0.7, 0.1, 0.1, 0.1)
    assert read_fold("2/5") == (2, 5)
    assert read_fold(None) is None


def test_settings_of_one_member_are_read_or_refused():
    assert read_member_settings(["1:backbone=resnet34", "1:epochs=3", "0:epochs=2"]) == {
        1: {"backbone": "resnet34", "epochs": 3},
        0: {"epochs": 2},
    }
    for word in ("backbone=resnet34", "x:epochs=3", "1"):
        with pytest.raises(ValueError, match="k:name=value"):
            read_member_settings([word])
