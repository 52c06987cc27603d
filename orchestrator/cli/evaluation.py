"""Commands that judge what was trained: `hilum evaluate`, and `hilum compare` for two runs side by side."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperCommand

from orchestrator.cli.console import output, say, show_table
from orchestrator.cli.options import JUDGE, Device, Findings, shown
from orchestrator.storage.workspace import place

MANY = ("--predictions", "--readers")
Use = Annotated[str, Option(help="Which networks of the run: single, shared, heads, or both for all that are there.")]


class ManyValues(TyperCommand):
    """A command whose options MANY take several values after one name: --predictions a.csv b.csv."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, repeat_options(args, MANY))


def repeat_options(words: list[str], names: tuple[str, ...]) -> list[str]:
    """["--p", "a", "b", "--x", "c"] -> ["--p", "a", "--p", "b", "--x", "c"]: what the option parser understands."""
    answer: list[str] = []
    current, first = "", False
    for position, word in enumerate(words):
        if word == "--":
            return [*answer, *words[position:]]
        if word.startswith("-") and word != "-":
            name = word.partition("=")[0]
            current, first = (name, "=" not in word) if name in names else ("", False)
            answer.append(word)
        else:
            answer += [word] if first or not current else [current, word]
            first = False
    return answer


def register(app: typer.Typer) -> None:
    tables = "--predictions demo/bundle-test/predictions.csv --truth demo/films/train.csv"
    app.command(cls=ManyValues, **shown(JUDGE, "evaluate demo/bundle demo/dataset --part test", f"evaluate {tables}"))(
        evaluate
    )
    app.command(
        **shown(JUDGE, "compare demo/run demo/run-2", "compare demo/run-2 demo/run-2 --use-a single --use-b shared")
    )(compare)


def evaluate(
    bundle: Annotated[Path | None, Argument(help="A bundle; none with --predictions.", parser=place)] = None,
    dataset: Annotated[
        Path | None, Argument(help="A prepared data set; none with --predictions.", parser=place)
    ] = None,
    part: Annotated[str | None, Option(help="train, select, calibrate or test.  [default: test]")] = None,
    truth: Annotated[
        Path | None, Option(help="Score against this label file; needed with --predictions.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, Option(help="Folder of the tables and pictures; none: beside the bundle.", parser=place)
    ] = None,
    level: Annotated[str | None, Option(help="image, study or patient: what is judged.")] = None,
    operating_point: Annotated[str | None, Option(help="The rule of the yes/no calls: f2, youden, ...")] = None,
    predictions: Annotated[
        list[Path] | None, Option(help="Tables from anywhere, several after one --predictions.")
    ] = None,
    readers: Annotated[list[Path] | None, Option(help="Tables of human yes/no answers, several.")] = None,
    targets: Annotated[str, Option(help="Findings, separated by commas; none: all that are there.")] = "",
    id_: Annotated[str | None, Option("--id", help="The tables' id column; none: found by its name.")] = None,
    patient: Annotated[str | None, Option(help="The truth's patient column; none: found by its name.")] = None,
    patient_pattern: Annotated[
        str | None, Option(help="Regular expression whose group is the patient in an id of the truth.")
    ] = None,
    each_row_a_patient: Annotated[
        bool, Option("--each-row-a-patient", help="Count each row of the truth for a patient of its own.")
    ] = False,
    blank_as_zero: Annotated[
        bool, Option("--blank-as-zero", help="A blank in the truth table means absent; else unknown.")
    ] = False,
    resamples: Annotated[int, Option(min=10, help="Of the patients, for the intervals.")] = 1000,
    device: Device = "auto",
    json: Annotated[bool, Option("--json", help="Everything as JSON on standard output.")] = False,
    findings: Findings = None,
) -> None:
    """Score a bundle on a part of a data set, or prediction tables from anywhere, with patient-level intervals."""
    given = locals()
    from orchestrator import api

    given["id"] = given.pop("id_")
    as_json = given.pop("json")
    result = api.evaluate(**given)
    (_show_tables if predictions or readers else _show_bundle)(result, as_json)


def _show_bundle(result: Any, as_json: bool) -> None:
    if as_json:
        return _show_json(dict(result.details.data))
    show_table(*result.details.table)
    for further in (result.details.uncertain, result.details.conformal):
        if further:
            output.print()
            show_table(*further)
    for line in result.notes:
        output.print(line, markup=False)
    return say(f"Tables and pictures: {result.folder}")


def _show_tables(result: Any, as_json: bool) -> None:
    from orchestrator.evaluation.compare_tables_report import comparison_data, shown_tables

    if as_json:
        return _show_json(comparison_data(result.details))
    for table in shown_tables(result.details):
        show_table(*table)
        output.print()
    for line in result.notes:
        output.print(line, markup=False)
    return say(f"Tables and pictures: {result.folder}" if result.folder else "With --out DIR also as CSV and pictures.")


def _show_json(value: dict[str, Any]) -> None:
    import json

    from models.files.layout import to_plain

    output.print_json(json.dumps(to_plain(value), ensure_ascii=False, allow_nan=False))


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
    findings: Findings = None,
) -> None:
    """Say per finding which of two runs is better, with paired intervals, and what each cost."""
    given = locals()
    from orchestrator import api
    from orchestrator.evaluation.compare_runs import comparison_rows

    as_json = given.pop("json")
    result = api.compare(**given)
    if as_json:
        return _show_json(result.details.to_dict() | {"sentences": list(result.notes)})
    show_table(*comparison_rows(result.details))
    for line in result.notes:
        output.print(line, markup=False)
    return None
