"""orchestrator/planning/config_repair.py: damaged files of a job are made again, or a sentence says what to do."""

import numpy as np
import pytest

from models.data.targets import Targets
from models.files.layout import DatasetPaths, RunPaths, read_json, write_json
from orchestrator.datasets.dataset import SEAL, load_dataset, manifest_hash
from orchestrator.planning.plan import TrainRequest, plan_run
from tests.small_data import make_dataset

DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "changed": lambda data: data[: len(data) // 2] + bytes(64) + data[len(data) // 2 + 64 :],
    "empty": lambda data: b"",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", ("pneumonia", "edema"))


def plan(dataset, out, **request):
    return plan_run(TrainRequest(dataset=dataset, out=out, **request), "cpu")


def damage(path, how):
    path.write_bytes(DAMAGES[how](path.read_bytes()))


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_targets_are_written_again(dataset, tmp_path, how):
    path = plan(dataset, tmp_path / "run")[0].paths.targets
    before = vars(Targets.load(path))
    damage(path, how)
    plan(dataset, tmp_path / "run")
    assert all(np.array_equal(value, before[name], equal_nan=np.asarray(value).dtype.kind == "f")
               for name, value in vars(Targets.load(path)).items())  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_configuration_is_written_again_and_what_is_finished_stays(dataset, tmp_path, how):
    first = plan(dataset, tmp_path / "run")[0]
    write_json(first.paths.outcome, {"status": "ok"})
    before = first.paths.config.read_bytes()
    damage(first.paths.config, how)
    again = plan(dataset, tmp_path / "run")
    assert [job.finished for job in again] == [True, False]
    assert first.paths.config.read_bytes() == before


def test_with_other_settings_a_damaged_configuration_is_not_guessed(dataset, tmp_path):
    first = plan(dataset, tmp_path / "run")[0]
    damage(first.paths.config, "cut")
    with pytest.raises(ValueError, match=r"config\.json is damaged, and what is asked for now.*Give the same"):
        plan(dataset, tmp_path / "run", settings={"epochs": 3})


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["manifest", "labels", "split", "images"])
def test_a_damaged_data_set_is_refused_before_anything_is_lost(tmp_path, name, how):
    dataset = make_dataset(tmp_path / "dataset", ("pneumonia",), films=90)
    path = getattr(DatasetPaths(dataset), name)
    if name == "images" and how == "changed":
        pytest.skip("found by the training: tests/models/files/test_image_verification.py")
    first = plan(dataset, tmp_path / "run")[0]
    write_json(first.paths.outcome, {"status": "ok"})
    damage(path, how)
    with pytest.raises((ValueError, FileNotFoundError), match=path.name.replace(".", r"\.")):
        plan(dataset, tmp_path / "run")
    assert read_json(first.paths.outcome) == {"status": "ok"}


def test_a_changed_figure_in_a_manifest_is_noticed(tmp_path):
    dataset = make_dataset(tmp_path / "dataset", ("pneumonia",), films=90)
    path = DatasetPaths(dataset).manifest
    manifest = read_json(path)
    write_json(path, manifest | {SEAL: manifest_hash(manifest)})
    load_dataset(dataset)
    text = path.read_text()
    path.write_text(text.replace('"pixel_mean": 0.', '"pixel_mean": 0.9', 1))
    with pytest.raises(ValueError, match=r"manifest\.json was changed after it was written"):
        load_dataset(dataset)


def test_a_damaged_plan_says_what_to_do_and_is_written_again(dataset, tmp_path):
    plan(dataset, tmp_path / "run")
    path = RunPaths(tmp_path / "run").plan
    before = path.read_bytes()
    damage(path, "cut")
    with pytest.raises(ValueError, match=r"plan\.json is not whole JSON.*Remove it and run the command"):
        plan(dataset, tmp_path / "run")
    path.unlink()
    plan(dataset, tmp_path / "run")
    assert path.read_bytes() == before
