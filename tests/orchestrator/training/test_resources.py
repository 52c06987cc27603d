"""orchestrator/training/resources.py: how many trainings fit on a card or a node, and a real peak beside the
estimate.
"""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

from models.config import TrainConfig
from models.files.layout import TargetPaths, read_json, write_json
from orchestrator.cluster.checks import Machine, slots
from orchestrator.planning.memory import Estimate, estimate
from orchestrator.training.private_ray import private_ray
from orchestrator.training.resources import (
    capabilities,
    cards,
    cluster_precision,
    definite_share,
    gpu_share,
    memory_request,
    parse_share,
)
from tests.conftest import PROJECT
from tests.small_data import make_targets, write_dataset

GIB = 2**30
NEED = Estimate(host=3 * GIB, gpu=2 * GIB, disk=0, finished=0, basis="table")


def node(cpus=4, gpus=0, memory=None, alive=True):
    resources = {"CPU": cpus, "GPU": gpus} | ({} if memory is None else {"memory": memory})
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("cache", "card", "expected"),
    [(0, 24 * GIB, 1 / 11), (GIB, 24 * GIB, 1 / 7), (2 * GIB, 24 * GIB, 1 / 11), (0, 3 * GIB, 1.0)],
)
def test_as_many_as_fit_on_a_card(cache, card, expected):
    """95 % of 24 GiB hold 11 of 2 GiB, 7 of 3; a cache above a twentieth of the card stays off it."""
    assert gpu_share(NEED, cache, card) == pytest.approx(expected)


def test_a_card_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match=r"needs about 2\.0 GiB.*the smallest card has 2\.0.*batch_size"):
        gpu_share(NEED, 0, 2 * GIB)


@pytest.mark.parametrize(("word", "share"), [(None, None), ("auto", "auto"), ("0.25", 0.25), ("2", 2.0), ("0", 0.0)])
def test_the_word_of_the_command_line(word, share):
    assert parse_share(word) == share


@pytest.mark.parametrize("word", ["-1", "half", "nan", "inf"])
def test_a_wrong_word(word):
    with pytest.raises(ValueError, match="not a number from 0 or 'auto'"):
        parse_share(word)


@pytest.mark.parametrize(
    ("wished", "device", "expected"),
    [(0.5, "cuda", 0.5), (0.0, "cuda", 0.0), (None, "cuda", 1.0), (None, "cpu", 0.0), ("auto", "cpu", 0.0)],
)
def test_what_needs_no_look_at_a_card(wished, device, expected):
    assert definite_share(None, wished, device, None, []) == expected


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node(memory=10 * GIB)], 3 * GIB),
        ([node(memory=GIB), node(memory=2 * GIB)], 2 * GIB),  # alone on the largest, rather than never
        ([node(memory=GIB), node(cpus=1, memory=9 * GIB), node(memory=9 * GIB, alive=False)], GIB),
        ([node()], 0),
    ],
)
def test_memory_that_is_asked_of_ray_can_always_be_had(nodes, expected):
    assert memory_request(nodes, TrainConfig(threads=2), 0, NEED.host) == expected


def test_the_doctor_counts_as_ray_does():
    machine = Machine(name="one", node="one", cpus=8, gpus=0, memory=10.0 * GIB)
    assert slots(machine, 1, 0, NEED.host) == 3
    assert slots(machine, 1, 0, 20 * GIB) == 1
    assert slots(dataclasses.replace(machine, memory=0), 1, 0, NEED.host) == 8


@pytest.mark.slow
def test_the_estimate_beside_a_measured_peak(tmp_path):
    """A whole job in a process of its own, large enough that films and activations count."""
    truth = (np.arange(36) % 3 == 0).astype(float)
    films = np.random.default_rng(0).integers(0, 256, (36, 128, 128), dtype=np.uint8)
    dataset = write_dataset(tmp_path / "data", {"pneumonia": truth}, films)
    paths = TargetPaths(tmp_path / "target")
    paths.root.mkdir()
    make_targets(truth).save(paths.targets)
    config = TrainConfig(backbone="resnet10t", batch_size=16, epochs=1, device="cpu", precision="fp32")
    write_json(paths.config, {"config": config.to_dict()})
    code = "import sys; from pathlib import Path; from models.process.job import run_job; "
    code += "run_job(*map(Path, sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", code, dataset, paths.root], cwd=PROJECT, timeout=900, check=True)
    outcome = read_json(paths.outcome)
    assert outcome["status"] == "ok", outcome["error"]
    # workspaces of the convolutions differ from processor to processor
    assert 0.65 <= outcome["peak_memory_bytes"] / estimate(config, 128, len(truth)).host <= 1.15


def fake_nvidia_smi(folder, *capabilities):
    """A program of that name that answers as NVIDIA's does, by its manual."""
    lines = "\\n".join(capabilities)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncase $1 in *compute_cap*) printf '{lines}\\n' ;; *) exit 6 ;; esac\n")
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_capabilities_are_numbers_and_not_words(tmp_path, monkeypatch):
    """12.0 is newer than 7.5, though its first letter is not."""
    monkeypatch.setenv("PATH", fake_nvidia_smi(tmp_path, "12.0", "7.5"))
    assert capabilities() == [(12, 0), (7, 5)]
    assert cards() == []  # a field that it does not know
    monkeypatch.setenv("PATH", fake_nvidia_smi(tmp_path))
    assert capabilities() == []


@pytest.mark.ray
@pytest.mark.slow
def test_the_oldest_card_of_a_cluster_says_what_auto_is(tmp_path, monkeypatch):
    import ray

    assert not ray.is_initialized()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for gpus, told, precision in ((2, ("8.0", "7.5"), "fp16"), (0, ("8.0",), "auto")):
        monkeypatch.setenv("PATH", fake_nvidia_smi(tmp_path, *told))
        with private_ray():
            try:
                ray.init(num_cpus=1, num_gpus=gpus, include_dashboard=False, logging_level="ERROR")
                assert cluster_precision(ray) == precision
            finally:
                ray.shutdown()
