"""models/training/distributed.py: two CPU ranks give the gradients of one, a whole training the same figures,
and resume.
"""

import dataclasses

import numpy as np
import pytest
import torch
from torch import multiprocessing, nn

from models.config import TrainConfig
from models.data.loading import Pixels
from models.data.targets import Targets
from models.files.layout import AttemptPaths, TargetPaths, read_json, read_json_lines, write_json
from models.process.job import run_job
from models.training.distributed import Ranks, process_group, share_statistics
from models.training.loop import Task, train_step
from models.training.optimisation import assemble
from orchestrator.training.resources import with_ranks
from tests.small_data import disc_films, make_dataset, make_targets

CONFIG = TrainConfig(backbone="test_resnet", batch_size=16, epochs=3, device="cpu", precision="fp32", mixup=0.4,
                     learning_rate=5e-3)  # fmt: skip
FILMS = 90


def beside_others(targets: Targets) -> Targets:
    """Its one finding beside two of which the ranks know unlike numbers of answers."""
    value = np.column_stack([targets.value, 1 - targets.value, targets.value])
    value[:40, 0], value[::3, 2] = np.nan, np.nan
    weight = (~np.isnan(value)).astype(np.float32)
    return dataclasses.replace(targets, value=value, weight=weight, slugs=np.array([b"a", b"b", b"c"]), own=1)


def one_step(folder, ranks: int, others: bool) -> dict[str, torch.Tensor]:
    """Gradients, loss, logits and the statistics of batch normalisation after one step."""
    torch.set_num_threads(1)
    truth = (np.random.default_rng(1).random(FILMS) < 0.4).astype(np.float32)
    films, targets = disc_films(truth), make_targets(truth)
    targets = beside_others(targets) if others else targets
    pixels = Pixels(images=films, mean=0.45, std=0.12, size=32, device="cpu")
    config = dataclasses.replace(CONFIG, ranks=ranks, others_weight=0.3 if others else 0.0)
    task = Task(config=config, targets=targets, pixels=pixels, paths=AttemptPaths(folder), still_wanted=lambda: None)
    chosen = targets.usable("train")[: config.batch_size]
    machine = assemble(config, targets.truth(targets.usable("train")), own=targets.own)
    machine.network.train()
    loss, logit = train_step(task, machine, chosen, (0, 0, 0))
    machine.ranks.add_gradients(machine.network)
    found = {f"gradient {name}": weight.grad for name, weight in machine.network.named_parameters()}
    found |= {name: value.float() for name, value in machine.network.named_buffers()}
    return found | {"loss": loss, "logit": logit}


def ranked_step(rank: int, folder, others: bool) -> None:
    config = dataclasses.replace(CONFIG, ranks=2)
    with process_group(folder, config, rank):
        torch.save(one_step(folder, 2, others), folder / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("others", [False, True])
def test_two_ranks_have_the_gradients_of_the_whole_batch(tmp_path, others):
    multiprocessing.spawn(ranked_step, (tmp_path, others), nprocs=2)
    alone = one_step(tmp_path, 1, others)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text)


def prepare(folder, dataset, ranks: int, epochs: int = 3) -> TargetPaths:
    paths = TargetPaths(folder)
    config = dataclasses.replace(CONFIG, ranks=ranks, epochs=epochs, schedule="constant")
    write_json(paths.config, {"config": config.to_dict()})
    truth = (np.random.default_rng(0).random(180) < 0.4).astype(float)
    make_targets(truth).save(paths.targets)
    return paths


@pytest.mark.slow
def test_a_training_by_two_ranks_equals_that_by_one_and_goes_on_from_its_checkpoint(tmp_path):
    dataset = make_dataset(tmp_path / "dataset")
    alone, both = (prepare(tmp_path / f"by{ranks}", dataset, ranks) for ranks in (1, 2))
    broken = prepare(tmp_path / "broken", dataset, 2)

    def stop(row) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(dataset, broken.root, stop, watch_parent=False)
    for paths in (alone, both, broken):
        outcome = run_job(dataset, paths.root, watch_parent=False)
        assert outcome["status"] == "ok", outcome
    assert both.weights.read_bytes() == broken.weights.read_bytes()
    assert read_json(broken.outcome)["attempt"] == 2
    rows = [read_json_lines(paths.attempt(1).history) for paths in (alone, both)]
    # AdamW divides by the size of a gradient, so what rounding makes of a tiny one grows from step to step
    for one, other, close in zip(*rows, (1e-3, 1e-2, 1e-1), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=close)


def test_one_rank_alone_changes_nothing():
    alone, batch = Ranks(), torch.arange(6.0)
    assert alone.mine(batch) is batch
    assert alone.share(batch) is batch
    assert alone.agree(0.3) == 0.3
    assert Ranks(index=1, count=3).mine(batch).tolist() == [2.0, 3.0]


def test_unknown_batch_normalisation_is_refused_and_others_are_left_alone():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.BatchNorm2d(2))
    names = list(network.state_dict())
    share_statistics(network)
    assert list(network.state_dict()) == names
    with pytest.raises(ValueError, match="several ranks cannot share"):
        share_statistics(nn.Sequential(nn.BatchNorm1d(2)))


def test_a_batch_is_shared_equally():
    with pytest.raises(ValueError, match="cannot be shared equally"):
        TrainConfig(batch_size=32, ranks=3)


def test_several_gpus_are_a_rank_each():
    assert with_ranks({"epochs": 3}, 2.0) == {"epochs": 3, "ranks": 2}
    for share in (None, "auto", 0.25, 1.0):
        assert with_ranks({"epochs": 3}, share) == {"epochs": 3}
    with pytest.raises(ValueError, match="above 1 it is a whole number"):
        with_ranks({}, 1.5)
    with pytest.raises(ValueError, match="2 with ranks=3: "):
        with_ranks({"ranks": 3}, 2.0)
