"""`hilum compare`: two runs, or the single and the shared networks of one, side by side."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from orchestrator.cli.console import output, show_table
from orchestrator.storage.workspace import place

Use = Annotated[str, Option(help="Which networks of the run: single, shared or both.")]


def register(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    run_a: Annotated[Path, Argument(help="A run.", parser=place)],
    run_b: Annotated[
        Path, Argument(help="Another run on the same data set, or the same one with another --use-b.", parser=place)
    ],
    use_a: Use = "both",
    use_b: Use = "both",
    part: Annotated[
        str, Option(help="The films that are judged on: calibrate, test (logged) or select.")
    ] = "calibrate",
    blend: Annotated[
        bool, Option("--blend", help="Also the mean of both sides, against the better of the two.")
    ] = False,
    targets: Annotated[str, Option(help="Findings, separated by commas; none: all that both sides have.")] = "",
    dataset: Annotated[
        Path | None, Option(help="Where the runs' data set is now, if it was moved.", parser=place)
    ] = None,
    resamples: Annotated[int, Option(min=10, help="Of the patients, for the intervals.")] = 1000,
    json: Annotated[bool, Option("--json", help="Everything as JSON on standard output.")] = False,
    findings: Annotated[Path | None, Option(help="A folder with pathology files of your own.")] = None,
) -> None:
    """Say per finding which of two runs is better, with paired intervals, and what each cost.

    hilum compare RUN_A RUN_B; hilum compare RUN RUN --use-a single --use-b shared
    """
    from orchestrator.evaluation.compare_runs import CompareRequest, compare_runs, comparison_rows
    from orchestrator.evaluation.compare_runs_report import comparison_sentences
    from orchestrator.storage.mirror import no_networks
    from orchestrator.storage.workspace import Workspace

    request = partial(
        CompareRequest,
        use_a=use_a,
        use_b=use_b,
        part=part,
        targets=tuple(word.strip() for word in targets.split(",") if word.strip()),
        findings=findings,
        blend=blend,
        resamples=resamples,
    )
    with Workspace() as workspace:
        first, second = (workspace.read_run(one, wanted=no_networks) for one in (run_a, run_b))
        data = workspace.read_dataset(dataset)
        found = compare_runs(request(run_a=first, run_b=second, dataset=data, workspace=workspace))
    sentences = comparison_sentences(found)
    if json:
        from orchestrator.cli.evaluation import _show_json

        return _show_json(found.to_dict() | {"sentences": sentences})
    show_table(*comparison_rows(found))
    for line in sentences:
        output.print(line, markup=False)
    return None
