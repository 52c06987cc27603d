"""Twelve targets trained while trainings, drivers, raylets and the head are killed: do the same bytes come out?

In: nothing (a phantom is drawn). Out: a table; with --check, exit code 1 where fewer kills of a kind hit running work
than are wanted for so many minutes, where a weight file differs from that of an undisturbed run, or where a target was
finished twice. Two worker raylets of one CPU and a head without any; gaps between kills are exponential, 20 s in the
mean, and a kill waits until there is running work for it to hit. Ended raylets are started again, and the same command
is given again whenever it has ended.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from bench.attack import Attack, Course, plain_environment, wanted
from bench.loopback import loopback
from bench.search_kill import make_phantom
from models.files.layout import RunPaths, read_json, read_json_lines
from orchestrator.formatting import aligned
from pathologies.findings.catalog import CHEXPERT_TARGETS

SETTINGS = {"backbone": "test_resnet", "batch_size": 16, "learning_rate": 0.003, "dropout": 0.2, "device": "cpu",
            "precision": "fp32", "threads": 1, "checkpoint_minutes": 0.01}  # fmt: skip
AT_ONCE = 2
PATIENTS, SIZE = 400, 32
PROBE_EPOCHS = 20
# Two slots work through twelve targets in M minutes if none is disturbed and each takes M / 6; a little longer, since
# the probe runs alone.
MARGIN = 1.25
FINISH_MINUTES = 10  # on top of thrice the attack, after the last kill


@dataclass(kw_only=True)
class Verdict:
    """What became of the run."""

    differing: list[str]
    twice: list[str]
    missing: list[str]
    attempts: int

    def faults(self, kills: Counter, minutes: float, outlasted: bool) -> list[str]:
        found = [] if outlasted else ["all targets were finished before the time was over: give --epochs more"]
        for kind, count in wanted(minutes).items():
            if kills[kind] < count:
                found.append(f"{kills[kind]} kills of a {kind} hit running work; {count} are wanted")
        found += [f"not finished: {', '.join(self.missing)}"] if self.missing else []
        found += [f"other weights than undisturbed: {', '.join(self.differing)}"] if self.differing else []
        return found + ([f"finished twice: {', '.join(self.twice)}"] if self.twice else [])


def judge(course: Course, out: Path, reference: Path) -> Verdict:
    """Compare the two runs' weights and predictions; read the ledger for ends."""
    run, calm = RunPaths(out), RunPaths(reference)
    verdict = Verdict(differing=[], twice=[], missing=[], attempts=0)
    ends = Counter(row["job"] for row in read_json_lines(run.ledger)
                   if row["event"] == "finished" and row["status"] == "ok")  # fmt: skip
    for slug in course.targets:
        ours, theirs = run.target(slug, 0), calm.target(slug, 0)
        newest = ours.newest_attempt()
        verdict.attempts += newest.number if newest else 0
        if not ours.outcome.exists() or read_json(ours.outcome)["status"] != "ok":
            verdict.missing.append(slug)
            continue
        # an attempt after the one that finished would be a second training of a finished target
        if ends[f"{slug}/0"] > 1 or newest.number != read_json(ours.outcome)["attempt"]:
            verdict.twice.append(slug)
        if any(getattr(ours, name).read_bytes() != getattr(theirs, name).read_bytes()
               for name in ("weights", "predictions")):  # fmt: skip
            verdict.differing.append(slug)
    return verdict


def undisturbed(course: Course, out: Path) -> float:
    """Every target by `hilum train --inline` in a process and a run of its own, two at a time; seconds that it took."""
    began = time.monotonic()

    def one(slug: str) -> None:
        alone = replace(course, targets=(slug,), log=course.log.with_name(f"undisturbed-{slug}.log"))
        process = alone.start(alone.command(out / slug, "--inline"), plain_environment(alone))
        try:
            code = process.wait()
        finally:
            process.kill()
        if code:
            raise RuntimeError(f"The undisturbed training of {slug} ended with {code}; see {alone.log}.")
        shutil.move(out / slug / slug, out / "run" / slug)

    (out / "run").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, [slug for slug in course.targets if not (out / "run" / slug).exists()]))
    return time.monotonic() - began


