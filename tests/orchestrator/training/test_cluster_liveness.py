"""orchestrator/training/ray_session.py: two sockets stand for the head and the raylet; closed, they are gone."""

import socket
import types

import pytest

from orchestrator.training import ray_session
from orchestrator.training.ray_session import ClusterGone, ClusterLiveness


@pytest.fixture
def places():
    with socket.create_server(("127.0.0.1", 0)) as head, socket.create_server(("127.0.0.1", 0)) as raylet:
        yield head, raylet


def fake_ray(head: socket.socket, raylet: socket.socket):
    context = types.SimpleNamespace(
        gcs_address=f"127.0.0.1:{head.getsockname()[1]}", get_node_id=lambda: "here"
    )  # fmt: skip
    node = {"NodeID": "here", "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": raylet.getsockname()[1]}
    return types.SimpleNamespace(get_runtime_context=lambda: context, nodes=lambda: [{"NodeID": "other"}, node])


@pytest.mark.parametrize(("dead", "name"), [(0, "the head"), (1, "the raylet on this machine")])
def test_silence_is_borne_for_a_while_and_then_a_sentence(places, dead, name, monkeypatch):
    monkeypatch.setattr(ray_session, "EVERY_SECONDS", 0.0)
    clock = [100.0]
    monkeypatch.setattr(ray_session.time, "monotonic", lambda: clock[0])
    line = ClusterLiveness(fake_ray(*places))
    line.check()
    places[dead].close()
    clock[0] += ray_session.LIMIT_SECONDS
    line.check()
    clock[0] += 1
    with pytest.raises(ClusterGone, match=f"{name} .* has not answered for 11 s.*give the same command"):
        line.check()


def test_an_answer_in_between_starts_the_clock_again(places, monkeypatch):
    monkeypatch.setattr(ray_session, "EVERY_SECONDS", 0.0)
    clock = [100.0]
    monkeypatch.setattr(ray_session.time, "monotonic", lambda: clock[0])
    line = ClusterLiveness(fake_ray(*places))
    for _ in range(5):
        clock[0] += ray_session.LIMIT_SECONDS - 1
        line.check()


def test_it_is_not_asked_at_every_turn(places, monkeypatch):
    asked = []
    monkeypatch.setattr(ray_session, "_listens", lambda place: asked.append(place) or True)
    line = ClusterLiveness(fake_ray(*places))
    for _ in range(5):
        line.check()
    assert len(asked) == 2
