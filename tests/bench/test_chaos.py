"""bench/chaos.py, attack.py and loopback.py: who is killed how often, and what counts as a broken promise."""

import itertools
import subprocess
import sys
from collections import Counter

import pytest

from bench import chaos
from bench.attack import Course, deck, wanted
from bench.loopback import below, end_all, environment, marked
from models.files.layout import RunPaths, append_json_line, write_bytes, write_json
from tests.processes import wait_for

COURSE = dict(dataset=None, settings={"epochs": 3}, log=None)


def test_the_shares_of_ten_minutes_and_of_two():
    assert wanted(10) == {"training": 5, "driver": 3, "worker raylet": 2, "head": 1}
    assert wanted(2) == {"training": 1, "driver": 1, "worker raylet": 1, "head": 1}
    assert wanted(20) == {"training": 10, "driver": 6, "worker raylet": 4, "head": 2}


@pytest.mark.parametrize("seed", range(5))
def test_the_first_cards_are_the_wanted_ones_in_some_order(seed):
    assert Counter(itertools.islice(deck(10, seed), 11)) == Counter(wanted(10))
    first, again = (list(itertools.islice(deck(10, seed), 30)) for _ in range(2))
    assert first == again
    assert Counter(itertools.islice(deck(2, seed), 4)) == Counter(wanted(2))


def make_run(root, slugs, weights: bytes = b"same"):
    run = RunPaths(root)
    for slug in slugs:
        paths = run.target(slug, 0)
        paths.new_attempt()
        write_bytes(paths.weights, weights)
        write_bytes(paths.predictions, b"p")
        write_json(paths.outcome, {"status": "ok", "attempt": 1})
        append_json_line(run.ledger, {"event": "finished", "job": f"{slug}/0", "status": "ok"})
    return run


def judged(tmp_path, run):
    course = Course(targets=("edema", "fracture"), **COURSE)
    return chaos.judge(course, run.root, tmp_path / "calm")


@pytest.fixture
def run(tmp_path):
    make_run(tmp_path / "calm", ("edema", "fracture"))
    return make_run(tmp_path / "run", ("edema", "fracture"))


def test_a_good_run_has_no_faults(tmp_path, run):
    verdict = judged(tmp_path, run)
    assert verdict.attempts == 2
    assert verdict.faults(Counter(wanted(10)), 10, outlasted=True) == []


def test_too_few_kills_and_too_short_trainings_are_faults(tmp_path, run):
    kills = Counter(wanted(10)) - Counter(["driver"])
    found = judged(tmp_path, run).faults(kills, 10, outlasted=False)
    assert found == [
        "all targets were finished before the time was over: give --epochs more",
        "2 kills of a driver hit running work; 3 are wanted",
    ]


def test_another_byte_a_second_end_and_a_missing_target_are_found(tmp_path, run):
    write_bytes(run.target("edema", 0).weights, b"other")
    assert judged(tmp_path, run).differing == ["edema"]
    append_json_line(run.ledger, {"event": "finished", "job": "edema/0", "status": "ok"})
    assert judged(tmp_path, run).twice == ["edema"]
    run.target("fracture", 0).new_attempt()
    assert judged(tmp_path, run).twice == ["edema", "fracture"]
    run.target("fracture", 0).outcome.unlink()
    verdict = judged(tmp_path, run)
    assert (verdict.missing, verdict.twice) == (["fracture"], ["edema"])
    assert len(verdict.faults(Counter(wanted(2)), 2, outlasted=True)) == 3


def test_marked_processes_are_found_and_ended_though_their_parent_is_gone():
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    process = subprocess.Popen([sys.executable, "-c", code + "time.sleep(60)"], env={"CHAOS_TEST": "7"})
    try:
        wait_for(lambda: len(marked("CHAOS_TEST", "7")) == 2, 20)
        (child,) = below(process.pid)
        assert environment(child)["CHAOS_TEST"] == "7"
        process.kill()
        process.wait()
        assert marked("CHAOS_TEST", "7") == [child]
        assert marked("CHAOS_TEST", "70") == []
    finally:
        end_all("CHAOS_TEST", "7")
        process.kill()
    assert not marked("CHAOS_TEST", "7")


def test_the_command_line():
    with pytest.raises(SystemExit) as end:
        chaos.main(["--help"])
    assert end.value.code == 0
