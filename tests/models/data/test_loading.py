import dataclasses

import numpy as np
import pytest
import torch

from models.config import TrainConfig
from models.data import targets as targets_module
from models.data.loading import Pixels, epoch_order, normalise
from pathologies.splits import assignment
from tests.small_data import make_targets


def test_parts_are_those_of_the_split():
    assert tuple(assignment.PARTS) == targets_module.PARTS


def test_targets_survive_the_file(tmp_path):
    made = make_targets((np.arange(90) % 3 == 0).astype(float))
    made.save(tmp_path / "targets.npz")
    read = targets_module.Targets.load(tmp_path / "targets.npz")
    for name in made.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    assert len(read.usable("train")) == 50
    assert len(read.usable("test")) == 0
    assert len(read.all_of("test")) == 20


def test_every_film_comes_once_an_epoch_and_the_order_changes():
    targets = make_targets(np.ones(90))
    positions, config = targets.usable("train"), TrainConfig(batch_size=16)
    first, second = (epoch_order(targets, positions, config, epoch) for epoch in (0, 1))
    assert len(first) % 16 == 0
    assert set(first) == set(positions)
    assert sorted(first[: len(positions)]) == sorted(positions)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, epoch_order(targets, positions, config, 0))


def test_a_film_of_more_weight_is_drawn_more_often():
    truth = (np.arange(9000) % 10 == 0).astype(float)
    natural = make_targets(truth)
    draw = np.where(truth == 1, 9.0, 1.0).astype(np.float32)
    weighted = dataclasses.replace(natural, draw=draw)
    config = TrainConfig()
    positions = natural.usable("train")
    assert 0.46 < truth[epoch_order(weighted, positions, config, 0)].mean() < 0.54
    assert truth[epoch_order(natural, positions, config, 0)].mean() < 0.15


def test_an_epoch_of_combinations_is_the_trainers_own():
    """1,000 films of `train`, 200 of them alone with their combination: each comes 20 times in every epoch."""
    natural = make_targets(np.arange(1800) % 2)
    positions = natural.usable("train")
    combination = np.zeros(1800, np.int32)
    combination[positions[-200:]] = np.arange(200) + 1
    draw = np.where(combination > 0, 20.0, 1.0).astype(np.float32)
    targets = dataclasses.replace(natural, draw=draw, combination=combination)
    config = TrainConfig(sampler="label_vector", sampler_minimum=20, batch_size=50)
    first, second = (epoch_order(targets, positions, config, epoch) for epoch in (0, 1))
    assert len(first) == len(second) == targets.epoch_films == 800 + 200 * 20
    for order in (first, second):
        assert np.bincount(order, minlength=1800)[positions].tolist() == [1] * 800 + [20] * 200
    assert not np.array_equal(first, second)


def test_targets_written_before_combinations_were_kept_are_read(tmp_path):
    made = make_targets(np.ones(90))
    names = [name for name in made.__dataclass_fields__ if name != "combination"]
    np.savez(tmp_path / "targets.npz", **{name: getattr(made, name) for name in names})
    read = targets_module.Targets.load(tmp_path / "targets.npz")
    assert len(read.combination) == 0
    assert read.epoch_films == len(read.usable("train")) == 50


def test_normalise_is_zero_mean_and_unit_variance():
    films = torch.randint(0, 256, (16, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grey = films.double() / 255
    pixels = normalise(films, grey.mean().item(), grey.std().item(), 32)
    assert pixels.shape == (16, 1, 32, 32)
    assert abs(pixels.mean()) < 1e-4
    assert pixels.std() == pytest.approx(1, abs=1e-3)


def test_a_smaller_size_averages():
    films = torch.zeros(1, 32, 32, dtype=torch.uint8)
    films[:, ::2] = 200
    assert normalise(films, 0.0, 1 / 255, 8).flatten()[27:36].tolist() == pytest.approx([100.0] * 9, abs=1.0)


def test_batches_come_in_the_order_asked_for():
    images = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 16, 16), np.uint8)
    pixels = Pixels(images=images, mean=0.0, std=1 / 255, size=16, device="cpu")
    assert pixels.batch(np.array([7, 2, 9]))[:, 0, 0, 0].tolist() == [7, 2, 9]
