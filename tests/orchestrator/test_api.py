"""orchestrator/api.py: the names that are promised, nothing heavy on import, options as those of the command line."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer

import orchestrator
from orchestrator import api
from orchestrator.cli.app import app, main
from orchestrator.option_values import (
    Result,
    place_of,
    read_assignments,
    read_fold,
    read_fractions,
    read_member_settings,
    read_settings,
    read_source_options,
    read_words,
    require_at_least,
)
from orchestrator.progress import listener
from pathologies.errors import InputError
from tests.conftest import PROJECT
from tests.small_run import SETTINGS, train_inline

NAMES = ["compare", "ensemble", "evaluate", "load_bundle", "predict", "prepare", "train", "tune"]
COMMANDS = typer.main.get_command(app).commands
SHOWING = {"json", "help", "verbose"}  # options that say what the command prints
OWN = {"progress", "further"}


def test_the_exported_names_are_these():
    assert orchestrator.__all__ == api.__all__ == NAMES
    assert set(NAMES) <= set(dir(orchestrator))
    assert all(callable(getattr(orchestrator, name)) for name in NAMES)
    assert all(inspect.getdoc(getattr(orchestrator, name)) for name in NAMES)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        orchestrator.trian  # noqa: B018


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("code", ["import orchestrator", f"from orchestrator import {', '.join(NAMES)}"])
def test_the_import_loads_nothing_heavy(code):
    loaded = in_a_fresh_process(f"import sys; {code}; print(*{{name.partition('.')[0] for name in sys.modules}})")
    assert not {"torch", "pandas", "ray", "numpy", "pydicom", "rich", "typer"} & set(loaded.split())


@pytest.mark.parametrize(
    "code",
    [
        "import orchestrator.predict; from orchestrator import predict",
        "from orchestrator import predict; import orchestrator.predict",
        "import importlib; importlib.import_module('orchestrator.predict'); predict = orchestrator.predict",
    ],
)
def test_the_module_predict_does_not_hide_the_function(code):
    told = "print(predict.__qualname__, predict.__module__, orchestrator.predict is predict)"
    assert in_a_fresh_process(f"import orchestrator; {code}; {told}").split() == ["predict", "orchestrator.api", "True"]


def test_the_module_predict_is_the_command_still():
    words = [sys.executable, "-m", "orchestrator.predict", "--help"]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "Usage: hilum predict" in done.stdout


def options_of(command) -> dict[str, object]:
    """{name: default} of what a command takes; an argument that is needed has no default."""
    found = {}
    for one in command.params:
        long = next((name for name in one.opts if name.startswith("--")), f"--{one.name}")
        found[long.removeprefix("--").replace("-", "_")] = inspect.Parameter.empty if one.required else one.default
    return {name: value for name, value in found.items() if name not in SHOWING}


def keywords_of(function) -> dict[str, object]:
    return {one.name: one.default for one in inspect.signature(function).parameters.values() if one.name not in OWN}


def plain(value):
    """Nothing is None, in whatever form; shares are numbers."""
    if value == "0.6,0.1,0.15,0.15":
        return read_fractions(value)
    if isinstance(value, Path):
        return str(value)
    return None if value is None or value in ("", (), []) else value


@pytest.mark.parametrize("name", [name for name in NAMES if name != "load_bundle"])
def test_keywords_and_defaults_are_those_of_the_command(name):
    options = {one: plain(value) for one, value in options_of(COMMANDS[name]).items()}
    keywords = {one: plain(value) for one, value in keywords_of(getattr(orchestrator, name)).items()}
    assert keywords == options


def test_option_values_are_words_or_python():
    assert read_words("a, b") == read_words(["a", "b "]) == ("a", "b")
    assert read_words(None) == read_words("") == ()
    assert read_settings(["epochs=3"]) == read_settings("epochs=3") == read_settings({"epochs": 3}) == {"epochs": 3}
    assert read_member_settings(["1:epochs=3"]) == read_member_settings({1: {"epochs": 3}}) == {1: {"epochs": 3}}
    assert read_source_options(["a=b"]) == read_source_options({"a": "b"}) == {"a": "b"}
    assert read_assignments({"edema": 0.25}) == read_assignments(["edema=0.25"]) == ("edema=0.25",)
    assert read_fold("1/5") == read_fold((1, 5)) == (1, 5)
    assert read_fractions("0.7,0.1,0.1,0.1") == read_fractions([0.7, 0.1, 0.1, 0.1])
    for read, given in ((read_fold, "1-5"), (read_fold, (1, 2, 3)), (read_fractions, 3), (read_source_options, "a")):
        with pytest.raises(InputError, match="--"):
            read(given)
    with pytest.raises(InputError, match="members is 0. Allowed: 1 or more"):
        require_at_least(members=(0, 1))


def test_a_folder_is_given_as_anything_that_stands_for_one(house):
    result = Result(folder=house / "run", table=pd.DataFrame({"a": [1]}), notes=("<b>",))
    assert place_of(result) == place_of(str(house / "run")) == house / "run"
    assert place_of("s3://bucket/run/") == "s3://bucket/run"
    assert place_of(orchestrator.load_bundle(house / "bundle", device="cpu")) == house / "bundle"
    assert "&lt;b&gt;" in result._repr_html_()
    with pytest.raises(InputError, match="A int stands for no folder"):
        place_of(3)


def test_progress_is_lines_events_or_nothing():
    said, seen = [], []
    tell = listener(True, "images decoded", said.append)
    for done in range(0, 31):
        tell({"event": "progress", "done": done, "total": 30})
    tell({"event": "note", "message": "a note"})
    assert said == [f"images decoded: {done} of 30" for done in range(3, 31, 3)] + ["a note"]
    listener(seen.append, "", said.append)({"event": "note"})
    listener(False, "", said.append)({"event": "note", "message": "unheard"})
    assert seen == [{"event": "note"}]
    assert said[-1] == "a note"


# -- what comes back


def test_a_run_that_is_finished_is_a_table_and_a_bundle(house, tmp_path, capsys):
    run = orchestrator.train(house / "dataset", out=str(house / "run"), set=SETTINGS, inline=True)
    assert run.folder == house / "run"
    assert run.table["status"].to_dict() == {"pneumonia/0": "ok", "edema/0": "ok"}
    assert run.notes == ()
    assert "was finished already" in capsys.readouterr().out
    bundle = orchestrator.ensemble(run, out=tmp_path / "bundle", targets="edema")
    assert bundle.slugs == ["edema"]
    assert bundle.paths.root == tmp_path / "bundle"


def test_a_training_that_fails_is_a_row_and_a_note(house, tmp_path, monkeypatch):
    def failing(request, on_event):
        outcomes = train_inline(house / "dataset", house / "run")
        return [outcomes[0] | {"status": "failed", "error": "why"}, *outcomes[1:]]

    monkeypatch.setattr("orchestrator.training.launch.train_run", failing)
    run = orchestrator.train(house / "dataset", out=tmp_path / "run", inline=True, progress=False)
    assert run.table["error"].dropna().tolist() == ["why"]
    assert run.notes[0].startswith("Not trained: ")


def test_predict_writes_what_it_returns_and_what_the_command_writes(house, tmp_path):
    from tests.small_run import write_films

    draws = np.random.default_rng(0).integers(0, 255, (2, 32, 32), np.uint8)
    films = write_films(tmp_path / "films", draws)
    broken = tmp_path / "broken.png"
    broken.write_bytes(films[0].read_bytes()[:100])
    bundle = orchestrator.load_bundle(house / "bundle", device="cpu")
    found = [
        orchestrator.predict(given, [*films, broken], out=tmp_path / f"{index}.csv", threshold={"edema": 0.3})
        for index, given in enumerate((bundle, str(house / "bundle")))
    ]
    words = [*map(str, films), str(broken), "--threshold", "edema=0.3", "--out", str(tmp_path / "2.csv")]
    with pytest.raises(SystemExit) as end:
        main(["predict", str(house / "bundle"), *words])
    assert not end.value.code
    texts = [(tmp_path / f"{index}.csv").read_text() for index in range(3)]
    assert texts[0] == texts[1] == texts[2]
    pd.testing.assert_frame_equal(found[0], found[1])
    assert found[0].attrs["rejected"] == {str(broken): "truncated"}
    assert found[0].attrs["notes"][-1] == bundle.identity_note
    table = bundle.predict(films, threshold={"edema": 0.3})
    pd.testing.assert_frame_equal(table, found[0], check_exact=True)


def test_an_evaluation_is_a_table_of_figures(house, tmp_path):
    bundle = orchestrator.load_bundle(house / "bundle", device="cpu")
    found = orchestrator.evaluate(bundle, house / "dataset", part="select", out=tmp_path / "out", resamples=50)
    assert found.table.index.tolist() == ["edema", "pneumonia", "mean"]
    assert found.table.loc["pneumonia", "auc_low"] <= found.table.loc["pneumonia", "auc"]
    assert found.folder == tmp_path / "out"
    assert (tmp_path / "out" / "metrics.csv").is_file()
    with pytest.raises(InputError, match="Give a BUNDLE and a DATASET"):
        orchestrator.evaluate(bundle)
    with pytest.raises(InputError, match="resamples is 3"):
        orchestrator.evaluate(bundle, house / "dataset", resamples=3)


def test_a_comparison_is_a_table_of_differences(house, tmp_path):
    train_inline(house / "dataset", tmp_path / "other", targets=("edema",), settings={"epochs": 1})
    found = orchestrator.compare(house / "run", tmp_path / "other", resamples=50)
    assert found.table.index.tolist() == ["edema"]
    row = found.table.loc["edema"]
    assert row["difference"] == pytest.approx(row["auc_a"] - row["auc_b"])
    assert any("Judged on part calibrate" in note for note in found.notes)


@pytest.mark.slow
def test_the_page_does_what_it_says(tmp_path, monkeypatch):
    """Every block of Python in docs/api.md, in order, on drawn films."""
    from pathologies.phantom.writer import PhantomConfig, write_phantom

    monkeypatch.chdir(tmp_path)
    write_phantom(Path("films"), PhantomConfig(patients=60, size=64, laterals=False), lambda done, total: None)
    page = (PROJECT / "docs" / "api.md").read_text(encoding="utf-8")
    known: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "docs/api.md", "exec"), known)
    assert known["run"].table["status"].eq("ok").all()
    assert known["figures"].table.index.tolist()[-1] == "mean"
    assert len(known["written"]) == len(known["paths"]) > 0
    assert set(NAMES) <= set(known)
