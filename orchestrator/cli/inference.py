"""Commands that use a bundle: `hilum predict`, and `hilum adapt` for a hospital of its own."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from orchestrator.cli.console import output, progress_bar, say, show_table
from orchestrator.cli.options import USE, Device, Findings, shown
from orchestrator.formatting import counted, short_names
from orchestrator.storage.workspace import place


def register(app: typer.Typer) -> None:
    app.command(**shown(USE, "predict demo/bundle demo/new --out demo/new.csv"))(predict)
    app.command(**shown(USE, "adapt demo/bundle --out demo/adapted --prevalence edema=0.05"))(adapt)


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
    given = locals()
    from orchestrator import api

    with progress_bar("predicting") as bar:
        task = bar.add_task("images", total=None)

        def on_event(event: dict[str, Any]) -> None:
            bar.update(task, completed=event["done"], total=event["total"])

        result = api.answer_files(**given, progress=on_event)
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
