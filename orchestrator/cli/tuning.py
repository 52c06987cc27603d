"""Commands that look for better settings: `hilum tune`, `hilum lr-find`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from orchestrator.cli.console import output, progress_bar, say, show_table
from orchestrator.storage.workspace import place


def register(app: typer.Typer) -> None:
    app.command()(tune)
    app.command("lr-find")(lr_find)


def tune(
    dataset: Annotated[Path, Argument(help="A prepared data set.", parser=place)],
    out: Annotated[
        Path, Option(help="The run's folder. The same command goes on after any interruption.", parser=place)
    ],
    targets: Annotated[
        str, Option(help="Findings, separated by commas; none: those of CheXpert's twelve that are there.")
    ] = "",
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
    findings: Annotated[Path | None, Option(help="A folder with pathology files of your own.")] = None,
) -> None:
    """Search better training settings for each finding, every trial in a process of its own."""
    from models.config import parse_settings
    from orchestrator.cli.training import words
    from orchestrator.storage.workspace import Workspace
    from orchestrator.training.ray_session import own_cluster
    from orchestrator.tuning.study import SearchRequest
    from orchestrator.tuning.tune import tune_run

    settings = parse_settings(set_ or []) | ({"epochs": epochs} if epochs else {})
    request = partial(
        SearchRequest, targets=words(targets), trials=trials, settings=settings, seed=seed,
        time_budget=time_budget, gpus_per_trial=gpus_per_trial, members=members, keep=keep, inline=inline,
        address=address, findings=findings,
    )  # fmt: skip
    with Workspace() as workspace:
        run = workspace.drive_here(out, own_cluster(address))
        asked = request(out=run, dataset=workspace.read_dataset(dataset), workspace=workspace)
        show_result(asked, tune_run(asked, lambda event: say(describe(event))))


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
    findings: Annotated[Path | None, Option(help="A folder with pathology files of your own.")] = None,
) -> None:
    """Try rising learning rates on part train and suggest one; nothing is trained or changed."""
    from models.config import parse_settings
    from models.training.lr_range_test import Ramp
    from orchestrator.storage.workspace import Workspace
    from orchestrator.tuning.lr_finder import RateRequest, check_outputs, find_rate, suggestions, write_result

    check_outputs(out or [])
    ramp = Ramp(low=low, high=high, steps=steps)
    settings = parse_settings(set_ or [])
    with Workspace() as workspace, progress_bar("raising the rate") as bar:
        task = bar.add_task("steps", total=None)
        data = workspace.read_dataset(dataset)
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


def show_result(request: Any, result: dict[str, Any]) -> None:
    """The table, where the files are, what to do next; exit code 1 where a finding has no winner."""
    from orchestrator.tuning.report import COLUMNS, table_rows, write_report

    searches, errors = result["searches"], result["errors"]
    show_table(COLUMNS, table_rows(searches), TABLE_TITLE)
    pictures = write_report(searches)
    open_trials = sum(len(search.todo()) for search in searches.values())
    if pictures:
        say(f"Settings, pictures and the table of all trials: {pictures[0].parent}")
    if open_trials:
        say(f"{open_trials} trials are not finished: the same command goes on with them.")
    for line in [*result["notes"], *(f"{slug}: {reason}" for slug, reason in errors.items())]:
        say(f"{line}.")
    if errors:
        raise typer.Exit(1)
    following = f"hilum ensemble {request.out}" if request.members else f"hilum train DATASET --tuned {request.out}"
    say(f"Next: {following} --out {'BUNDLE' if request.members else 'RUN'}")


def describe(event: dict[str, Any]) -> str:
    """One finished trial as one line of text."""
    outcome, best = event["outcome"], event["best"]
    score = outcome.get("select_score")
    result = f", select {score:.3f}" if score is not None else f" ({(outcome.get('error') or '')[:200]})"
    leader = f", best {best.score:.3f} (trial {best.number})" if best else ""
    progress = f"{event['finished']} of {event['trials']}"
    return f"{event['slug']}: trial {event['number']} {outcome['status']}{result}{leader}, {progress}"
