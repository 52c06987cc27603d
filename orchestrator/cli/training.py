"""Commands that make a bundle: `hilum train`, `ensemble`, and the demonstration."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from orchestrator.cli.console import errors, say, show_table
from orchestrator.formatting import cell
from orchestrator.storage.workspace import place
from pathologies.errors import InputError

Targets = Annotated[str, Option(help="Findings, separated by commas; none: those of CheXpert's twelve that are there.")]
Findings = Annotated[Path | None, Option(help="A folder with pathology files of your own.")]


def register(app: typer.Typer) -> None:
    for command in (train, settings, ensemble, demo):
        app.command()(command)


def train(
    dataset: Annotated[Path, Argument(help="A prepared data set.", parser=place)],
    out: Annotated[
        Path, Option(help="The run's folder. The same command goes on after any interruption.", parser=place)
    ],
    targets: Targets = "",
    set_: Annotated[
        list[str] | None, Option("--set", help="name=value of any training setting; may be repeated.")
    ] = None,
    members: Annotated[int, Option(min=1, help="Networks per finding, each with a seed of its own.")] = 1,
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
        bool, Option("--shared", help="Train one network for all the targets, in RUN/shared, and not one for each.")
    ] = False,
    force: Annotated[
        bool, Option("--force", help="Train a target anew whose settings changed: what it had learnt is removed.")
    ] = False,
    tuned: Annotated[
        Path | None, Option(help="A run of `hilum tune`: its settings, below those of --set.", parser=place)
    ] = None,
    findings: Findings = None,
) -> None:
    """Train one network per finding, each in a process of its own; with --shared, one network for all of them.

    A run may hold both: give the command once with --shared and once without.
    """
    from models.config import parse_settings
    from orchestrator.cli.progress import Board
    from orchestrator.storage.workspace import Workspace
    from orchestrator.training.launch import train_run
    from orchestrator.training.plan import TrainRequest
    from orchestrator.training.resources import parse_share, with_ranks

    share = parse_share(gpus_per_target)
    request = partial(
        TrainRequest,
        targets=words(targets),
        members=members,
        settings=with_ranks(parse_settings(set_ or []), share),
        member_settings=parse_member_settings(member_set or []),
        inline=inline,
        address=address,
        gpus_per_target=share,
        shared=shared,
        force=force,
        findings=findings,
    )
    with Workspace() as workspace:
        asked = request(
            out=workspace.drive(out),
            dataset=workspace.read_dataset(dataset),
            tuned=workspace.read_run(tuned, "tuned"),
            workspace=workspace,
        )
        with Board(errors, say) as board:
            outcomes = train_run(asked, board.on_event)
    show_outcomes(outcomes)
    untuned = [one["job"] for one in outcomes if one["untuned"]]
    if untuned:
        say(f"{tuned} has no tuned settings of {', '.join(untuned)}: trained with their usual ones.")
    failed = [one["job"] for one in outcomes if one["status"] != "ok"]
    if failed:
        say(f"Not trained: {', '.join(failed)}. Each one's outcome.json has the traceback; the same command retries.")
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
        str, Option(help="single, shared or both: a finding's own networks, those trained with --shared, or all.")
    ] = "both",
    replace: Annotated[
        Path | None,
        Option(help="A bundle of which only --targets are replaced; the result goes to --out.", parser=place),
    ] = None,
    refit_dependents: Annotated[
        bool, Option("--refit-dependents", help="With --replace: fit the findings again that depend on the targets.")
    ] = False,
    force: Annotated[bool, Option("--force", help="Replace what is at --out also if it was adapted.")] = False,
) -> None:
    """Combine the networks of a run into one calibrated multi-label predictor."""
    from orchestrator.ensembling.build import EnsembleRequest, build_bundle
    from orchestrator.ensembling.replace import ReplaceRequest, replace_findings
    from orchestrator.storage.workspace import Workspace

    where: dict[str, Any] = {"targets": words(targets), "findings": findings, "tta": tta, "snapshots": snapshots}
    where |= {"use": use, "force": force}
    if refit_dependents and replace is None:
        raise InputError("--refit-dependents belongs to --replace BUNDLE.")
    if consistency and replace is not None:
        raise InputError("--consistency is a property of the whole bundle: --replace keeps it as it was.")
    with Workspace() as workspace:
        where |= {"run": workspace.read_run(run), "dataset": workspace.read_dataset(dataset)}
        where |= {"out": workspace.write(out), "workspace": workspace}
        if replace is None:
            description = build_bundle(EnsembleRequest(**where, consistency=consistency))
        else:
            where["bundle"] = workspace.read_bundle(replace)
            description = replace_findings(ReplaceRequest(**where, refit_dependents=refit_dependents))
    show_bundle(description)
    for name, reason in description["left_out"].items():
        say(f"Left out: {name} ({reason})")
    say(f"Next: hilum evaluate {out} DATASET --part test, or hilum predict {out} IMAGES --out predictions.csv")


def parse_member_settings(words: list[str]) -> dict[int, dict[str, Any]]:
    """`1:backbone=resnet34` as {1: {"backbone": "resnet34"}}."""
    from models.config import parse_settings

    found: dict[int, dict[str, Any]] = {}
    for word in words:
        member, separator, setting = word.partition(":")
        if not separator or not member.isdigit():
            raise InputError(f"--member-set wants k:name=value, got {word!r}. For example: 1:backbone=resnet34.")
        found.setdefault(int(member), {}).update(parse_settings([setting]))
    return found


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


def demo(
    out: Annotated[Path, Option(help="Folder of everything that the demonstration makes.")] = Path("demo"),
    smoke: Annotated[bool, Option("--smoke", help="A tiny form that only shows that every part runs.")] = False,
) -> None:
    """The whole pipeline on synthetic films: draw, prepare, train, combine, evaluate, predict."""
    import time

    from orchestrator.cli.app import app
    from orchestrator.cli.demo import run_demo

    def run_command(command: list[str]) -> None:
        code = app(args=command, prog_name="hilum", standalone_mode=False)
        if code:  # a command that fell short has said why
            raise typer.Exit(code)

    started = time.monotonic()
    run_demo(out, smoke, run_command, say)
    say(f"\nDone in {time.monotonic() - started:.0f} s. Everything lies in {out}: pictures in {out / 'bundle-test'}, ")
    say(f"the predictor in {out / 'bundle'}, its answers for five new films in {out / 'predictions.csv'}.")
    say(f"Next: hilum predict {out / 'bundle'} YOUR_IMAGES --out predictions.csv")


def words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def show_outcomes(outcomes: list[dict[str, Any]]) -> None:
    rows = []
    for one in outcomes:
        memory = one.get("peak_memory_bytes")
        rows.append([
            one["job"].removesuffix("/0"), one["status"], one.get("best_epoch") or "", cell(one.get("select_score")),
            one.get("selection_rule") or "", one.get("pid") or "", f"{memory / 2**20:.0f} MiB" if memory else "",
        ])  # fmt: skip
    show_table(("target", "status", "best epoch", "select score", "chosen by", "process", "peak memory"), rows)


def show_bundle(description: dict[str, Any]) -> None:
    rows = []
    for slug, entry in description["findings"].items():
        figures, point = entry["cross_validated"], entry["operating_points"][entry["operating_point"]]
        span = f"{figures['auc_low']:.3f} to {figures['auc_high']:.3f}" if "auc" in figures else figures["reason"]
        rows.append([
            slug, len(entry["models"]), entry["counts"]["positives"], entry["counts"]["negatives"],
            cell(figures.get("auc")), span, cell(figures.get("ece")), entry["calibration"]["method"],
            f"{point['threshold']:.3f}" if point["useful"] else "no useful threshold",
        ])  # fmt: skip
    columns = (
        "on part calibrate, cross-validated",
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
    show_choices(description)


def show_choices(description: dict[str, Any]) -> None:
    """All blends and calibrations that were compared, and what a replacement changed."""
    from orchestrator.ensembling.pipeline import choice_table
    from orchestrator.ensembling.replace import replacement_table

    for stage in ("blend", "calibration"):
        columns, rows = choice_table(description["findings"], stage)
        if len(columns) > 2:
            show_table(columns, rows, title=f"\nEvery {stage} that was compared; * is the one taken")
    if "replaced" in description:
        show_table(*replacement_table(description), title="\nWhat the replacement changed")
    weak = [slug for slug, entry in description["findings"].items() if entry.get("notes")]
    if weak:
        say(f"Too few patients of a class in calibrate, so the simplest was taken without a choice: {', '.join(weak)}.")
