"""orchestrator/cli/options.py and the help of every command: groups, examples that work, completion, nothing heavy."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from orchestrator.cli.app import app, main
from orchestrator.cli.demo import demo_commands
from orchestrator.cluster.jobs import checked_words
from tests.conftest import PROJECT

ROOT = typer.main.get_command(app)
GROUPS = {
    "Start": ["demo"],
    "Data": ["phantom", "prepare", "merge", "labels", "split", "embed"],
    "Train": ["train", "ensemble", "settings", "tune", "lr-find"],
    "Judge": ["evaluate", "compare"],
    "Use": ["predict", "adapt"],
    "Cluster": ["doctor", "submit", "jobs", "logs", "stop"],
}
# not run here: a demo of its own, a data set of another source (all drawn films have the same names), a cluster, a node
ELSEWHERE = ("demo", "merge", "submit", "jobs", "logs", "stop", "doctor")


def commands(group=ROOT, path=()):
    """Every command and group, with the words that lead to it."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


def examples_of(command) -> list[list[str]]:
    """The words after `hilum` of each example that a help ends with."""
    _, *lines = (command.epilog or "").splitlines()
    assert all(line.startswith("hilum ") for line in lines)
    return [shlex.split(line)[1:] for line in lines]


EXAMPLES = [words for _, command in commands() for words in examples_of(command)]


def run(*words) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code or 0


def test_the_commands_stand_in_groups(capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    found = {}
    for name, command in ROOT.commands.items():
        found.setdefault(command.rich_help_panel, []).append(name)
    assert {group: sorted(names) for group, names in found.items()} == {
        group: sorted(names) for group, names in GROUPS.items()
    }
    places = [shown.index(f" {group} ─") for group in GROUPS]
    assert places == sorted(places)


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_every_help_ends_with_examples(path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    command = dict(commands())[path]
    assert run(*path, "--help") == 0
    end = capsys.readouterr().out.split("Example")[-1]
    assert examples_of(command)
    for words in examples_of(command):
        assert shlex.join(["hilum", *words]) in end
        assert tuple(words[: len(path)]) == path


@pytest.mark.parametrize("words", EXAMPLES, ids=" ".join)
def test_every_example_is_read_as_the_command_line_reads_it(words):
    context = ROOT.make_context("hilum", list(words), resilient_parsing=False)
    name, command, rest = ROOT.resolve_command(context, list(words))
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, rest)
    if "--help" not in rest:
        command.make_context(name, rest, parent=context)
    if "submit" in words:
        assert checked_words(words[words.index("--") + 1 :], ROOT.commands)


@pytest.mark.slow
def test_the_examples_work_on_the_folders_of_the_demo(tmp_path, monkeypatch):
    """In the order of the help, on a demo of two findings whose films have the full one's size; without Ray."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = demo_commands(Path("demo"), smoke=True)
    for words in made:
        words = ["64" if before == "--size" else word for before, word in zip(["", *words], words, strict=False)]
        chosen = ["--targets", "edema,lung_opacity"] if words[0] == "train" else []
        assert run(*words, *chosen, *inline(words)) == 0, words
    done = [" ".join(words) for words in made]
    for words in EXAMPLES:
        if words[0] not in ELSEWHERE and "--help" not in words and " ".join(words) not in done:
            assert run(*words, *inline(words)) == 0, words
            done.append(" ".join(words))
    assert len(done) > 20


def inline(words):
    return ["--inline"] if words[0] in ("train", "tune") else []


# -- completion


@pytest.fixture
def shell_environment(tmp_path):
    """A home of its own, and `hilum` on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "HOME": str(tmp_path), "PATH": path, "PYTHONPATH": str(PROJECT)}


def bash(text, environment):
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_bash_completes_commands_and_options(shell_environment):
    """The function that `hilum --show-completion` gives bash, called as bash calls it."""
    load = 'eval "$(_HILUM_COMPLETE=source_bash hilum)"'
    asked = "COMP_WORDS=(hilum {}); COMP_CWORD={}; _hilum_completion hilum; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    text = "\n".join([load, asked.format("tr", 1), asked.format("split sh", 2), asked.format("train --shar", 2)])
    assert bash(text, shell_environment) == ["train", "share", "--shared"]


@pytest.mark.slow
def test_bash_is_told_by_its_own_start_file(shell_environment, tmp_path):
    text = "hilum --install-completion bash || hilum --install-completion"
    bash(f"export _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1; {text}", shell_environment)
    script = (tmp_path / ".bash_completions" / "hilum.sh").read_text(encoding="utf-8")
    assert "complete -o default -F _hilum_completion hilum" in script
    assert "hilum.sh" in (tmp_path / ".bashrc").read_text(encoding="utf-8")


HEAVY = {"torch", "ray", "pandas", "numpy", "matplotlib", "sklearn", "scipy", "pydicom"}
LOADED = """
import atexit, sys
sys.argv[0] = "hilum"
atexit.register(lambda: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr))
from orchestrator.cli import main
main()
"""


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], []], ids=" ".join)
def test_help_and_completion_load_nothing_heavy(words):
    environment = dict(os.environ) | ({} if words else {"_HILUM_COMPLETE": "complete_bash", "COMP_WORDS": "hilum t"})
    environment["COMP_CWORD"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not HEAVY & set(done.stderr.splitlines()[-1].split())
    if not words:
        assert done.stdout.split() == ["train", "tune"]
