"""models/training/loop.py: what one update is made of: its films, its scale, its place in the schedule and in
the average.
"""

import dataclasses
import functools

import numpy as np
import pytest
import torch

import models.training.loop
from models.config import RECIPE_VERSION, TrainConfig
from models.data.loading import Pixels, epoch_order
from models.files.checksummed import checksummed_bytes, read_checksummed
from models.files.layout import AttemptPaths, TargetPaths, read_json, read_json_lines
from models.process.job import run_job
from models.training.checkpoint import PROGRESS, Progress
from models.training.loop import Task, apply_gradients, train_epoch, train_step
from models.training.optimisation import assemble, rate_factor
from tests.models.process.test_job import SETTINGS, prepare_target, train
from tests.small_data import disc_films, make_targets

# without batch normalisation, so that a film's gradient does not depend on its batch
CONFIG = TrainConfig(**SETTINGS | {"backbone": "test_convnext", "clip": 0.0, "augment_probability": 0.0,
                                   "recipe_version": RECIPE_VERSION})  # fmt: skip
FILMS = 180


@functools.cache
def material():
    truth = (np.random.default_rng(1).random(FILMS) < 0.4).astype(float)
    return disc_films(truth), make_targets(truth)


def shared_targets():
    """Three findings; of the last two most answers are unknown, in some batches all."""
    draws, single = np.random.default_rng(2), material()[1]
    value = np.stack([single.value, (draws.random(FILMS) < 0.5).astype(np.float32), 1 - single.value], axis=1)
    value[:, 1:][draws.random((FILMS, 2)) < (0.6, 0.93)] = np.nan
    return dataclasses.replace(
        single, value=value, weight=(~np.isnan(value)).astype(np.float32), slugs=np.array([b"a", b"b", b"c"])
    )


def task_of(folder, targets=None, **settings):
    config = dataclasses.replace(CONFIG, **settings)
    pixels = Pixels(images=material()[0], mean=0.45, std=0.12, size=config.image_size or 32, device="cpu")
    targets = targets or material()[1]
    return Task(config=config, targets=targets, pixels=pixels, paths=AttemptPaths(folder), still_wanted=lambda: None)


def gradients(machine):
    return torch.cat([weight.grad.flatten() for weight in machine.network.parameters()])


def updates_of(monkeypatch, task, films=96, look=gradients):
    """What `look` sees of the machine before each update of an epoch, and how many films it was given."""
    positions = task.targets.usable("train")[:films]
    machine, seen = assemble(task.config, task.targets.truth(positions), own=task.targets.own), []

    def watched(machine, config, update):
        seen.append(look(machine))
        return apply_gradients(machine, config, update)

    with monkeypatch.context() as patch:
        patch.setattr(models.training.loop, "apply_gradients", watched)
        train_epoch(task, machine, Progress(), positions)
    return seen, machine


