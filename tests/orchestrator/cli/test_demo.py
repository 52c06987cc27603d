"""orchestrator/cli/demo.py: the commands of the demonstration. Its smoke form is run as a whole by `.ci/run`."""

from pathlib import Path

import pytest

from orchestrator.cli.app import app, main
from orchestrator.cli.demo import NEW_FILMS, demo_commands, run_demo


@pytest.mark.parametrize("smoke", [False, True])
def test_the_pipeline_in_order_with_everything_below_one_folder(smoke):
    commands = demo_commands(Path("there"), smoke)
    assert [command[0] for command in commands] == [
        "phantom", "prepare", "train", "ensemble", "evaluate", "phantom", "predict"
    ]  # fmt: skip
    folders = {word for command in commands for word in command if "/" in word or word == "there"}
    assert all(word.startswith("there/") for word in folders)
    assert all(isinstance(word, str) for command in commands for word in command)


@pytest.mark.parametrize("smoke", [False, True])
def test_every_command_takes_from_where_the_earlier_ones_put(smoke):
    films, prepare, train, ensemble, evaluate, new, predict = demo_commands(Path("d"), smoke)
    assert prepare[prepare.index("--images") + 1] == films[1]
    assert Path(prepare[prepare.index("--labels") + 1]).parent == Path(films[1])
    dataset, run, bundle = (command[command.index("--out") + 1] for command in (prepare, train, ensemble))
    assert train[1] == dataset
    assert ensemble[1] == run
    assert evaluate[1:3] == [bundle, dataset]
    assert predict[1] == bundle
    assert len([word for word in predict if word.startswith(new[1])]) == NEW_FILMS
    assert films[films.index("--seed") + 1] != new[new.index("--seed") + 1]


def test_every_command_is_one_that_the_command_line_knows():
    """The words are parsed as the command line would, without running anything."""
    import typer

    group = typer.main.get_command(app)
    for words in demo_commands(Path("d"), smoke=True):
        command = group.commands[words[0]]
        command.make_context(words[0], words[1:])


def test_the_commands_are_shown_before_they_run():
    said, run = [], []
    run_demo(Path("d"), True, run.append, said.append)
    assert run == demo_commands(Path("d"), smoke=True)
    assert said[0].startswith("\n$ hilum phantom d/films --patients")


def test_it_stops_with_the_exit_code_of_a_command_that_fell_short(monkeypatch, tmp_path):
    """Targets that could not be trained must not end in a demonstration that looks well."""
    import typer

    ran = []

    def run(out, smoke, run_command, say):
        ran.append("begun")
        run_command(["demo", "--help"])
        monkeypatch.setattr("orchestrator.cli.demo.run_demo", fail)
        run_command(["demo"])
        ran.append("not reached")

    def fail(*words):
        raise typer.Exit(1)

    monkeypatch.setattr("orchestrator.cli.demo.run_demo", run)
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--out", str(tmp_path)])
    assert stop.value.code == 1
    assert ran == ["begun"]
