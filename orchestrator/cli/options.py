"""What commands have in common: the groups of `hilum --help`, the examples that end each help, options.

In: a group and example commands, as words after `hilum`. Out: what typer wants of them. Called by every file of
commands when it registers them. The examples work on what `hilum demo` makes; a test runs them.
"""

from pathlib import Path
from typing import Annotated, Any

from typer import Option

START, DATA, TRAIN, JUDGE, USE, CLUSTER = "Start", "Data", "Train", "Judge", "Use", "Cluster"

Targets = Annotated[str, Option(help="Findings, separated by commas; none: those of CheXpert's twelve that are there.")]
Findings = Annotated[Path | None, Option(help="A folder with pathology files of your own.")]
Device = Annotated[str, Option(help="cpu, cuda or auto.")]


def examples(*commands: str) -> str:
    """The last lines of a help."""
    return "\n".join([f"Example{'s' if len(commands) > 1 else ''}:", *(f"hilum {one}" for one in commands)])


def shown(group: str, *commands: str) -> dict[str, Any]:
    """What `app.command` is told: where the command stands in `hilum --help`, and how its own help ends."""
    return {"rich_help_panel": group, "epilog": examples(*commands)}
