import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from models.config import TrainConfig
from models.data.loading import film_size
from models.training.optimisation import (
    assemble,
    freeze,
    place_in_schedule,
    rate_factor,
    set_learning_rate,
    update_average,
)

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


@pytest.mark.parametrize("backbone", ["test_resnet", "plain", "test_convnext", "densenet121"])
def test_what_is_frozen_computes_as_in_use(backbone):
    """Its statistics stay, and nothing is dropped in it but before the last layer."""
    config = dataclasses.replace(TINY, backbone=backbone, frozen_epochs=1, dropout=0.5, recipe_version=2)
    network, batch = assemble(config, VALUE).network, torch.randn(4, 1, 64, 64, generator=torch.manual_seed(0))
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    assert bool(norms) == (backbone != "test_convnext")
    for epoch, moves in ((0, False), (1, True)):
        network.train()
        freeze(network, config, epoch)
        before = {name: value.clone() for name, value in network.named_buffers()}
        with torch.no_grad():
            first, second = network(batch), network(batch)
        assert not torch.equal(first, second), "dropout before the last layer"
        changed = [name for name, value in network.named_buffers() if not torch.equal(value, before[name])]
        assert bool(changed) == (moves and bool(norms))
        assert [one.training for one in norms] == [moves] * len(norms)


def test_the_recipe_of_before_moved_statistics_of_frozen_layers():
    config = dataclasses.replace(TINY, frozen_epochs=1, recipe_version=1)
    network = assemble(config, VALUE).network.train()
    freeze(network, config, 0)
    assert all(one.training for one in network.modules())


def test_the_schedule_counts_updates():
    """Seven batches of an epoch in groups of three are three updates."""
    config = TrainConfig(accumulate=3, epochs=2, recipe_version=2)
    places = [place_in_schedule(config, epoch, step, 7) for epoch in (0, 1) for step in range(7)]
    assert [place for place, _ in places] == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4, 4, 5]
    assert {total for _, total in places} == {6}
    before = dataclasses.replace(config, recipe_version=1)
    assert place_in_schedule(before, 1, 2, 7) == (9, 14)
    for version in (1, 2):
        assert place_in_schedule(TrainConfig(epochs=2, recipe_version=version), 1, 2, 7) == (9, 14)


def test_less_memory_does_not_change_the_number_of_updates():
    for films in range(2, 200):
        totals = {
            place_in_schedule(TrainConfig(accumulate=part, recipe_version=2), 0, 0, -(-films // (16 // part)))[1]
            for part in (1, 2, 4, 8)
        }
        assert len(totals) == 1, films


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
