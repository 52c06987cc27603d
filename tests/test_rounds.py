"""orchestrator/rounds.py: no core idle while there is work, and nothing changed where that cannot be or is not ours."""

import dataclasses
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from models.config import TrainConfig
from models.paths import RunPaths
from orchestrator.plan import Job
from orchestrator.rounds import in_rounds, in_turn
from orchestrator.turns import Tokens


def jobs(count: int, threads: int = 1) -> list[Job]:
    run, config = RunPaths(Path("run")), TrainConfig(threads=threads)
    return [Job(slug="edema", member=one, paths=run.target("edema", one), config=config) for one in range(count)]


def node(cpus: float, alive: bool = True) -> dict:
    return {"Alive": alive, "Resources": {"CPU": cpus}}


def arranged(count: int, cpus: float, threads: int = 1) -> list[Job]:
    return in_rounds(jobs(count, threads), [node(cpus), node(9, alive=False)], 0)


def asked(count: int, cpus: float, threads: int = 1) -> list[float | None]:
    return [job.cpus for job in arranged(count, cpus, threads)]


def test_ray_starts_one_more_than_may_train():
    assert asked(12, 2) == [0.6666] * 12
    assert {job.tokens for job in arranged(12, 2)} == {Tokens(1, 2)}
    assert asked(2, 1) == [0.5] * 2
    assert asked(4, 5, threads=2) == [1.6666] * 4  # the fifth CPU does not let in a fourth process


def test_the_last_three_of_five_share_two_cores():
    assert asked(5, 2) == [0.6666] * 5
    assert [job.tokens for job in arranged(5, 2)] == [Tokens(3, 6)] * 2 + [Tokens(2, 6)] * 3
    assert asked(3, 4, threads=2) == [1.3333] * 3
    assert asked(15, 4) == [0.8] * 8 + [0.5714] * 7
    assert [job.tokens for job in arranged(15, 4)] == [Tokens(7, 28)] * 8 + [Tokens(4, 28)] * 7


def test_what_fits_at_once_is_left_alone():
    for count, cpus in ((2, 2), (1, 2), (3, 16), (0, 2), (3, 0)):
        left = arranged(count, cpus)
        assert left == jobs(count)


def test_gpus_several_nodes_and_unequal_trainings_are_left_alone():
    five = jobs(5)
    unequal = [*five[:4], dataclasses.replace(five[4], config=TrainConfig(threads=2))]
    assert in_rounds(five, [node(2)], 0.25) == five
    assert in_rounds(five, [node(2), node(2)], 0) == five
    assert in_rounds(unequal, [node(2)], 0) == unequal
    assert in_rounds(five, [node(2)], 0) != five


def test_one_that_is_not_to_be_ahead_asks_for_all_its_threads_and_still_waits_for_its_tokens():
    one = in_turn(arranged(5, 2)[0])
    assert (one.cpus, one.tokens) == (None, Tokens(3, 6))


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 4))
def test_the_cores_are_full_and_never_more_than_full(count, cpus, threads):
    """As tokens go round: at most `slots` whole trainings at a time, and the last ones come out even."""
    slots, found = cpus // threads, arranged(count, cpus, threads)
    if not slots or count <= slots:
        assert all(job.cpus is None and job.tokens is None for job in found)
        return
    of = {job.tokens.of for job in found}
    whole = [job for job in found if job.tokens.need * slots == job.tokens.of]
    sharing = found[len(whole) :] if len(whole) < count else []
    assert len(of) == 1
    assert found[: len(whole)] == whole
    assert len(whole) % slots == 0
    assert all(len(sharing) * job.tokens.need == job.tokens.of for job in sharing)
    assert not sharing or slots < len(sharing) < 2 * slots
    for at_once, some in ((slots + 1, whole), (len(sharing), sharing)):
        for job in some:
            assert job.cpus * at_once <= cpus + 1e-9 < job.cpus * (at_once + 1) + 1e-3 * at_once
