"""The demonstration: synthetic films, and the whole pipeline on them, by the very commands that a user would give.

In: a folder. Out: films, data set, run, bundle, evaluation and predictions in it. A second call goes on where the first
one stopped.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from orchestrator.cli.console import say
from orchestrator.cli.options import START, shown

NEW_FILMS = 5


def register(app: typer.Typer) -> None:
    app.command(**shown(START, "demo", "demo --smoke --out small-demo"))(demo)


def demo(
    ctx: typer.Context,
    out: Annotated[Path, Option(help="Folder of everything that the demonstration makes.")] = Path("demo"),
    smoke: Annotated[bool, Option("--smoke", help="A tiny form that only shows that every part runs.")] = False,
) -> None:
    """The whole pipeline on synthetic films: draw, prepare, train, combine, evaluate, predict."""
    commands = ctx.find_root().command

    def run_command(command: list[str]) -> None:
        code = commands.main(args=command, prog_name="hilum", standalone_mode=False)
        if code:  # a command that fell short has said why
            raise typer.Exit(code)

    started = time.monotonic()
    run_demo(out, smoke, run_command, say)
    say(f"\nDone in {time.monotonic() - started:.0f} s. Everything lies in {out}: pictures in {out / 'bundle-test'}, ")
    say(f"the predictor in {out / 'bundle'}, its answers for five new films in {out / 'predictions.csv'}.")
    say(f"Next: hilum predict {out / 'bundle'} YOUR_IMAGES --out predictions.csv")


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """How much is drawn and trained. The full form fits into five minutes on two cores."""

    patients: int
    size: int
    settings: tuple[str, ...]


# timm's smallest ResNet: larger ones would not fit into five minutes where the processor has no bf16.
FULL = DemoSize(
    patients=930, size=64, settings=("backbone=test_resnet", "epochs=7", "learning_rate=6e-3", "batch_size=32")
)
SMOKE = DemoSize(patients=60, size=32, settings=("backbone=test_resnet", "epochs=1", "batch_size=16"))

# Networks this small learn twelve findings together more slowly than one each: from a shared one, with the same epochs,
# the mean AUC was .797 in the place of .900. Five folds would take five times as long.
RECIPE = ("--from-scratch", "--folds", 1)


def demo_commands(out: Path, smoke: bool) -> list[list[str]]:
    """The commands in order, as words after `hilum`."""
    form = SMOKE if smoke else FULL
    films, new, dataset, run, bundle = (out / name for name in ("films", "new", "dataset", "run", "bundle"))
    settings = [word for setting in form.settings for word in ("--set", setting)]
    prepare = ["prepare", "chexpert", "--labels", films / "train.csv", "--images", films, "--out", dataset]
    commands = [
        ["phantom", films, "--patients", form.patients, "--seed", 0, "--no-laterals"],
        [*prepare, "--size", form.size, "--frontal"],
        ["train", dataset, "--out", run, *RECIPE, *settings],
        ["ensemble", run, "--out", bundle],
        ["evaluate", bundle, dataset, "--part", "test"],
        ["phantom", new, "--patients", NEW_FILMS, "--seed", 1, "--no-laterals"],
        ["predict", bundle, *new_films(new), "--out", out / "predictions.csv"],
    ]
    return [[str(word) for word in command] for command in commands]


def new_films(folder: Path) -> list[str]:
    """The first film of each new patient, as globs that hold before the films are drawn."""
    return [str(folder / f"train/patient{number:05d}/study1/view1_frontal.jpg") for number in range(1, NEW_FILMS + 1)]


def run_demo(out: Path, smoke: bool, run_command: Callable[[list[str]], None], say: Callable[[str], None]) -> None:
    for command in demo_commands(out, smoke):
        say(f"\n$ hilum {' '.join(command)}")
        run_command(command)
