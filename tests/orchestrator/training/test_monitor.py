"""orchestrator/training/monitor.py: every start and epoch is told once, whatever becomes of the files."""

import json
import os

import pytest

from models.config import TrainConfig
from models.files.layout import RunPaths, TargetPaths, append_json_line, write_text
from orchestrator.planning.plan import Job
from orchestrator.training import monitor as watching
from orchestrator.training.monitor import Watch


@pytest.fixture
def job(tmp_path):
    return Job(slug="pneumonia", member=0, paths=RunPaths(tmp_path).target("pneumonia", 0), config=TrainConfig())


def add_epoch(paths: TargetPaths, attempt: int, epoch: int) -> None:
    append_json_line(paths.attempt(attempt).history, {"epoch": epoch})


def news(watch):
    return [(one["event"], one.get("attempt") or one["row"]["epoch"]) for one in watch.news()]


def test_a_watch_tells_each_thing_once(job):
    watch = Watch(job)
    assert news(watch) == []
    job.paths.new_attempt()
    assert news(watch) == [("started", 1)]
    add_epoch(job.paths, 1, 1)
    add_epoch(job.paths, 1, 2)
    assert news(watch) == [("epoch", 1), ("epoch", 2)]
    assert news(watch) == []


def test_a_watch_follows_a_retry_that_goes_on(job):
    watch = Watch(job)
    job.paths.new_attempt()
    add_epoch(job.paths, 1, 1)
    news(watch)
    job.paths.new_attempt()
    for epoch in (1, 2):
        add_epoch(job.paths, 2, epoch)
    assert news(watch) == [("started", 2), ("epoch", 2)]


def test_a_job_that_waits_is_not_shown_by_what_an_earlier_command_left(job):
    job.paths.new_attempt()
    add_epoch(job.paths, 1, 1)
    watch = Watch(job)
    assert news(watch) == []
    job.paths.new_attempt()
    add_epoch(job.paths, 2, 1)
    assert news(watch) == [("started", 2), ("epoch", 1)]


def test_a_line_is_told_when_it_is_whole(job):
    watch = Watch(job)
    history = job.paths.new_attempt().history
    news(watch)
    write_text(history, '{"epoch": 1}\n{"epo')
    assert news(watch) == [("epoch", 1)]
    with open(history, "a", encoding="ascii") as stream:
        stream.write('ch": 2}')
    assert news(watch) == []
    with open(history, "a", encoding="ascii") as stream:
        stream.write("\n")
    assert news(watch) == [("epoch", 2)]


def rows(*epochs, **more):
    return "".join(json.dumps({"epoch": epoch} | more) + "\n" for epoch in epochs)


def test_a_history_that_was_replaced_is_read_from_its_start(job):
    """As by a training that goes on from an earlier epoch's checkpoint; the file may have grown past its old size."""
    watch = Watch(job)
    history = job.paths.new_attempt().history
    write_text(history, rows(1, 2, 3, seconds=1.25))
    assert news(watch)[1:] == [("epoch", 1), ("epoch", 2), ("epoch", 3)]
    size = history.stat().st_size
    write_text(history, rows(1))
    assert news(watch) == []
    write_text(history, rows(1, 2, 3, seconds=1.25))
    assert news(watch) == []
    write_text(history, rows(1, 2, 3, 4, 5, 6, 7))
    assert len(rows(1, 2, 3, 4, 5, 6)) < size < history.stat().st_size  # from the old end on there is no whole line
    assert news(watch) == [("epoch", epoch) for epoch in (4, 5, 6, 7)]


def test_a_history_that_was_cut_in_its_place_is_read_from_its_start(job):
    watch = Watch(job)
    history = job.paths.new_attempt().history
    history.write_text(rows(1, 2, 3))
    news(watch)
    history.write_text(rows(4))  # the same file to the system
    assert news(watch) == [("epoch", 4)]


def test_of_a_long_history_only_what_is_new_is_read(job, monkeypatch):
    read = []
    monkeypatch.setattr(watching, "parse_json_lines", lambda text, parse=watching.parse_json_lines: (
        read.append(len(text)), parse(text))[1])  # fmt: skip
    watch = Watch(job)
    history = job.paths.new_attempt().history
    for epoch in range(1, 51):
        add_epoch(job.paths, 1, epoch)
        assert news(watch)[-1] == ("epoch", epoch)
    assert sum(read) <= os.path.getsize(history)
