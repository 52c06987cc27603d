"""orchestrator/training/last_round.py: no core idle in the last round, and nothing changed where that cannot be or
is not ours.
"""

import dataclasses
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from models.config import TrainConfig
from models.files.layout import RunPaths
from orchestrator.planning.plan import Job
from orchestrator.training.schedule import whole_rounds


def jobs(count: int, threads: int = 1) -> list[Job]:
    run, config = RunPaths(Path("run")), TrainConfig(threads=threads)
    return [Job(slug="edema", member=one, paths=run.target("edema", one), config=config) for one in range(count)]


def node(cpus: float, alive: bool = True) -> dict:
    return {"Alive": alive, "Resources": {"CPU": cpus}}


def shares(count: int, cpus: float, threads: int = 1) -> list[float | None]:
    return [job.cpus for job in whole_rounds(jobs(count, threads), [node(cpus), node(9, alive=False)], 0)]


def test_the_last_three_of_five_share_two_cores():
    assert shares(5, 2) == [None, None, 0.6666, 0.6666, 0.6666]
    assert shares(3, 2) == [0.6666] * 3
    assert shares(3, 4, threads=2) == [1.3333] * 3


def test_what_comes_out_even_or_fits_at_once_is_left_alone():
    for count, cpus in ((12, 2), (2, 2), (1, 2), (3, 16), (0, 2), (3, 0)):
        assert shares(count, cpus) == [None] * count


def test_gpus_several_nodes_and_unequal_trainings_are_left_alone():
    five = jobs(5)
    unequal = [*five[:4], dataclasses.replace(five[4], config=TrainConfig(threads=2))]
    assert whole_rounds(five, [node(2)], 0.25) == five
    assert whole_rounds(five, [node(2), node(2)], 0) == five
    assert whole_rounds(unequal, [node(2)], 0) == unequal
    assert whole_rounds(five, [node(2)], 0) != five


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 4))
def test_the_rounds_come_out_even_and_all_that_share_have_room(count, cpus, threads):
    slots, asked = cpus // threads, shares(count, cpus, threads)
    sharing = [share for share in asked if share is not None]
    if not sharing:
        assert not slots or count <= slots or count % slots == 0
        return
    assert slots < len(sharing) < 2 * slots
    assert sum(sharing) <= slots * threads + 1e-9
    assert (count - len(sharing)) % slots == 0
    assert asked == [None] * (count - len(sharing)) + sharing
