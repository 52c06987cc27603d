"""The same bytes whoever trains: in this process, alone in one, or four at once. Under Ray: test_launch_ray.py."""

import subprocess
import sys

import pytest
import torch

from models.files.layout import TargetPaths, read_json
from tests.conftest import PROJECT
from tests.models.process.test_job import prepare_target, train
from tests.small_data import make_dataset

CHILD = """import sys; from pathlib import Path; from models.process.job import run_job
print("ready", flush=True); sys.stdin.readline()
run_job(Path(sys.argv[1]), Path(sys.argv[2]))"""
RECIPES = {
    "usual": {"epochs": 2, "dropout": 0.2},
    "rich": {
        "epochs": 2,
        "backbone": "plain",
        "mixup": 0.2,
        "averaging": 0.9,
        "snapshots": 1,
        "standardise": "local",
    },
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset")


def train_at_once(dataset, roots):
    """Processes that have loaded everything and begin at one word."""
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, dataset, root], cwd=PROJECT, stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
        for root in roots
    ]  # fmt: skip
    try:
        assert [child.stdout.readline() for child in children] == ["ready\n"] * len(roots)
        for child in children:
            child.stdin.write("\n")
            child.stdin.flush()
        assert [child.wait(timeout=300) for child in children] == [0] * len(roots)
    finally:
        for child in children:
            child.kill()
            child.communicate()


def files_of(paths: TargetPaths) -> dict[str, bytes]:
    assert read_json(paths.outcome)["status"] == "ok"
    return {path.name: path.read_bytes() for path in (paths.weights, paths.predictions, *paths.snapshots())}


@pytest.mark.slow
def test_one_trainer_or_four_at_once_give_the_same_bytes(dataset, tmp_path):
    """Four trainings of two recipes share the machine; each must equal the one that had it to itself."""
    places = [(name, tmp_path / f"{name}-{number}") for number in range(2) for name in RECIPES]
    for name, root in places:
        prepare_target(root, **RECIPES[name])
    train_at_once(dataset, [root for _, root in places])
    train_at_once(dataset, [prepare_target(tmp_path / "alone", **RECIPES["usual"])])
    train(dataset, tmp_path / "inline", **RECIPES["usual"])
    found = {root.name: files_of(TargetPaths(root)) for root in tmp_path.iterdir()}
    assert found["usual-0"] == found["usual-1"] == found["alone"] == found["inline"]
    assert found["rich-0"] == found["rich-1"]
    assert len(found["rich-0"]) == 3
    assert found["rich-0"]["weights.safetensors"] != found["usual-0"]["weights.safetensors"]


def test_on_a_cpu_repeatable_operations_change_no_byte_and_end_with_their_training(dataset, tmp_path):
    for name, deterministic in (("repeatable", True), ("any", False)):
        train(dataset, tmp_path / name, epochs=1, deterministic=deterministic)
        assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert files_of(TargetPaths(tmp_path / "repeatable")) == files_of(TargetPaths(tmp_path / "any"))