def epochs_for(course: Course, folder: Path, minutes: float) -> int:
    """So many that twelve targets outlast the time: measured on two targets that run side by side."""
    shutil.rmtree(folder, ignore_errors=True)
    probe = replace(course, targets=course.targets[:AT_ONCE], settings={**course.settings, "epochs": PROBE_EPOCHS})
    undisturbed(probe, folder)
    seconds = []
    for slug in probe.targets:
        outcome = read_json(RunPaths(folder / "run").target(slug, 0).outcome)
        began, ended = (datetime.fromisoformat(outcome[name]).timestamp() for name in ("started", "ended"))
        seconds.append((ended - began) / PROBE_EPOCHS)
    each = 60 * minutes * AT_ONCE / len(course.targets)
    return max(4, round(MARGIN * each / statistics.mean(seconds)))


def prepared(work: Path, minutes: float, epochs: int | None, targets: tuple[str, ...]) -> tuple[Course, Path]:
    """The course and the folder of its undisturbed run, both kept in `work` for the next time."""
    if not (work / "dataset" / "manifest.json").exists():
        make_phantom(work, PATIENTS, SIZE)
    course = Course(dataset=work / "dataset", targets=targets, settings=SETTINGS, log=work / "driver.log")
    epochs = epochs or epochs_for(course, work / "probe", minutes)
    course = replace(course, settings={**SETTINGS, "epochs": epochs})
    return course, work / f"undisturbed-{epochs}"


def table(attack: Attack, verdict: Verdict, minutes: float, seconds: dict[str, float]) -> str:
    least = wanted(minutes)
    rows = [(f"{kind} killed at work", f"{attack.kills[kind]} (at least {least[kind]})") for kind in least]
    finished = len(attack.course.targets) - len(verdict.missing)
    rows += [
        ("kills in all", sum(attack.kills.values())),
        ("commands given", attack.commands),
        ("exit codes of those that ended by themselves", json.dumps({str(k): v for k, v in attack.codes.items()})),
        ("targets finished", f"{finished} of {len(attack.course.targets)}"),
        ("finished twice", len(verdict.twice)),
        ("same bytes as undisturbed", f"{finished - len(verdict.differing)} of {len(attack.course.targets)}"),
        ("attempts in all", verdict.attempts),
        ("epochs of a target", attack.course.settings["epochs"]),
        *((name, f"{value:.0f} s") for name, value in seconds.items()),
    ]
    return aligned((f"chaos, {minutes:g} minutes", ""), rows)


def run(work: Path, options: argparse.Namespace) -> list[str]:
    """Prints the table; returns what is wrong, as sentences."""
    targets = CHEXPERT_TARGETS[: options.targets]
    course, calm = prepared(work, options.minutes, options.epochs, targets)
    print(f"{len(targets)} targets of {course.settings['epochs']} epochs in {work}", flush=True)
    seconds = {"undisturbed": undisturbed(course, calm)}
    out = work / "run"
    shutil.rmtree(out, ignore_errors=True)
    course.log.unlink(missing_ok=True)
    with loopback(workers=2, cpus=1) as cluster:
        attack = Attack(course=course, cluster=cluster, out=out)
        began = time.monotonic()
        try:
            outlasted = attack.disturb(60 * options.minutes, options.seed, lambda text: print(text, flush=True))
            seconds["under attack"] = time.monotonic() - began
            attack.finish(60 * (3 * options.minutes + FINISH_MINUTES))
        finally:
            if attack.driver is not None:
                attack.driver.kill()
                attack.driver.wait()
        seconds["until the end"] = time.monotonic() - began
    verdict = judge(course, out, calm / "run")
    print(table(attack, verdict, options.minutes, seconds))
    return verdict.faults(attack.kills, options.minutes, outlasted)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="of attack (default 10)")
    parser.add_argument("--work", type=Path, help="folder whose phantom and undisturbed run are used again")
    parser.add_argument("--seed", type=int, default=0, help="of the kinds, the gaps and the victims")
    parser.add_argument("--epochs", type=int, help="of every target; none: measured, so that they outlast the time")
    parser.add_argument("--targets", type=int, default=12, choices=range(2, 13), metavar="2..12")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a promise is not kept")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="hilum-chaos-") as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        faults = run(work.resolve(), options)
    print("\n".join(faults) or "Every promise was kept.")
    return int(bool(options.check and faults))


if __name__ == "__main__":
    sys.exit(main())