def batch_gradients(task, films=96):
    """Of each batch of the epoch on its own."""
    positions = task.targets.usable("train")[:films]
    order, size, found = epoch_order(task.targets, positions, task.config, 0), task.config.batch_size, []
    machine = assemble(task.config, task.targets.truth(positions))
    machine.network.train()
    for step in range(len(order) // size):
        machine.network.zero_grad()
        train_step(task, machine, order[step * size :][:size], (task.config.seed, 0, step))
        found.append(gradients(machine))
    return found


@pytest.mark.parametrize("accumulate", [1, 4, 5, 9])
def test_an_update_has_the_mean_gradient_of_its_batches_the_last_one_too(monkeypatch, tmp_path, accumulate):
    """Six batches: groups of 4 and 2, of 5 and 1; nine do not come together at all."""
    task = task_of(tmp_path, accumulate=accumulate, learning_rate=0.0, augment_probability=1.0)
    seen, _ = updates_of(monkeypatch, task)
    alone = batch_gradients(dataclasses.replace(task, config=dataclasses.replace(task.config, accumulate=1)))
    groups = [alone[at : at + accumulate] for at in range(0, 6, accumulate)]
    assert len(seen) == len(groups)
    for found, group in zip(seen, groups, strict=True):
        torch.testing.assert_close(found, torch.stack(group).mean(0), rtol=1e-4, atol=1e-7)


def test_the_recipe_of_before_counts_a_smaller_group_less(monkeypatch, tmp_path):
    task = task_of(tmp_path, accumulate=4, learning_rate=0.0, recipe_version=1)
    seen, _ = updates_of(monkeypatch, task)
    alone = batch_gradients(task_of(tmp_path, learning_rate=0.0))
    for found, group in zip(seen, (alone[:4], alone[4:]), strict=True):
        torch.testing.assert_close(found, torch.stack(group).sum(0) / 4, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("targets", ["single", "shared", "own"])
def test_half_the_batch_and_twice_the_batches_are_the_same_updates(monkeypatch, tmp_path, targets):
    """What a target gets that has run out of memory, also where findings are known of few films of a batch."""
    made = None if targets == "single" else shared_targets()
    settings = {"learning_rate": 0.0}
    if targets == "own":
        made, settings["others_weight"] = dataclasses.replace(made, own=0), 0.3
    runs = [updates_of(monkeypatch, task_of(tmp_path, made, batch_size=16 // part, accumulate=part, **settings))
            for part in (1, 2, 4)]  # fmt: skip
    whole = runs[0][0]
    assert len(whole) == 6
    for seen, _ in runs[1:]:
        for found, expected in zip(seen, whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("targets", ["single", "shared"])
def test_blended_films_count_alike_too(monkeypatch, tmp_path, targets):
    """What the batches of a group are learnt from adds up to the loss of all their films as one batch."""
    task = task_of(tmp_path, shared_targets() if targets == "shared" else None, mixup=0.4, accumulate=3)
    original, parts = models.training.loop._in_group, []

    def watched(*words):
        part = original(*words)
        parts.append((part.detach(), words[3].detach(), words[4]))
        return part

    monkeypatch.setattr(models.training.loop, "_in_group", watched)
    _, machine = updates_of(monkeypatch, task, films=80)  # five batches: three, and two
    for group in (parts[:3], parts[3:]):
        part, logit, truth = (torch.stack(one) if one[0].ndim == 0 else torch.cat(one)
                              for one in zip(*group, strict=True))  # fmt: skip
        torch.testing.assert_close(part.sum(), machine.loss(logit, truth))
    assert len(parts) == 5


def test_schedule_and_average_count_updates(monkeypatch, tmp_path):
    task = task_of(tmp_path, accumulate=4, averaging=0.99, epochs=3, schedule="constant", warmup=0.9)
    rates, _ = updates_of(monkeypatch, task, look=lambda machine: machine.optimiser.param_groups[0]["lr"])
    assert rates == [task.config.learning_rate * rate_factor(task.config, update, 6) for update in (0, 1)]
    weights, machine = updates_of(monkeypatch, task, look=lambda machine: flat(machine.network))
    start, first, last = weights[0], weights[1], flat(machine.network)
    average = start.lerp(first, 1 - 1 / 10).lerp(last, 1 - 2 / 11)
    torch.testing.assert_close(flat(machine.averaged), average, rtol=1e-5, atol=1e-7)


def flat(network):
    return torch.cat([weight.detach().flatten() for weight in network.parameters()])


def test_clipping_bounds_the_gradient_of_the_update(monkeypatch, tmp_path):
    """AdamW's first step does not show the size of a gradient, its first moment does: a tenth of it."""
    norms = []
    for clip in (0.0, 0.05):
        task = task_of(tmp_path, clip=clip, accumulate=9, learning_rate=0.0)
        _, machine = updates_of(monkeypatch, task)
        moments = [slots["exp_avg"].flatten() for slots in machine.optimiser.state.values()]
        norms.append(10 * float(torch.cat(moments).norm()))
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(0.05, rel=1e-3)


def test_the_optimiser_is_adamw_with_its_usual_memory(monkeypatch, tmp_path):
    """Loshchilov & Hutter 2019; moments after one update: a tenth of the gradient, a thousandth of its square."""
    seen, machine = updates_of(monkeypatch, task_of(tmp_path, accumulate=9, learning_rate=0.0, backbone_rate=0.5))
    state = [machine.optimiser.state[weight] for weight in machine.network.parameters()]
    first, second = (torch.cat([slots[name].flatten() for slots in state]) for name in ("exp_avg", "exp_avg_sq"))
    torch.testing.assert_close(first, 0.1 * seen[0], rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(second, 0.001 * seen[0] ** 2, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("frozen", [0, 1])
def test_an_epoch_trains_what_is_not_frozen(tmp_path, frozen):
    """Weights, and the statistics of batch normalisation; of a network that was judged before."""
    task = task_of(tmp_path, backbone="test_resnet", frozen_epochs=frozen, epochs=2)
    positions = task.targets.usable("train")[:32]
    machine = assemble(task.config, task.targets.truth(positions))
    machine.network.eval()
    before = {name: value.clone() for name, value in machine.network.state_dict().items()}
    train_epoch(task, machine, Progress(), positions)
    moved = {name for name, value in machine.network.state_dict().items() if not torch.equal(value, before[name])}
    head = {name for name in before if name.startswith("backbone.fc.")}
    assert len(head) == 2
    assert moved == (head if frozen else set(before))


# Its gradients overflow at the scaler's first scales. Small, since fp16 on a CPU is slow.
HEAVY = {"precision": "fp16", "positive_weight": "3", "averaging": 0.9, "epochs": 2, "backbone": "plain",
         "image_size": 16, "batch_size": 4}  # fmt: skip


def few():
    """30 films of `train`: eight batches."""
    return make_targets(np.random.default_rng(0).random(54) < 0.4)


def train_few(dataset, root, **settings):
    return run_job(dataset, prepare_target(root, few(), **settings), watch_parent=False)


def test_an_overflow_in_fp16_leaves_an_update_out_and_is_no_nan(dataset, tmp_path):
    outcome = train_few(dataset, tmp_path / "t", **HEAVY)
    assert (outcome["status"], outcome["precision"]) == ("ok", "fp16")
    rows = read_json_lines(TargetPaths(tmp_path / "t").attempt(1).history)
    assert 0 < rows[0]["skipped_updates"] < 8
    for row in rows:
        assert row["loss_scale"] == 2.0 ** (16 - row["skipped_updates"])
        assert np.isfinite(row["train_loss"])


def test_an_update_that_is_left_out_moves_nothing(monkeypatch, tmp_path):
    task = task_of(tmp_path, accumulate=2, clip=1.0, **HEAVY | {"positive_weight": "3000"})
    seen, machine = updates_of(
        monkeypatch,
        task,
        films=24,
        look=lambda machine: (flat(machine.network), flat(machine.averaged), machine.scaler.get_scale()),
    )
    assert [scale for _, _, scale in seen] == [65536.0, 32768.0, 16384.0]
    for weights, average, _ in seen:
        assert torch.equal(weights, seen[0][0])
        assert torch.equal(average, seen[0][1])
    assert not [slots for slots in machine.optimiser.state.values() if slots["step"] > 0]


def test_updates_left_out_do_not_count_for_the_average(monkeypatch, tmp_path):
    counted = []
    monkeypatch.setattr(models.training.loop, "update_average", lambda machine, config, update: counted.append(update))
    scales, machine = updates_of(
        monkeypatch, task_of(tmp_path, **HEAVY), films=32, look=lambda machine: machine.scaler.get_scale()
    )
    assert 0 < len(counted) < len(scales) == 8
    assert counted == list(range(len(counted)))
    assert machine.scaler.get_scale() == 2.0 ** (16 - (8 - len(counted)))


def test_gradients_are_clipped_at_their_own_size_and_not_at_the_scaled_one(monkeypatch, tmp_path):
    """First moments of a network in fp16 are those of fp32, about."""
    moments = []
    for precision in ("fp32", "fp16"):
        settings = HEAVY | {"precision": precision, "positive_weight": "0.01"}
        task = task_of(tmp_path, clip=1e-4, accumulate=4, learning_rate=0.0, **settings)
        _, machine = updates_of(monkeypatch, task, films=16)
        moments.append(torch.cat([slots["exp_avg"].flatten() for slots in machine.optimiser.state.values()]))
    assert 10 * float(moments[1].norm()) == pytest.approx(1e-4, rel=1e-2)
    assert float(torch.cosine_similarity(*moments, dim=0)) > 0.95


def test_fp16_goes_on_to_the_bit_with_its_scale(dataset, tmp_path):
    train_few(dataset, tmp_path / "unbroken", **HEAVY)
    paths = TargetPaths(prepare_target(tmp_path / "broken", few(), **HEAVY))

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(dataset, paths.root, stop, watch_parent=False)
    facts = read_checksummed(paths.attempt(1).checkpoint, PROGRESS)[1]
    assert facts["scaler"]["scale"] == 2.0 ** (16 - facts["skipped"]) < 65536
    assert run_job(dataset, paths.root, watch_parent=False)["status"] == "ok"
    assert paths.weights.read_bytes() == TargetPaths(tmp_path / "unbroken").weights.read_bytes()
    rows = [read_json_lines(one.attempt(number).history)[-1] for one, number in
            ((paths, 2), (TargetPaths(tmp_path / "unbroken"), 1))]  # fmt: skip
    for name in ("loss_scale", "skipped_updates", "train_loss", "select_score"):
        assert rows[0][name] == rows[1][name]


def test_gradients_that_overflow_at_any_scale_are_nan(dataset, tmp_path):
    outcome = train_few(dataset, tmp_path / "t", **HEAVY | {"positive_weight": "1e12", "epochs": 4})
    assert outcome["status"] == "nan"
    assert "whatever the scale of the loss" in outcome["error"]


def test_logits_of_select_that_are_no_number_are_nan_and_not_failed(dataset, tmp_path):
    """One update an epoch: its loss is of the weights before it, so that only `select` shows what it has done."""
    outcome = train(dataset, tmp_path / "t", epochs=1, batch_size=100, learning_rate=1e30, schedule="constant",
                    warmup=0.0)  # fmt: skip
    assert outcome["status"] == "nan", outcome["error"]
    assert "A logit of part `select`" in outcome["error"]


def test_an_infinite_logit_does_not_keep_later_epochs_from_being_the_best(dataset, tmp_path, monkeypatch):
    real, calls = models.training.loop.predict_logits, []

    def infinite_at_first(network, pixels, rows, config):
        logits = real(network, pixels, rows, config)
        calls.append(len(logits))
        if len(calls) == 1:
            logits[:] = np.inf  # right of the positives, wrong of the negatives
        return logits

    monkeypatch.setattr(models.training.loop, "predict_logits", infinite_at_first)
    outcome = train(dataset, tmp_path / "t")
    assert (outcome["status"], outcome["selection_rule"]) == ("ok", "log_loss")
    assert outcome["best_epoch"] > 1
    assert np.isfinite(outcome["select_score"])


def test_a_best_score_that_is_no_number_is_beaten_by_any(dataset, tmp_path):
    """A checkpoint of before may hold one."""
    paths = TargetPaths(prepare_target(tmp_path / "t"))

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(dataset, paths.root, stop, watch_parent=False)
    checkpoint = paths.attempt(1).checkpoint
    tensors, facts = read_checksummed(checkpoint, PROGRESS)
    checkpoint.write_bytes(checksummed_bytes(tensors, PROGRESS, facts | {"best_score": float("nan")}))
    outcome = run_job(dataset, paths.root, watch_parent=False)
    assert outcome["best_epoch"] > 1
    assert read_json(paths.outcome)["select_score"] is not None
