import dataclasses
import math

import numpy as np
import pytest
import torch

from models.config import TrainConfig
from models.recipe import assemble, film_size, freeze, rate_factor, set_learning_rate, update_average

TINY = TrainConfig(backbone="test_resnet", device="cpu", precision="fp32")
VALUE = np.array([1.0, 0.0, 0.0, 0.0])


def curve(**settings):
    return [rate_factor(TrainConfig(**settings), step, 100) for step in range(100)]


def test_one_cycle_rises_to_one_and_falls_to_almost_nothing():
    rates = curve(schedule="one_cycle", warmup=0.3)
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[30] == 1.0
    assert np.argmax(rates) == 30
    assert rates[99] < 2e-3
    assert all(np.diff(rates[:31]) > 0)
    assert all(np.diff(rates[30:]) < 0)


def test_cosine_and_constant():
    cosine, constant = curve(schedule="cosine", warmup=0.1), curve(schedule="constant", warmup=0.1)
    assert cosine[:10] == constant[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert constant[10:] == [1.0] * 90
    assert cosine[55] == pytest.approx((1 + math.cos(math.pi * 0.5)) / 2)
    assert curve(schedule="constant", warmup=0.0)[1:] == [1.0] * 99


def test_norms_and_biases_do_not_decay_and_the_backbone_has_its_own_rate():
    machine = assemble(dataclasses.replace(TINY, weight_decay=0.1, backbone_rate=0.1), VALUE)
    set_learning_rate(machine.optimiser, dataclasses.replace(TINY, schedule="constant", warmup=0.0), 5, 10)
    head = {id(weight) for weight in machine.network.backbone.get_classifier().parameters()}
    seen = 0
    for group in machine.optimiser.param_groups:
        for weight in group["params"]:
            seen += 1
            assert group["weight_decay"] == (0.1 if weight.ndim > 1 else 0.0)
            assert group["lr"] == pytest.approx(1e-3 * (1.0 if id(weight) in head else 0.1))
    assert seen == len(list(machine.network.parameters()))


def test_only_the_last_layer_learns_while_the_rest_is_frozen():
    machine = assemble(dataclasses.replace(TINY, frozen_epochs=2), VALUE)
    for epoch, learning in ((0, 2), (1, 2), (2, len(list(machine.network.parameters())))):
        freeze(machine.network, dataclasses.replace(TINY, frozen_epochs=2), epoch)
        assert sum(weight.requires_grad for weight in machine.network.parameters()) == learning


def test_films_grow_to_full_size():
    config = TrainConfig(start_size=0.5, epochs=10)
    sizes = [film_size(config, 128, epoch) for epoch in range(10)]
    assert sizes[0] == 64
    assert sizes == sorted(sizes)
    assert sizes[6:] == [128] * 4
    assert all(size % 8 == 0 for size in sizes)
    assert film_size(TrainConfig(), 100, 0) == 100


def test_the_average_follows_the_weights():
    config = dataclasses.replace(TINY, averaging=0.9)
    machine = assemble(config, VALUE)
    with torch.no_grad():
        for weight in machine.network.parameters():
            weight.add_(1.0)
    before = next(machine.averaged.parameters()).clone()
    update_average(machine, config, updates=1000)
    torch.testing.assert_close(next(machine.averaged.parameters()), before + 0.1)
    assert machine.judged is machine.averaged
    assert assemble(TINY, VALUE).judged is not None


def test_the_same_seed_starts_alike():
    first, second = (assemble(TINY, VALUE).network.state_dict() for _ in range(2))
    other = assemble(dataclasses.replace(TINY, seed=1), VALUE).network.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
