"""RUN/tuned/<slug>.toml: written for people and read by the planner."""

import pytest

from models.config import TrainConfig
from models.files.layout import RunPaths, read_json
from orchestrator.cli.app import app
from orchestrator.planning.tuned_settings import read_tuned, tuned_settings, write_tuned
from tests.small_data import make_dataset

SETTINGS = {"learning_rate": 3.0000000000000004e-05, "batch_size": 16, "uncertain": "soft(0,0.3)", "image_size": None,
            "backbone": 'a "quoted" name', "device": "cuda", "threads": 4}  # fmt: skip


def test_settings_come_back_as_they_were_without_what_belongs_to_a_machine(tmp_path):
    path = RunPaths(tmp_path).tuned("edema")
    write_tuned(path, {"trial": 3, "select_score": 0.1 + 0.2, "default_select_score": float("nan")}, SETTINGS)
    content = read_tuned(path)
    kept = {name: SETTINGS[name] for name in ("learning_rate", "batch_size", "uncertain", "backbone")}
    assert content == {"trial": 3, "select_score": 0.1 + 0.2, "training": kept}
    assert tuned_settings(tmp_path, ["edema", "fracture"]) == {"edema": kept}


@pytest.mark.parametrize("field", ["learning_rate", "dropout", "rotation"])
@pytest.mark.parametrize("value", [0.1, 1e-05, 1 / 3, 0.0])
def test_every_float_survives(tmp_path, field, value):
    path = RunPaths(tmp_path).tuned("edema")
    write_tuned(path, {}, {field: value})
    assert read_tuned(path)["training"] == {field: value}
    assert TrainConfig(**read_tuned(path)["training"])


def test_a_file_that_was_edited_badly_is_named(tmp_path):
    path = RunPaths(tmp_path).tuned("edema")
    path.parent.mkdir()
    for text, wrong in (("[training]\nlerning_rate = 1\n", "learning_rate"), ("training", "edema.toml")):
        path.write_text(text)
        with pytest.raises(ValueError, match=wrong):
            read_tuned(path)


def test_nothing_tuned_is_an_error_that_says_what_is(tmp_path):
    write_tuned(RunPaths(tmp_path).tuned("edema"), {"trial": 0}, {})
    with pytest.raises(FileNotFoundError, match="no tuned settings of fracture. It has: edema"):
        tuned_settings(tmp_path, ["fracture"])


def test_findings_that_were_not_tuned_are_named(tmp_path, capsys):
    dataset = make_dataset(tmp_path / "dataset", ("pneumonia", "edema"), films=90)
    write_tuned(RunPaths(tmp_path / "search").tuned("edema"), {"trial": 3}, {"dropout": 0.25})
    words = ["train", str(dataset), "--out", str(tmp_path / "run"), "--inline", "--tuned", str(tmp_path / "search")]
    words += ["--from-scratch", "--folds", "1"]
    for setting in ("backbone=test_resnet", "epochs=1", "batch_size=16", "device=cpu"):
        words += ["--set", setting]
    app(args=words, prog_name="hilum", standalone_mode=False)
    told = capsys.readouterr().err
    assert "pneumonia: waiting (not tuned: its usual settings)" in told
    assert "edema: waiting\n" in told
    assert "has no tuned settings of pneumonia/0: trained with their usual ones" in told
    configs = [
        read_json(RunPaths(tmp_path / "run").target(slug, 0).config)["config"] for slug in ("pneumonia", "edema")
    ]
    assert [config["dropout"] for config in configs] == [0.0, 0.25]
    app(args=[*words, "--targets", "edema"], prog_name="hilum", standalone_mode=False)
    assert "not tuned" not in capsys.readouterr().err
