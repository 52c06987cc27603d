"""What is going on, as lines of text: an event in, a sentence out.

In: the events of a run, a search, a preparation. Out: what is known of each of a run's jobs, and a line per event.
Called by the commands, whose live table shows the same lines, and by the Python API, where progress is asked for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.formatting import cell

OnEvent = Callable[[dict[str, Any]], None]
COLUMNS = ("target", "state", "epoch", "train loss", "select AUC", "images/s", "remaining", "note")


@dataclass
class Line:
    """What is known of one job."""

    job: str
    epochs: int
    folds: int = 1
    state: str = "waiting"
    epoch: int = 0
    row: dict[str, Any] | None = None
    note: str = ""

    def seconds_left(self) -> float:
        """0 also where nothing is known."""
        known = self.state == "training" and self.row
        return (self.epochs - self.epoch) * float(self.row["seconds"]) if known else 0.0


class RunProgress:
    """Follows the events of a run; `lines` has a Line per job."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}

    def take(self, event: dict[str, Any]) -> str:
        """Note one event of `orchestrator.training.launch.train_run`; returns it as a line of text."""
        if event["event"] == "recipe":
            return event["text"]
        line = self.lines.get(event["job"])
        if event["event"] == "planned":
            folds, note = event.get("folds", 1), event.get("note", "")
            line = self.lines[event["job"]] = Line(job=event["job"], epochs=event["epochs"], folds=folds, note=note)
            if event["finished"]:
                _finish(line, event["outcome"])
                line.note = "was finished already"
        elif event["event"] == "started":
            line.state = "training"
            if (event["attempt"] or 1) > 1:
                line.note = f"attempt {event['attempt']}"
        elif event["event"] == "epoch":
            line.state, line.row, line.epoch = "training", event["row"], event["row"]["epoch"]
        elif event["event"] == "again":
            line.state, line.note = "waiting", event["why"]
        elif event["event"] == "finished":
            _finish(line, event["outcome"])
        return describe(line, event["event"])

    def rows(self) -> list[list[str]]:
        """The cells of the live table: a row for each network; of a run in folds, one for all of a finding's."""
        groups: dict[str, list[Line]] = {}
        for line in self.lines.values():
            groups.setdefault(line.job.partition("/")[0] if line.folds > 1 else line.job, []).append(line)
        return [cells(lines[0]) if len(lines) == 1 else together(name, lines) for name, lines in groups.items()]


def cells(line: Line) -> list[str]:
    row = line.row or {}
    return [
        line.job.removesuffix("/0"),
        line.state,
        f"{line.epoch}/{line.epochs}" if line.epoch else "",
        cell(row.get("train_loss")),
        cell(row.get("select_auc")),
        f"{row['images_per_second']:.0f}" if row else "",
        _minutes(line.seconds_left()),
        line.note,
    ]


def together(name: str, lines: list[Line]) -> list[str]:
    """The folds of a finding in one line; figures are means over those that train now."""
    ended = [line for line in lines if line.state not in ("waiting", "training")]
    failed = [line for line in ended if line.state != "ok"]
    now = [line for line in lines if line.state == "training"]
    rows = [line.row for line in now if line.row]
    quiet = "ok" if len(ended) == len(lines) else "waiting"
    state = f"{len(failed)} failed" if failed else "training" if now else quiet
    notes = dict.fromkeys(line.note for line in failed or now or lines if line.note)
    return [
        name,
        state,
        f"{len(ended)} of {len(lines)} done",
        *(cell(_mean([row.get(one) for row in rows])) for one in ("train_loss", "select_auc")),
        f"{sum(row['images_per_second'] for row in rows):.0f}" if rows else "",
        _minutes(max((line.seconds_left() for line in now), default=0.0)),
        next(iter(notes), ""),
    ]


def describe(line: Line, event: str) -> str:
    """One event as one line of text."""
    name = line.job if line.folds > 1 else line.job.removesuffix("/0")
    if event == "epoch":
        _, _, epoch, loss, auc, speed, remaining, _ = cells(line)
        select = f", select AUC {auc}" if auc else ""
        return f"{name}: epoch {epoch}, loss {loss}{select}, {speed} images/s, {remaining or '0:00'} to go"
    note = f" ({line.note})" if line.note else ""
    return f"{name}: {line.state}{note}"


def _finish(line: Line, outcome: dict[str, Any]) -> None:
    line.state = outcome["status"]
    if outcome["status"] != "ok":
        line.note = (outcome.get("error") or "")[:200]
        return
    line.note = f"best epoch {outcome['best_epoch']}"
    if outcome.get("selection_rule") == "last_epoch":
        line.note = f"the last epoch, {outcome['best_epoch']}"
    elif outcome.get("selection_rule") not in (None, "auc"):
        line.note += f", by {outcome['selection_rule']}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}" if seconds else ""


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else None


def describe_trial(event: dict[str, Any]) -> str:
    """One finished trial of a search as one line of text."""
    outcome, best = event["outcome"], event["best"]
    score = outcome.get("select_score")
    result = f", select {score:.3f}" if score is not None else f" ({(outcome.get('error') or '')[:200]})"
    leader = f", best {best.score:.3f} (trial {best.number})" if best else ""
    progress = f"{event['finished']} of {event['trials']}"
    return f"{event['slug']}: trial {event['number']} {outcome['status']}{result}{leader}, {progress}"


class Lines:
    """Every event as a line of text, for a notebook or a script; of what is counted, a line at each tenth."""

    def __init__(self, say: Callable[[str], None], what: str) -> None:
        self.say, self.what = say, what
        self.run, self.tenth = RunProgress(), 0

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            done, total = event["done"], event["total"]
            tenth = 10 * done // total if total else 10
            if tenth != self.tenth:
                self.tenth = tenth
                self.say(f"{self.what}: {done} of {total}")
        elif event["event"] == "trial":
            self.say(describe_trial(event))
        else:
            self.say(event["message"] if "message" in event else self.run.take(event))


def listener(progress: bool | OnEvent, what: str, say: Callable[[str], None]) -> OnEvent:
    """Who hears the events: nobody, `say` line by line, or a function of one's own, event by event."""
    if callable(progress):
        return progress
    return Lines(say, what) if progress else lambda event: None
