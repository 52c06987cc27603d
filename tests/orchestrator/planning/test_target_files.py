"""orchestrator/planning/target_files.py: how often a training draws which film, in the trainer's own epochs of the
planned files.
"""

import numpy as np
import pytest

from models.config import TrainConfig
from models.data.loading import epoch_order
from models.data.targets import Targets
from models.files.layout import RunPaths, read_json, read_json_lines
from models.process.job import run_job
from tests.orchestrator.planning.test_plan import plan, raw_dataset, targets_of


def drawn_epoch(out, slug, epoch=0):
    """Rows of the data set in the order in which the trainer draws them, from the files that it reads."""
    paths = RunPaths(out).target(slug, 0)
    config, targets = TrainConfig(**read_json(paths.config)["config"]), Targets.load(paths.targets)
    order = epoch_order(targets, targets.usable("train"), config, epoch)
    return targets.row[order[: targets.epoch_films]]


MIXED = 3600


@pytest.fixture
def mixed(tmp_path):
    """2,000 films of `train`, a third of them lateral; 1 in 5 frontals is positive, of the laterals 9 in 10."""
    view = np.resize(["frontal", "frontal", "lateral"], MIXED)
    share = np.where(view == "frontal", 0.2, 0.9)
    positive = (np.random.default_rng(0).random(MIXED) < share).astype(float)
    positive[::7] = -1  # ignored below: never drawn, either
    return raw_dataset(tmp_path / "d", {"edema": positive}, view=view), view, positive


def test_balanced_draws_as_many_positives_as_negatives_of_the_films_that_are_drawn(mixed, tmp_path):
    data, view, positive = mixed
    plan(data, tmp_path / "run", settings={"sampler": "balanced", "uncertain": "ignore"})
    drawn = drawn_epoch(tmp_path / "run", "edema")
    assert (view[drawn] == "frontal").all()
    assert set(positive[drawn]) == {0.0, 1.0}
    assert abs(positive[drawn].mean() - 0.5) < 4 * np.sqrt(0.25 / len(drawn))


def test_label_vector_draws_its_minimum_of_every_combination_in_every_epoch(tmp_path):
    """In the trainer's own epochs, of the films that it draws from: a combination of laterals alone is none of them."""
    draws, count = np.random.default_rng(0), 900
    raw = {slug: (draws.random(count) < share).astype(float)
           for slug, share in (("edema", 0.3), ("fracture", 0.1), ("mass", 0.03), ("hernia", 0.01))}  # fmt: skip
    view = np.resize(["frontal", "frontal", "lateral"], count)
    data = raw_dataset(tmp_path / "d", raw, view=view)
    plan(data, tmp_path / "run", targets=("edema",), settings={"sampler": "label_vector", "sampler_minimum": 25})
    label = np.stack(list(raw.values()), axis=1)
    targets = targets_of(tmp_path / "run", "edema")
    there = label[targets.row[targets.usable("train")]]
    kinds, counts = np.unique(there, axis=0, return_counts=True)
    assert counts.min() == 1
    assert counts.max() > 25
    for epoch in (0, 1):
        drawn = drawn_epoch(tmp_path / "run", "edema", epoch)
        assert (view[drawn] == "frontal").all()
        found = [(label[drawn] == kind).all(1).sum() for kind in kinds]
        assert found == np.maximum(counts, 25).tolist()
    assert targets.epoch_films == np.maximum(counts, 25).sum()


def test_the_trainer_trains_on_the_epoch_that_was_drawn(tmp_path):
    """Its history counts what it has seen: every film of a finding that one in thirty has."""
    rare = (np.arange(180) % 30 == 0).astype(float)
    data = raw_dataset(tmp_path / "d", {"edema": rare})
    settings = {"backbone": "test_resnet", "epochs": 1, "batch_size": 8, "precision": "fp32", "sampler": "label_vector",
                "sampler_minimum": 40}  # fmt: skip
    job = plan(data, tmp_path / "run", settings=settings)[0]
    assert run_job(data, job.paths.root, watch_parent=False)["status"] == "ok"
    row = read_json_lines(job.paths.attempt(1).history)[0]
    targets = targets_of(tmp_path / "run", "edema")
    positives = int((targets.value[targets.usable("train")] == 1).sum())
    assert 0 < positives < 40
    negatives = len(targets.usable("train")) - positives
    assert targets.epoch_films == 40 + negatives
    filled = -targets.epoch_films % 8
    assert row["train_positives"] + row["train_negatives"] == targets.epoch_films + filled
    assert 40 <= row["train_positives"] <= 40 + filled


def test_no_sampler_repeats_rows_and_the_natural_one_draws_all_alike(mixed, tmp_path):
    data, _, _ = mixed
    for sampler in ("natural", "balanced", "label_vector"):
        plan(data, tmp_path / sampler, settings={"sampler": sampler, "sampler_minimum": 900})
        targets = targets_of(tmp_path / sampler, "edema")
        assert len(np.unique(targets.row)) == len(targets.row)
        assert (np.ptp(targets.draw) > 0) == (sampler != "natural")
        assert (len(targets.combination) > 0) == (sampler == "label_vector")
