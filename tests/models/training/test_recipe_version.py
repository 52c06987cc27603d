"""What a training makes of its settings has a version: new trainings have the newest, begun ones keep their own."""

import dataclasses

import pytest

from models.config import RECIPE_VERSION, TrainConfig
from models.files.layout import RunPaths, read_json, write_json
from tests.orchestrator.planning.test_plan import dataset, finish, plan
from tests.orchestrator.planning.test_target_files import drawn_epoch, mixed

__all__ = ["dataset", "mixed"]  # fixtures


def as_version_1(job):
    """The files as a version without recipe_version wrote them."""
    stored = read_json(job.paths.config)
    del stored["config"]["recipe_version"]
    write_json(job.paths.config, stored)
    run = RunPaths(job.paths.root.parent.parent)
    planned = read_json(run.plan)
    planned["jobs"][job.name]["config"] = dataclasses.replace(job.config, recipe_version=1).digest()
    write_json(run.plan, planned)


def test_a_training_keeps_the_recipe_that_it_was_begun_with(mixed, tmp_path):
    data, view, positive = mixed
    asked = {"settings": {"sampler": "balanced", "uncertain": "ignore", "accumulate": 2}}
    job = plan(data, tmp_path / "run", **asked)[0]
    assert read_json(job.paths.config)["config"]["recipe_version"] == job.config.recipe_version == RECIPE_VERSION
    as_version_1(job)
    old = TrainConfig(**read_json(job.paths.config)["config"]).digest()
    job.paths.new_attempt().checkpoint.write_bytes(b"half-way")
    job.paths.targets.unlink()  # written again, by the old rule too
    again = plan(data, tmp_path / "run", **asked)[0]
    assert (again.config.recipe_version, again.config.digest()) == (1, old)
    assert again.paths.newest_attempt().number == 1
    drawn = drawn_epoch(tmp_path / "run", "edema")
    assert positive[drawn].mean() < 0.4, "weights that lateral positives have diluted"
    finish(again)
    assert plan(data, tmp_path / "run", **asked)[0].finished
    grown = plan(data, tmp_path / "run", members=2, **asked)
    assert [one.config.recipe_version for one in grown] == [1, RECIPE_VERSION]
    anew = plan(data, tmp_path / "run", settings=asked["settings"] | {"epochs": 3}, force=True)[0]
    assert anew.config.recipe_version == RECIPE_VERSION


def test_a_damaged_configuration_of_before_is_written_again_with_its_recipe(dataset, tmp_path):
    job = plan(dataset, tmp_path / "run", targets=("edema",))[0]
    as_version_1(job)
    finish(job)
    job.paths.config.write_bytes(b"{")
    again = plan(dataset, tmp_path / "run", targets=("edema",))[0]
    assert again.finished
    assert again.config.recipe_version == read_json(job.paths.config)["config"]["recipe_version"] == 1


def test_a_recipe_of_the_future_is_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match="recipe_version=99 is newer than 2: update hilum"):
        plan(dataset, tmp_path / "run", settings={"recipe_version": 99})
