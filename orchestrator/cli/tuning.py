"""Commands that look for better settings: `hilum tune`, `hilum lr-find`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from orchestrator.cli.console import output, progress_bar, say, show_table
from orchestrator.cli.options import TRAIN, Findings, Targets, shown
from orchestrator.progress import describe_trial
from orchestrator.storage.workspace import place


def register(app: typer.Typer) -> None:
    small = "--set backbone=test_resnet"
    app.command(
        **shown(TRAIN, f"tune demo/dataset --out demo/search --targets lung_opacity --trials 3 --epochs 2 {small}")
    )(tune)
    app.command("lr-find", **shown(TRAIN, f"lr-find demo/dataset --target lung_opacity {small} --out demo/rates.png"))(
        lr_find
    )


def tune(
    dataset: Annotated[Path, Argument(help="A prepared data set.", parser=place)],
    out: Annotated[
        Path, Option(help="The run's folder. The same command goes on after any interruption.", parser=place)
    ],
    targets: Targets = "",
    trials: Annotated[int, Option(min=1, help="Trials per finding, the defaults among them; may grow later.")] = 20,
    epochs: Annotated[int | None, Option(min=1, help="Epochs of a full trial; short for --set epochs=...")] = None,
    set_: Annotated[
        list[str] | None, Option("--set", help="name=value of a setting that the search leaves alone; may be repeated.")
    ] = None,
    time_budget: Annotated[
        float | None, Option(min=0, help="Minutes. What is unfinished then goes on with the next command.")
    ] = None,
    gpus_per_trial: Annotated[float | None, Option(min=0, help="Fractions let trials share a GPU.")] = None,
    members: Annotated[int, Option(min=0, help="So many of the best trials become members of the run.")] = 0,
    keep: Annotated[int, Option(min=1, help="So many trials of a finding keep their weights.")] = 5,
    seed: Annotated[int, Option(help="Of the search; a trial's own seed is --set seed=...")] = 0,
    inline: Annotated[bool, Option("--inline", help="In this process, one after the other, without Ray.")] = False,
    address: Annotated[str | None, Option(help="A Ray cluster; else RAY_ADDRESS, else this machine.")] = None,
    findings: Findings = None,
) -> None:
    """Search better training settings for each finding, every trial in a process of its own."""
    given = locals()
    from orchestrator import api

    given["set"] = given.pop("set_")
    show_result(api.tune(**given, progress=lambda event: say(describe_trial(event))), members)


def lr_find(
    dataset: Annotated[Path, Argument(help="A prepared data set.", parser=place)],
    target: Annotated[str, Option(help="The finding.")],
    set_: Annotated[
        list[str] | None, Option("--set", help="name=value of any training setting; may be repeated.")
    ] = None,
    out: Annotated[list[Path] | None, Option(help="A picture (.png) or the figures (.json); may be repeated.")] = None,
    low: Annotated[float, Option(help="The lowest rate.")] = 1e-5,
    high: Annotated[float, Option(help="The highest rate.")] = 10.0,
    steps: Annotated[int | None, Option(help="From the lowest to the highest; none: 100, of few films fewer.")] = None,
    findings: Findings = None,
) -> None:
    """Try rising learning rates on part train and suggest one; nothing is trained or changed."""
    from models.training.lr_range_test import Ramp
    from orchestrator.option_values import read_settings
    from orchestrator.storage.workspace import Workspace
    from orchestrator.tuning.lr_finder import RateRequest, check_outputs, find_rate, suggestions, write_result

    check_outputs(out or [])
    ramp = Ramp(low=low, high=high, steps=steps)
    settings = read_settings(set_)
    with Workspace() as workspace, progress_bar("raising the rate") as bar:
        data = workspace.read_dataset(dataset)
        task = bar.add_task("steps", total=None)
        request = RateRequest(dataset=data, target=target, settings=settings, ramp=ramp, findings=findings)
        result = find_rate(request, lambda done, total: bar.update(task, completed=done, total=total))
    rows, notes = suggestions(result)
    show_table(("learning rate", result.slug), rows)
    for line in notes:
        output.print(line, markup=False)
    for path in out or []:
        write_result(result, path)
        say(f"Written: {path}")


TABLE_TITLE = (
    "default and best: score on part select; AUCs: on part calibrate, paired; an interval holds for its finding alone, "
    "the verdict for all of them (p adjusted after Holm)"
)


def show_result(result: Any, members: int) -> None:
    """The table, where the files are, what to do next; exit code 1 where a finding has no winner."""
    table = result.table.reset_index()
    show_table(list(table), table.to_numpy().tolist(), TABLE_TITLE)
    pictures = result.details["pictures"]
    if pictures:
        say(f"Settings, pictures and the table of all trials: {pictures[0].parent}")
    for line in result.notes:
        say(line)
    if result.details["errors"]:
        raise typer.Exit(1)
    following = f"hilum ensemble {result.folder}" if members else f"hilum train DATASET --tuned {result.folder}"
    say(f"Next: {following} --out {'BUNDLE' if members else 'RUN'}")
