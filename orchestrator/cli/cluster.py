"""Commands for clusters: `hilum submit`, `jobs`, `logs`, `stop`, `doctor`."""

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from orchestrator.cli.console import output, say, show_table
from orchestrator.cli.options import CLUSTER, Findings, shown
from orchestrator.storage.workspace import place

Dashboard = Annotated[str | None, Option(help="The dashboard, http://HOST:8265; none: RAY_API_SERVER_ADDRESS or here.")]
Job = Annotated[str, Argument(help="A job's id, as `hilum jobs` shows it.")]


def register(app: typer.Typer) -> None:
    app.command(**shown(CLUSTER, "doctor", "doctor demo/dataset --out demo/run"))(doctor)
    words = {"ignore_unknown_options": True, "allow_interspersed_args": False}
    there = "-- train /shared/demo/dataset --out /shared/demo/run"
    app.command(context_settings=words, **shown(CLUSTER, f"submit --address http://HEAD:8265 {there}"))(submit)
    app.command(**shown(CLUSTER, "jobs --address http://HEAD:8265"))(jobs)
    for command in (logs, stop):
        one = f"{command.__name__} hilum-train-20260131-120000-0001"
        app.command(**shown(CLUSTER, f"{one} --address http://HEAD:8265"))(command)


def submit(
    ctx: typer.Context,
    words: Annotated[list[str], Argument(help="Any hilum command: train data --out run ...", metavar="-- COMMAND ...")],
    address: Dashboard = None,
    python: Annotated[str, Option(help="The interpreter on the cluster's head.")] = "python",
    detach: Annotated[bool, Option("--detach", help="Do not follow the log.")] = False,
) -> None:
    """Run a command on a cluster: sends hilum's code, shows the log, returns the command's exit code.

    Of the working folder nothing is sent but the files of --findings. Ctrl-C leaves the job running; `hilum logs ID`
    follows it again and `hilum stop ID` ends it.
    """
    from orchestrator.cluster import jobs as jobs_there
    from orchestrator.code_package import pack, package_lines, survey

    command, findings = jobs_there.checked_words(words, ctx.find_root().command.commands)
    package = survey(findings=findings)
    with tempfile.TemporaryDirectory(prefix="hilum-") as folder:
        archive = Path(folder) / "checkout.zip"
        size = pack(package, archive)
        for line in package_lines(package, size):
            say(line)
        client = jobs_there.connect(address)
        request = jobs_there.SubmitRequest(words=tuple(command), archive=archive, python=python)
        job = jobs_there.submit(client, request)
    say(f"Job {job} has been sent.")
    if not detach:
        raise typer.Exit(_follow(client, job))


def jobs(address: Dashboard = None) -> None:
    """The jobs of a cluster, newest first."""
    from orchestrator.cluster.jobs import connect, job_rows

    show_table(("job", "status", "exit code", "started (UTC)", "minutes", "command"), job_rows(connect(address)))


def logs(job: Job, address: Dashboard = None) -> None:
    """Show a job's log and follow it to the end; returns the job's exit code."""
    from orchestrator.cluster.jobs import connect, require_job

    client = connect(address)
    require_job(client, job)
    raise typer.Exit(_follow(client, job))


def stop(job: Job, address: Dashboard = None) -> None:
    """End a job; what it has finished is kept, and the same command goes on from there."""
    from orchestrator.cluster.jobs import connect
    from orchestrator.cluster.jobs import stop as stop_job

    status = stop_job(connect(address), job).lower()
    say(f"{job}: {status}")
    if status not in ("stopped", "succeeded", "failed"):
        raise typer.Exit(1)


def _follow(client: object, job: str) -> int:
    from orchestrator.cluster.jobs import follow

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        code = follow(client, job, write, say)
    except KeyboardInterrupt:
        say(f"\nNo longer following; {job} goes on. Again: hilum logs {job}. End it: hilum stop {job}.")
        return 130
    say(f"Job {job} ended with exit code {code}.")
    return code


def doctor(
    dataset: Annotated[
        Path | None, Argument(help="A prepared data set: the plan and hours are predicted from it.", parser=place)
    ] = None,
    address: Annotated[str | None, Option(help="A Ray cluster; else RAY_ADDRESS, else this machine.")] = None,
    out: Annotated[
        Path | None, Option(help="The run's folder, written and read from every node.", parser=place)
    ] = None,
    targets: Annotated[str, Option(help="Findings, separated by commas; none: as for `hilum train`.")] = "",
    set_: Annotated[
        list[str] | None, Option("--set", help="name=value of a training setting; may be repeated.")
    ] = None,
    members: Annotated[int, Option(min=1, help="Networks per finding.")] = 1,
    gpus_per_target: Annotated[str | None, Option(help="As for `hilum train`.")] = None,
    findings: Findings = None,
) -> None:
    """Look at every node before anything is trained: exit code 1 and what to do when something will go wrong."""
    from orchestrator.cluster.doctor import DoctorRequest, examine
    from orchestrator.option_values import read_settings, read_words
    from orchestrator.storage.workspace import Workspace
    from orchestrator.training.resources import parse_share, with_ranks

    share = parse_share(gpus_per_target)
    request = partial(
        DoctorRequest,
        address=address,
        out=out,
        targets=read_words(targets),
        settings=with_ranks(read_settings(set_), share),
        members=members,
        gpus_per_target=share,
        findings=findings,
    )
    with Workspace() as workspace:
        diagnosis = examine(request(dataset=workspace.read_dataset(dataset)))
    width = max(len(one.what) for one in diagnosis.checks)
    for one in diagnosis.checks:
        output.print(f"{one.level:<8} {one.what:<{width}}  {one.found}", markup=False)
    if diagnosis.plan:
        show_table(diagnosis.plan_columns, diagnosis.plan, title="\nThe plan, in the order of `hilum train`")
    for line in diagnosis.summary:
        say(line)
    for one in diagnosis.checks:
        if one.advice:
            say(f"{one.level} ({one.what}): {one.advice}")
    if diagnosis.problems:
        raise typer.Exit(1)
