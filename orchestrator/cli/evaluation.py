"""Commands that judge what was trained: `hilum evaluate`, and `hilum compare` for two runs side by side."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperCommand

from orchestrator.cli.console import output, say, show_table
from orchestrator.cli.options import JUDGE, Device, Findings, shown
from orchestrator.storage.workspace import place
from pathologies.errors import InputError

MANY = ("--predictions", "--readers")
Use = Annotated[str, Option(help="Which networks of the run: single, shared or both.")]


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
        **shown(JUDGE, "compare demo/run demo/run-2", "compare demo/run demo/run --use-a single --use-b shared")
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
    if predictions or readers:
        _refuse(given, ("bundle", "dataset", "part"), "go with a bundle, --predictions with --truth")
        return _evaluate_tables(given)
    tables_alone = ("id_", "patient", "patient_pattern", "each_row_a_patient", "blank_as_zero")
    _refuse(given, tables_alone, "go with --predictions")
    if bundle is None or dataset is None:
        raise InputError(
            "Give a BUNDLE and a DATASET, or --predictions tables with --truth; see hilum evaluate --help."
        )
    return _evaluate_bundle(given)


def _refuse(given: dict[str, Any], names: tuple[str, ...], why: str) -> None:
    """An option that the other form of the command has is a mistake worth a sentence."""
    options = {"bundle": "BUNDLE", "dataset": "DATASET", "id_": "--id"}
    extra = [options.get(name, f"--{name.replace('_', '-')}") for name in names if given[name]]
    if extra:
        raise InputError(f"{', '.join(extra)}: these {why}. hilum evaluate --help shows the two forms.")


def _evaluate_bundle(given: dict[str, Any]) -> None:
    from orchestrator.cli.training import words
    from orchestrator.evaluation.evaluate_bundle import EvaluateRequest
    from orchestrator.evaluation.evaluate_bundle import evaluate as run
    from orchestrator.storage.object_store import is_remote
    from orchestrator.storage.workspace import reading_bundle, reading_dataset, writing

    request = partial(
        EvaluateRequest,
        part=given["part"] or "test",
        truth=given["truth"],
        level=given["level"] or "image",
        operating_point=given["operating_point"],
        targets=words(given["targets"]),
        resamples=given["resamples"],
        device=given["device"],
        findings=given["findings"],
    )
    out = given["out"]
    if out is None and is_remote(given["bundle"]):
        out = f"{given['bundle']}-{given['part'] or 'test'}"
    bundle, dataset = reading_bundle(given["bundle"]), reading_dataset(given["dataset"])
    with bundle as judged, dataset as data, writing(out) as folder:
        result = run(request(bundle=judged, dataset=data, out=folder))
    if given["json"]:
        return _show_json(dict(result.data))
    show_table(*result.table)
    for further in (result.uncertain, result.conformal):
        if further:
            output.print()
            show_table(*further)
    for line in result.notes:
        output.print(line, markup=False)
    return say(f"Tables and pictures: {out or result.folder}")


def _evaluate_tables(given: dict[str, Any]) -> None:
    from orchestrator.cli.training import words
    from orchestrator.evaluation.compare_tables import AUTO, TablesRequest, compare_tables
    from orchestrator.evaluation.compare_tables_report import (
        comparison_data,
        comparison_notes,
        shown_tables,
        write_comparison,
    )
    from orchestrator.evaluation.scoring import EvaluationSettings
    from orchestrator.inference.prediction_tables import Columns
    from orchestrator.storage.workspace import writing

    if not given["predictions"] or given["truth"] is None:
        missing = "--truth" if given["predictions"] else "--predictions"
        raise InputError(f"{missing} is missing: hilum evaluate --predictions a.csv b.csv --truth truth.csv.")
    request = TablesRequest(
        predictions=tuple(given["predictions"]),
        truth=given["truth"],
        readers=tuple(given["readers"] or ()),
        targets=words(given["targets"]),
        level=given["level"],
        rule=given["operating_point"] or AUTO,
        blank_as_zero=given["blank_as_zero"],
        columns=Columns(
            id_name=given["id_"],
            patient_name=given["patient"],
            patient_pattern=given["patient_pattern"],
            each_row_a_patient=given["each_row_a_patient"],
            findings=given["findings"],
        ),
        settings=EvaluationSettings(resamples=given["resamples"]),
    )
    comparison = compare_tables(request)
    if given["out"]:
        with writing(given["out"]) as folder:
            write_comparison(comparison, folder)
    if given["json"]:
        return _show_json(comparison_data(comparison))
    for table in shown_tables(comparison):
        show_table(*table)
        output.print()
    for line in comparison_notes(comparison):
        output.print(line, markup=False)
    return say(f"Tables and pictures: {given['out']}" if given["out"] else "With --out DIR also as CSV and pictures.")


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
    from orchestrator.evaluation.compare_runs import CompareRequest, compare_runs, comparison_rows
    from orchestrator.evaluation.compare_runs_report import comparison_sentences
    from orchestrator.storage.mirror import no_networks
    from orchestrator.storage.workspace import reading_dataset, reading_run

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
    read = partial(reading_run, wanted=no_networks)
    with read(run_a) as first, read(run_b) as second, reading_dataset(dataset) as data:
        found = compare_runs(request(run_a=first, run_b=second, dataset=data))
    sentences = comparison_sentences(found)
    if json:
        return _show_json(found.to_dict() | {"sentences": sentences})
    show_table(*comparison_rows(found))
    for line in sentences:
        output.print(line, markup=False)
    return None
