"""models/process/signals.py: a real SIGTERM or SIGINT leaves a checkpoint of that very step, and no outcome."""

import os
import signal

import pytest

import models.training.loop
from models.files.checksummed import read_checksummed
from models.files.layout import TargetPaths
from models.process.job import run_job
from models.process.signals import end_as_by_ctrl_c, listening
from models.training.stop_request import Interrupted
from tests.models.process.test_job import prepare_target, undisturbed_weights

SETTINGS = {"epochs": 3, "dropout": 0.2, "accumulate": 2}


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    return undisturbed_weights(dataset, tmp_path_factory.mktemp("undisturbed") / "t", **SETTINGS)


def signal_at(monkeypatch, name, call, number=signal.SIGTERM):
    """This process gets the signal when `models.training.loop.<name>` is called for the `call`th time."""
    original, count = getattr(models.training.loop, name), [0]

    def wrapped(*words):
        count[0] += 1
        if count[0] == call:
            os.kill(os.getpid(), number)
        return original(*words)

    monkeypatch.setattr(models.training.loop, name, wrapped)


@pytest.mark.parametrize(
    ("name", "call", "number", "place"),
    [
        ("train_step", 10, signal.SIGTERM, (1, 4)),  # seven steps an epoch; gradients of two make one update
        ("train_step", 3, signal.SIGINT, (0, 4)),
        ("predict_logits", 2, signal.SIGTERM, (1, 7)),  # the epoch's steps are done, and it is not judged yet
    ],
)
def test_it_goes_on_from_exactly_there(dataset, undisturbed, tmp_path, monkeypatch, name, call, number, place):
    paths = TargetPaths(prepare_target(tmp_path / "t", **SETTINGS))
    with monkeypatch.context() as patch:
        signal_at(patch, name, call, number)
        with pytest.raises(Interrupted, match=signal.Signals(number).name):
            run_job(dataset, paths.root, watch_parent=False)
    assert not paths.outcome.exists()
    facts = read_checksummed(paths.attempt(1).checkpoint, "progress")[1]
    assert (facts["epoch"], facts["step"]) == place
    assert run_job(dataset, paths.root, watch_parent=False)["continued_from"] == "attempts/1/last.ckpt"
    assert paths.weights.read_bytes() == undisturbed


def test_the_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with listening() as wish:
        assert not wish
        wish.check()
        os.kill(os.getpid(), signal.SIGTERM)
        assert wish
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_second_ctrl_c_is_an_ordinary_one():
    with listening() as wish:
        os.kill(os.getpid(), signal.SIGINT)
        assert wish
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_driver_takes_sigterm_as_ctrl_c():
    before = signal.getsignal(signal.SIGTERM)
    try:
        end_as_by_ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
