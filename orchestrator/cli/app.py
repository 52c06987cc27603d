"""The command line, `hilum ...`: the only module that prints.

In: words. Out: tables on standard output, progress and errors on standard error, an exit code: 0 done, 1 something that
was asked for did not come out, 2 unusable input, 70 a defect of ours (EX_SOFTWARE of sysexits.h), 130 stopped by Ctrl-C
or SIGTERM. The commands live in the files beside this one; heavy libraries are imported inside them, so that `--help`
answers at once.
"""

import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from models.process.signals import end_as_by_ctrl_c
from orchestrator.cli import cluster as commands_cluster
from orchestrator.cli import datasets, demo, evaluation, inference, training, tuning
from orchestrator.cli.console import errors
from orchestrator.cli.options import examples
from orchestrator.training.ray_session import ClusterGone
from pathologies.errors import InputError


class Stopped(Exception):
    """Ctrl-C. Not a KeyboardInterrupt: that one typer answers itself, without our sentence."""


class Commands(TyperGroup):
    def invoke(self, ctx: typer.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped from error


app = typer.Typer(
    cls=Commands,
    help="One binary model per chest X-ray finding, combined into one multi-label predictor. Not a medical device.",
    no_args_is_help=True,
    epilog=examples("demo", "train --help"),
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
demo.register(app)
datasets.register(app)
training.register(app)
tuning.register(app)
evaluation.register(app)
inference.register(app)
commands_cluster.register(app)

DEFECT = 70
STOPPED = "Stopped. What was finished is kept; give the same command again and it goes on from there."


def main(words: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code.

    What the user (InputError) or the system (OSError) can mend is a sentence, never a traceback; anything else is a
    defect of ours: a sentence that names the file with the traceback. HILUM_TRACEBACK=1 shows the traceback instead.
    """
    end_as_by_ctrl_c()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app(args=list(words) if words is not None else None, prog_name="hilum")
    except ClusterGone as error:
        errors.print(f"[bold red]Error:[/] {_escape(str(error))}", soft_wrap=True, highlight=False)
        _leave_at_once(1)
    except (InputError, OSError) as error:
        if os.environ.get("HILUM_TRACEBACK"):
            raise
        errors.print(f"[bold red]Error:[/] {_escape(_sentence(error))}", soft_wrap=True, highlight=False)
        sys.exit(2)
    except (Stopped, KeyboardInterrupt):
        errors.print(STOPPED)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("HILUM_TRACEBACK"):
            raise
        errors.print(f"[bold red]Error:[/] {_escape(_defect(error))}", soft_wrap=True, highlight=False)
        sys.exit(DEFECT)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:  # one of the system's, not one of our sentences
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}"
    return str(error) or type(error).__name__


def _defect(error: Exception) -> str:
    """The sentence for an error that nobody expected, and a file with its traceback that only this user can read."""
    what = (traceback.format_exception_only(error)[-1].strip().splitlines() or [type(error).__name__])[0]
    handle, path = tempfile.mkstemp(prefix="hilum-error-", suffix=".txt")
    with open(handle, "w", encoding="utf-8") as file:
        file.write(f"{' '.join(sys.argv)}\n{traceback.format_exc()}")
    return (
        f"This is a defect of hilum, not of your input ({what}). What was finished is kept. "
        f"Please report it with the traceback, which is in {path}"
    )


def _leave_at_once(code: int) -> None:
    """Without Ray's farewell: it would wait for a cluster that is dead."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
