"""Commands that make a bundle: `hilum train`, `ensemble`, and `hilum settings`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from orchestrator.cli.console import Board, errors, output, say, show_table
from orchestrator.cli.options import TRAIN, Findings, Targets, shown
from orchestrator.formatting import cell
from orchestrator.storage.workspace import place


def register(app: typer.Typer) -> None:
    small = "--set backbone=test_resnet --set epochs=2"
    app.command(
        **shown(
            TRAIN,
            f"train demo/dataset --out demo/run-2 --targets edema,lung_opacity {small}",
            f"train demo/dataset --out demo/run-3 --from-scratch --folds 1 {small}",
        )
    )(train)
    app.command(**shown(TRAIN, "ensemble demo/run --out demo/bundle-2 --consistency"))(ensemble)
    app.command(**shown(TRAIN, "settings"))(settings)


def train(
    dataset: Annotated[Path, Argument(help="A prepared data set.", parser=place)],
    out: Annotated[
        Path, Option(help="The run's folder. The same command goes on after any interruption.", parser=place)
    ],
    targets: Targets = "",
    set_: Annotated[
        list[str] | None, Option("--set", help="name=value of any training setting; may be repeated.")
    ] = None,
    members: Annotated[int, Option(min=1, help="Networks per finding (and fold), each with a seed of its own.")] = 1,
    folds: Annotated[
        str,
        Option(help="Train on all patients but test's, in so many folds; 1: none; auto: 5 where films are few."),
    ] = "auto",
    from_scratch: Annotated[
        bool | None,
        Option(
            "--from-scratch/--from-shared",
            help="Each finding's network from scratch, or on from a shared one that is trained first (the default).",
        ),
    ] = None,
    member_set: Annotated[
        list[str] | None, Option(help="k:name=value, for member k (from 0) alone, e.g. 1:backbone=resnet34.")
    ] = None,
    inline: Annotated[bool, Option("--inline", help="In this process, one after the other, without Ray.")] = False,
    address: Annotated[str | None, Option(help="A Ray cluster; else RAY_ADDRESS, else this machine.")] = None,
    gpus_per_target: Annotated[
        str | None,
        Option(help="A number: 2 gives a target two, 0.5 lets two share one. auto: as many as its memory holds."),
    ] = None,
    shared: Annotated[
        bool, Option("--shared", help="Train the one network for all the targets, in RUN/shared, and none for each.")
    ] = False,
    heads: Annotated[
        bool, Option("--heads", help="Fit heads on the features of a frozen encoder (hilum embed), and no networks.")
    ] = False,
    head: Annotated[str, Option(help="With --heads, kinds of them: linear, hidden (one hidden layer).")] = "linear",
    encoder: Annotated[str, Option(help="With --heads: the features' name, where the data set has several.")] = "",
    force: Annotated[
        bool, Option("--force", help="Train a target anew whose settings changed: what it had learnt is removed.")
    ] = False,
    tuned: Annotated[
        Path | None, Option(help="A run of `hilum tune`: its settings, below those of --set.", parser=place)
    ] = None,
    findings: Findings = None,
) -> None:
    """Train one network per finding, each in a process of its own.

    A shared network for all findings is trained first, in RUN/shared, and each finding's own goes on from the state
    that it had after two thirds of its epochs. With few films this is done in five folds: the networks of a fold learn
    from all patients but the fold's (and test's), and what they say of those is what the ensemble is fitted on. A run
    keeps the recipe that it began with.
    """
    given = locals()
    from orchestrator import api

    given["set"] = given.pop("set_")
    with Board(errors, say) as board:
        result = api.train(**given, progress=board.on_event)
    show_outcomes(result.details)
    for note in result.notes:
        say(note)
    if any(one["status"] != "ok" for one in result.details):
        raise typer.Exit(1)
    say(f"Next: hilum ensemble {out} --out BUNDLE")


def ensemble(
    run: Annotated[Path, Argument(help="A run with finished targets.", parser=place)],
    out: Annotated[Path, Option(help="The bundle's folder.", parser=place)],
    dataset: Annotated[
        Path | None, Option(help="Where the run's data set is now, if it was moved.", parser=place)
    ] = None,
    targets: Targets = "",
    findings: Findings = None,
    consistency: Annotated[
        bool, Option("--consistency", help="Make a parent finding at least as probable as its likeliest child.")
    ] = False,
    tta: Annotated[
        bool, Option("--tta", help="Let every network also look at shifted and zoomed copies: slower, a member more.")
    ] = False,
    snapshots: Annotated[
        bool, Option("--snapshots/--no-snapshots", help="Weights that --set snapshots=... kept are members too.")
    ] = True,
    use: Annotated[
        str, Option(help="single, shared, heads: a finding's own networks, those of --shared or --heads; both: all.")
    ] = "both",
    replace: Annotated[
        Path | None,
        Option(help="A bundle of which only --targets are replaced; the result goes to --out.", parser=place),
    ] = None,
    refit_dependents: Annotated[
        bool, Option("--refit-dependents", help="With --replace: fit the findings again that depend on the targets.")
    ] = False,
    force: Annotated[bool, Option("--force", help="Replace what is at --out also if it was adapted.")] = False,
    verbose: Annotated[
        bool, Option("-v", "--verbose", help="Also show every blend and calibration that was compared.")
    ] = False,
) -> None:
    """Combine the networks of a run into one calibrated multi-label predictor."""
    given = locals()
    del given["verbose"]
    from orchestrator import api
    from orchestrator.ensembling.pipeline import COMPARISONS, comparisons_text
    from orchestrator.ensembling.replace import replacement_table
    from orchestrator.storage.object_store import join

    description = api.build(**given)
    for name, reason in description["left_out"].items():
        say(f"Left out: {name} ({reason})")
    if verbose:
        output.print(comparisons_text(description["findings"]), markup=False)
    else:
        say(f"What was compared, blend by blend and calibration by calibration: {join(str(out), COMPARISONS)}, or -v.")
    if "replaced" in description:
        show_table(*replacement_table(description), title="What the replacement changed")
        output.print()
    show_bundle(description)
    say(f"Next: hilum evaluate {out} DATASET --part test, or hilum predict {out} IMAGES --out predictions.csv")


def settings(
    markdown: Annotated[bool, Option("--markdown", help="As the page docs/settings.md.")] = False,
) -> None:
    """Every training setting, its default and what it is."""
    from models.config import settings_page, settings_table

    if markdown:
        typer.echo(settings_page(), nl=False)
        return
    rows = settings_table()
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, default, text in rows:
        typer.echo(f"{name:<{widths[0]}}  {default:<{widths[1]}}  {text}")


def show_outcomes(outcomes: list[dict[str, Any]]) -> None:
    """A row for each network; of a run in folds, one for all of a finding's."""
    rows, groups = [], {}
    for one in outcomes:
        groups.setdefault(one["slug"] if one["folds"] > 1 else one["job"].removesuffix("/0"), []).append(one)
    for name, networks in groups.items():
        one = networks[0] if len(networks) == 1 else _together(networks)
        memory = one.get("peak_memory_bytes")
        rows.append([
            name, one["status"], one.get("best_epoch") or "",
            "" if one.get("selection_rule") == "last_epoch" else cell(one.get("select_score")),
            one.get("selection_rule") or "", one.get("pid") or "", f"{memory / 2**20:.0f} MiB" if memory else "",
        ])  # fmt: skip
    show_table(("target", "status", "best epoch", "select score", "chosen by", "process", "peak memory"), rows)


