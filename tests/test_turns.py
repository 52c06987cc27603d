"""orchestrator/turns.py with real processes: never more at a time than there are tokens for, and none is lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.turns import Tokens, Turn, taking, turns
from tests.processes import wait_for

# holds its turn until the file `end` appears; tells when it began and ended
HOLDER = """
import sys, time
from pathlib import Path
from orchestrator.turns import Tokens, Turn, taking
folder, name, need, of = Path(sys.argv[2]), *sys.argv[3:]
with taking(Turn(folder=sys.argv[1], tokens=Tokens(int(need), int(of)))):
    (folder / f"{name}.began").touch()
    while not (folder / f"{name}.end").exists():
        time.sleep(0.01)
"""


class House:
    """Holders that begin and end as they are told."""

    def __init__(self, folder: Path, said: Path) -> None:
        self.folder, self.said, self.processes = folder, said, {}

    def start(self, name: str, tokens: Tokens) -> None:
        words = [sys.executable, "-c", HOLDER, str(self.folder), str(self.said), name, str(tokens.need), str(tokens.of)]
        self.processes[name] = subprocess.Popen(words)

    def began(self) -> set[str]:
        return {path.stem for path in self.said.glob("*.began")}

    def end(self, name: str) -> None:
        (self.said / f"{name}.end").touch()
        assert self.processes[name].wait(30) == 0


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.setenv("HILUM_CACHE", str(tmp_path / "cache"))
    said = tmp_path / "said"
    said.mkdir()
    with turns() as folder:
        one = House(folder, said)
        yield one
        for process in one.processes.values():
            process.kill()
            process.wait()


def settled(house: House, expected: set[str]) -> None:
    """They have begun, and nobody else does in the time of several looks."""
    wait_for(lambda: house.began() >= expected, 30)
    time.sleep(0.4)
    assert house.began() == expected


def test_the_third_of_two_waits_until_one_has_ended(house):
    for name in "ab":
        house.start(name, Tokens(1, 2))
    settled(house, {"a", "b"})
    house.start("c", Tokens(1, 2))
    settled(house, {"a", "b"})
    house.end("a")
    settled(house, {"a", "b", "c"})


def test_a_killed_process_hands_its_tokens_back_and_one_killed_while_it_waits_blocks_nobody(house):
    house.start("a", Tokens(1, 1))
    settled(house, {"a"})
    house.start("b", Tokens(1, 1))  # it gathers: the first in the queue
    wait_for(lambda: (house.folder / "first").exists(), 30)
    time.sleep(0.2)
    house.start("c", Tokens(1, 1))
    house.processes["b"].send_signal(signal.SIGKILL)
    house.processes["b"].wait()
    house.processes["a"].send_signal(signal.SIGKILL)
    settled(house, {"a", "c"})


def test_last_ones_that_share_take_smaller_parts_as_they_become_free(house):
    """Two whole ones of 6 tokens, then three that share: as orchestrator.rounds gives them to five on two cores."""
    for name in "ab":
        house.start(name, Tokens(3, 6))
    settled(house, {"a", "b"})
    for name in "cde":
        house.start(name, Tokens(2, 6))
    house.end("a")
    wait_for(lambda: len(house.began()) == 3, 30)
    time.sleep(0.4)
    assert len(house.began()) == 3  # one token is left, and two are wanted
    house.end("b")
    settled(house, set("abcde"))


def test_one_that_takes_more_is_not_passed_by_for_ever_by_those_that_take_less(house):
    house.start("a", Tokens(1, 2))
    settled(house, {"a"})
    house.start("large", Tokens(2, 2))
    wait_for(lambda: (house.folder / "first").exists(), 30)
    time.sleep(0.4)
    house.start("b", Tokens(1, 2))
    settled(house, {"a"})
    house.end("a")
    settled(house, {"a", "large"})


def test_without_a_turn_nothing_is_waited_for():
    with taking(None):
        pass


def test_who_waits_for_a_driver_that_was_killed_ends(tmp_path):
    """Else an orphan would take over from the next command as soon as its own siblings have ended."""
    driver = """
import sys, time
from orchestrator.turns import turns
with turns() as folder:
    print(folder, flush=True)
    time.sleep(600)
"""
    said = tmp_path / "said"
    said.mkdir()
    environment = os.environ | {"HILUM_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen([sys.executable, "-c", driver], env=environment, stdout=subprocess.PIPE, text=True)
    house = House(Path(process.stdout.readline().strip()), said)
    house.start("a", Tokens(1, 1))
    settled(house, {"a"})
    house.start("b", Tokens(1, 1))
    time.sleep(0.5)
    assert house.processes["b"].poll() is None
    process.kill()
    process.wait()
    assert house.processes["b"].wait(30) == 1
    house.end("a")
    assert house.began() == {"a"}


def test_a_turn_in_a_folder_that_is_gone_makes_no_new_one(tmp_path):
    code = "import sys; from orchestrator.turns import *\nwith taking(Turn(sys.argv[1], Tokens(1, 1))): print('in')"
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "gone")], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_ends_with_the_driver(tmp_path, monkeypatch):
    monkeypatch.setenv("HILUM_CACHE", str(tmp_path))
    with turns() as folder, taking(Turn(folder=str(folder), tokens=Tokens(1, 1))):
        assert folder.is_dir()
    assert not folder.exists()
