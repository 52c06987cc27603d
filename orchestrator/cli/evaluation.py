"""Commands that use and judge a bundle: `hilum predict`, `evaluate`, `adapt`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperCommand

from orchestrator.cli.console import output, progress_bar, say, show_table
from orchestrator.formatting import counted, short_names
from orchestrator.storage.workspace import place
from pathologies.errors import InputError

MANY = ("--predictions", "--readers")
Findings = Annotated[Path | None, Option(help="A folder with pathology files of your own.")]
Device = Annotated[str, Option(help="cpu, cuda or auto.")]


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
    app.command()(predict)
    app.command(cls=ManyValues)(evaluate)
    app.command()(adapt)


def predict(
    bundle: Annotated[Path, Argument(help="A bundle.", parser=place)],
    inputs: Annotated[
        list[str], Argument(help="Images (PNG, JPEG, DICOM), folders, globs, or a CSV with a path column.")
    ],
    out: Annotated[Path, Option(help="The table to write: .csv or .parquet.")] = Path("predictions.csv"),
    device: Device = "auto",
    operating_point: Annotated[
        str | None, Option(help="A rule that the bundle stores: f2, youden, 'sensitivity>=0.9', ...")
    ] = None,
    threshold: Annotated[list[str] | None, Option(help="finding=value instead of the rule's; may be repeated.")] = None,
    level: Annotated[str, Option(help="image, study or patient: what a row of the table is.")] = "image",
    patient_pattern: Annotated[
        str | None, Option(help="Regular expression whose group is the patient in a path, for --level.")
    ] = None,
    study_pattern: Annotated[
        str | None, Option(help="Regular expression whose group is the study in a path, for --level study.")
    ] = None,
    conformal: Annotated[bool, Option("--conformal", help="Add <finding>_answer: 1, 0, or -1 for uncertain.")] = False,
) -> None:
    """Write a table of calibrated probabilities for new images."""
    from orchestrator.inference.identity import Asked
    from orchestrator.inference.predict import PredictRequest
    from orchestrator.inference.predict import predict as run
    from orchestrator.storage.workspace import Workspace

    request = partial(
        PredictRequest,
        inputs=tuple(inputs),
        out=out,
        device=device,
        operating_point=operating_point,
        thresholds=tuple(threshold or ()),
        level=level,
        asked=Asked(patient_pattern=patient_pattern, study_pattern=study_pattern),
        conformal=conformal,
    )
    with progress_bar("predicting") as bar, Workspace() as workspace:
        task = bar.add_task("images", total=None)
        asked = request(bundle=workspace.read_bundle(bundle))
        result = run(asked, lambda done, total: bar.update(task, completed=done, total=total))
    show_predictions(result.predictions)
    for note in result.notes:
        say(note)
    if result.without_threshold:
        say(f"No useful threshold was found for {', '.join(result.without_threshold)}: their _positive stays empty.")
    if len(result.rejected):
        say(f"{counted(len(result.rejected), 'image')} could not be read: {out.with_name(out.stem + '.rejected.csv')}")
    say(f"{counted(len(result.predictions), 'image' if level == 'image' else 'row')}: {out}")
    if not len(result.predictions):
        raise typer.Exit(1)


def show_predictions(table: Any, most: int = 10) -> None:
    """The first images, a row per finding, so that twelve findings fit a terminal."""
    slugs = [name.removesuffix("_positive") for name in table.columns if name.endswith("_positive")]
    shown = table.head(most)
    rows = []
    for slug in slugs:
        calls = shown[f"{slug}_positive"].astype("Float64").fillna(-1)
        marks = [{1: "+", 0: "-"}.get(int(call), "") for call in calls]
        if f"{slug}_answer" in shown:
            marks = [{1: "+", 0: "-", -1: "?"}[int(one)] for one in shown[f"{slug}_answer"]]
        rows.append([slug, *[f"{p:.3f} {mark:1}" for p, mark in zip(shown[slug], marks, strict=True)]])
    show_table(("probability", *short_names(shown["path"].tolist())), rows)


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
    """Score a bundle on a part of a data set, or prediction tables from anywhere, with patient-level intervals.

    hilum evaluate BUNDLE DATASET --part test;
    hilum evaluate --predictions a.csv b.csv --truth truth.csv --readers r1.csv --out DIR
    """
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
    from orchestrator.storage.workspace import Workspace

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
    with Workspace() as workspace:
        bundle, dataset = workspace.read_bundle(given["bundle"]), workspace.read_dataset(given["dataset"])
        result = run(request(bundle=bundle, dataset=dataset, out=workspace.write(out)))
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
    from orchestrator.storage.workspace import Workspace

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
        with Workspace() as workspace:
            write_comparison(comparison, workspace.write(given["out"]))
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


def adapt(
    bundle: Annotated[Path, Argument(help="A bundle. It is left as it is.", parser=place)],
    out: Annotated[Path, Option(help="The folder of the new bundle.", parser=place)],
    labelled: Annotated[Path | None, Option(help="A table of local films: path, patient, findings (1, 0).")] = None,
    images: Annotated[Path | None, Option(help="The folder that the paths of --labelled start from.")] = None,
    prevalence: Annotated[
        list[str] | None, Option(help="finding=share, or a CSV with finding and prevalence; may be repeated.")
    ] = None,
    path_column: Annotated[str | None, Option(help="Of --labelled; none: found by its name.")] = None,
    patient_column: Annotated[str | None, Option(help="Of --labelled; none: found by its name.")] = None,
    patient_pattern: Annotated[
        str | None, Option(help="Regular expression whose group is the patient in a path of --labelled.")
    ] = None,
    each_row_a_patient: Annotated[
        bool, Option("--each-row-a-patient", help="Count each film of --labelled for a patient of its own.")
    ] = False,
    blank_as_zero: Annotated[
        bool, Option("--blank-as-zero", help="A blank in --labelled means absent; else unknown.")
    ] = False,
    device: Device = "auto",
    findings: Findings = None,
) -> None:
    """Fit calibration and thresholds to a hospital's own films or prevalence; no network is touched."""
    from orchestrator.ensembling.adapt import AdaptRequest
    from orchestrator.ensembling.adapt import adapt as run
    from orchestrator.storage.workspace import Workspace

    request = partial(
        AdaptRequest,
        labelled=labelled,
        images=images,
        prevalence=tuple(prevalence or ()),
        path_column=path_column,
        patient_column=patient_column,
        patient_pattern=patient_pattern,
        each_row_a_patient=each_row_a_patient,
        blank_as_zero=blank_as_zero,
        device=device,
        findings=findings,
    )
    with progress_bar("reading films") as bar:
        task = bar.add_task("images", total=None)
        with Workspace() as workspace:
            asked = request(bundle=workspace.read_bundle(bundle), out=workspace.write(out), workspace=workspace)
            result = run(asked, lambda done, total: bar.update(task, completed=done, total=total))
    show_table(*result.table)
    for line in result.notes:
        output.print(line, markup=False)
    say(f"The adapted bundle: {out}. Next: hilum predict {out} IMAGES --out predictions.csv")