def _together(networks: list[dict[str, Any]]) -> dict[str, Any]:
    """One outcome for all: how many are well, what they have alike, the largest memory."""
    well = sum(one["status"] == "ok" for one in networks)
    alike = {name: {one.get(name) for one in networks} for name in ("best_epoch", "selection_rule")}
    memory = max(one.get("peak_memory_bytes") or 0 for one in networks)
    status = f"{well} of {len(networks)} ok"
    return {name: values.pop() for name, values in alike.items() if len(values) == 1} | {
        "status": status, "peak_memory_bytes": memory
    }  # fmt: skip


def show_bundle(description: dict[str, Any]) -> None:
    """A row per finding: what it was fitted on and how good it is, each film judged by what did not see its patient."""
    rows, folds = [], False
    for slug, entry in description["findings"].items():
        figures, point = entry["cross_validated"], entry["operating_points"][entry["operating_point"]]
        span = f"{figures['auc_low']:.3f} to {figures['auc_high']:.3f}" if "auc" in figures else figures["reason"]
        folds = folds or any("fold" in model for model in entry["models"])
        rows.append([
            slug, len(entry["models"]), entry["counts"]["positives"], entry["counts"]["negatives"],
            cell(figures.get("auc")), span, cell(figures.get("ece")), entry["calibration"]["method"],
            f"{point['threshold']:.3f}" if point["useful"] else "no useful threshold",
        ])  # fmt: skip
    columns = (
        "on films out of fold, cross-validated" if folds else "on part calibrate, cross-validated",
        "networks",
        "positives",
        "negatives",
        "AUC",
        "95 % interval",
        "ECE",
        "calibration",
        "threshold (F2)",
    )
    show_table(columns, rows)
    weak = [slug for slug, entry in description["findings"].items() if entry.get("notes")]
    if weak:
        say(f"Too few patients of a class to choose by, so the simplest was taken: {', '.join(weak)}.")
