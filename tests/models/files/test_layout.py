"""models/files/layout.py: files whole or absent, attempts taken one by one, and the layout of the three folders."""

import json
import math
import threading

import numpy as np
import pytest

from models.files.layout import (
    BundlePaths,
    DatasetPaths,
    RunPaths,
    TargetPaths,
    append_json_line,
    publishing,
    read_json,
    read_json_lines,
    remove_temporaries,
    write_bytes,
    write_json,
    write_text,
)


def test_json_is_sorted_and_says_null_for_what_is_no_number(tmp_path):
    write_json(tmp_path / "a.json", {"b": math.nan, "a": [np.float32(0.5), math.inf, np.arange(2)], "é": (1, None)})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.index('"a"') < text.index('"b"') < text.index('"é"')
    assert json.loads(text) == {"a": [0.5, None, [0, 1]], "b": None, "é": [1, None]}
    assert text.endswith("}\n")


def test_what_json_cannot_say_is_an_error_and_the_old_file_stays(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert read_json(tmp_path / "a.json") == {"a": 1}


def write_half(path):
    with publishing(path) as temporary:
        temporary.write_text("half")
        raise KeyError("killed in the middle")


def test_a_failed_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old\r\n")
    with pytest.raises(KeyError):
        write_half(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == b"old\r\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_temporary_keeps_the_suffix_and_lies_in_the_same_folder(tmp_path):
    with publishing(tmp_path / "new" / "a.npz") as temporary:
        assert temporary.parent == tmp_path / "new"
        assert temporary.suffix == ".npz"
        np.savez(temporary, row=np.arange(3))
        assert not (tmp_path / "new" / "a.npz").exists()
    assert np.load(tmp_path / "new" / "a.npz")["row"].tolist() == [0, 1, 2]


def test_a_writer_that_wrote_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), publishing(tmp_path / "a.bin"):
        pass
    assert not (tmp_path / "a.bin").exists()


def test_a_published_file_has_the_ordinary_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    with publishing(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"x")
        temporary.with_name(temporary.name + "x").write_bytes(b"left by another")
    remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(
    ("content", "message"), [(b'{"a": 1', "not whole JSON"), (b"\xff", "not whole"), (b"[]", "list")]
)
def test_reading_bad_json_says_which_file(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json.*{message}"):
        read_json(tmp_path / "a.json")


def test_reading_a_missing_json_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"plan\.json is missing"):
        read_json(RunPaths(tmp_path).plan)


def test_json_lines_survive_a_torn_line(tmp_path):
    path = tmp_path / "new" / "ledger.jsonl"
    assert read_json_lines(path) == []
    append_json_line(path, {"event": "start", "loss": math.nan, "name": "line\u2028separator"})
    with path.open("ab") as file:
        file.write(b'{"event": "to')
    append_json_line(path, {"event": "end"})
    assert read_json_lines(path) == [
        {"event": "start", "loss": None, "name": "line\u2028separator"},
        {"event": "end"},
    ]


def test_layout(tmp_path):
    def names(paths, *properties):
        return [getattr(paths, name).relative_to(tmp_path).as_posix() for name in properties]

    dataset = names(DatasetPaths(tmp_path), "labels", "images", "split", "rejected", "manifest", "shards")
    assert dataset == ["labels.parquet", "images.u8", "split.csv", "rejected.csv", "manifest.json", "shards"]
    run = RunPaths(str(tmp_path))
    assert names(run, "plan", "ledger", "test_reads") == ["plan.json", "ledger.jsonl", "test_reads.jsonl"]
    assert names(run.target("edema", 0), "config", "targets", "weights", "predictions", "outcome") == [
        "edema/0/config.json",
        "edema/0/targets.npz",
        "edema/0/weights.safetensors",
        "edema/0/predictions.parquet",
        "edema/0/outcome.json",
    ]
    attempt = run.target("edema", 0).attempt(2)
    assert names(attempt, "history", "checkpoint") == [
        "edema/0/attempts/2/history.jsonl",
        "edema/0/attempts/2/last.ckpt",
    ]
    assert run.shared(1) == TargetPaths(tmp_path / "shared" / "1")
    assert run.trials("edema", 3).root == tmp_path / "trials" / "edema" / "3"
    assert run.tuned("edema") == tmp_path / "tuned" / "edema.toml"
    bundle = BundlePaths(tmp_path)
    assert bundle.weights("edema", 0) == tmp_path / "weights" / "edema-0.safetensors"
    assert names(bundle, "bundle", "selftest") == ["bundle.json", "selftest"]


@pytest.mark.parametrize("slug", ["shared", "trials", "tuned", "../edema", "", "a/b"])
def test_a_slug_that_is_no_folder_name_is_refused(tmp_path, slug):
    with pytest.raises(ValueError, match="rename the finding"):
        RunPaths(tmp_path).target(slug, 0)


def test_attempts_are_counted_as_numbers(tmp_path):
    target = RunPaths(tmp_path).target("edema", 0)
    assert target.newest_attempt() is None
    assert [target.new_attempt().number for _ in range(11)] == list(range(1, 12))
    (target.attempts / "notes.txt").write_text("")
    assert target.newest_attempt() == target.attempt(11)


def test_racing_attempts_each_get_their_own_number(tmp_path):
    target = RunPaths(tmp_path).target("edema", 0)
    taken = []
    threads = [threading.Thread(target=lambda: taken.append(target.new_attempt().number)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 9))
