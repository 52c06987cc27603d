"""What does an ensemble gain on films that nobody has chosen by? K members against their mean, on a large test part.

In: a folder (--work), in which a phantom, its data set, a run and a bundle are made; whatever is finished there is used
again. Out: a table per finding: AUC of the mean single member, of the ensemble, the paired gain with its 95 % interval,
calibration error and slope. With --check, exit code 1 where a stated figure is not reached: a test part of 2,000 films,
a gain for ten of twelve findings, and for every finding that is not underpowered an ECE of at most 0.05, a slope from
0.8 to 1.25 and an AUC that the calibration leaves as it was.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from models.config import parse_settings
from models.files.layout import RunPaths, append_json_line
from models.statistics import metrics, reliability
from models.statistics.bootstrap import Interval, PatientBootstrap, interval
from orchestrator.datasets.labelled import Material
from orchestrator.datasets.prepare import prepare
from orchestrator.datasets.request import PrepareRequest
from orchestrator.ensembling.build import EnsembleRequest, build_bundle, run_material
from orchestrator.ensembling.logit_tables import member_table
from orchestrator.ensembling.members import columns_of, finished_targets
from orchestrator.ensembling.pipeline import patient_power
from orchestrator.formatting import aligned
from orchestrator.inference.bundle import Bundle, load_bundle
from orchestrator.planning.plan import TrainRequest
from orchestrator.training.launch import train_run
from pathologies.phantom.writer import PhantomConfig, write_phantom

FRACTIONS = (0.35, 0.08, 0.2, 0.37)  # more calibrate and test than usual: this is a measurement
LEAST_FILMS, LEAST_GAINS, MOST_ECE, SLOPES = 2000, 10 / 12, 0.05, (0.8, 1.25)
DEFAULTS = {"backbone": "test_resnet", "epochs": "10", "learning_rate": "6e-3", "batch_size": "32"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One finding on the test part."""

    slug: str
    positives: int
    single: float  # mean AUC of the members, each alone
    together: float
    gain: Interval
    ece: float
    ece_chance: float
    slope: float
    same_auc: bool
    combine: str
    calibration: str
    underpowered: bool

    @property
    def faults(self) -> list[str]:
        """Which stated figures a finding with enough cases misses."""
        if self.underpowered:
            return []
        found = [] if self.ece <= MOST_ECE else [f"ECE {self.ece:.3f}"]
        found += [] if SLOPES[0] <= self.slope <= SLOPES[1] else [f"slope {self.slope:.2f}"]
        return found if self.same_auc else [*found, "calibration changed the AUC"]


def main(words: list[str] | None = None) -> int:
    options = parse(words)
    started = time.monotonic()
    run = make_run(options)
    bundle_folder = options.work / "bundle"
    ensembling = time.monotonic()
    build_bundle(EnsembleRequest(run=run.root, out=bundle_folder, consistency=options.consistency, tta=options.tta))
    ensembling = time.monotonic() - ensembling
    rows, films = judge(run, load_bundle(bundle_folder, "cpu"))
    print(aligned(*table(rows)))
    better = sum(row.gain.value > 0 for row in rows)
    print(f"\n{films} test films; the ensemble beats the mean single member for {better} of {len(rows)} findings.")
    print(f"hilum ensemble took {ensembling:.1f} s, everything {time.monotonic() - started:.0f} s.")
    faults = [f"{row.slug}: {', '.join(row.faults)}" for row in rows if row.faults]
    if films < LEAST_FILMS:
        faults.append(f"only {films} test films, {LEAST_FILMS} are stated")
    if better < LEAST_GAINS * len(rows):
        faults.append(f"only {better} findings gain, {LEAST_GAINS * len(rows):.0f} are stated")
    print("\n".join(["", "Not reached:", *faults]) if faults else "\nEvery stated figure is reached.")
    return int(bool(options.check and faults))


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ensemble_gain", description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", type=Path, default=Path("bench-ensemble"), help="folder of all files; goes on there")
    parser.add_argument("--check", action="store_true", help="exit 1 where a stated figure is not reached")
    parser.add_argument("--patients", type=int, default=3600, help="of the phantom; 1.66 frontal films each")
    parser.add_argument("--size", type=int, default=64, help="side of the prepared films in pixels")
    parser.add_argument("--members", type=int, default=3, help="networks per finding")
    parser.add_argument("--targets", default="", help="findings, separated by commas; none: CheXpert's twelve")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="training setting")
    parser.add_argument("--inline", action="store_true", help="train in this process, without Ray")
    parser.add_argument("--consistency", action="store_true", help="raise parents to their likeliest child")
    parser.add_argument("--tta", action="store_true", help="members that look at copies of the film")
    return parser.parse_args(words)


def make_run(options: argparse.Namespace) -> RunPaths:
    """Phantom, data set and trained networks; each step goes on where it was stopped."""
    films, dataset, run = (options.work / name for name in ("films", "dataset", "run"))
    config = PhantomConfig(patients=options.patients, size=2 * options.size, laterals=False)
    labels = write_phantom(films, config)
    prepare(
        PrepareRequest(
            source="chexpert", labels=labels, images=films, out=dataset, size=options.size, frontal=True,
            fractions=FRACTIONS,
        )
    )  # fmt: skip
    settings = DEFAULTS | dict(word.split("=", 1) for word in options.set)
    request = TrainRequest(
        dataset=dataset,
        out=run,
        targets=tuple(word for word in options.targets.split(",") if word),
        members=options.members,
        settings=parse_settings(f"{name}={value}" for name, value in settings.items()),
        inline=options.inline,
    )
    outcomes = train_run(request, say)
    failed = [one["job"] for one in outcomes if one["status"] != "ok"]
    if failed:
        raise SystemExit(f"Not trained: {', '.join(failed)}. The same command tries again.")
    return RunPaths(run)


def say(event: dict) -> None:
    if event.get("event") == "finished":
        print(f"trained {event.get('job')}", file=sys.stderr, flush=True)


def judge(run: RunPaths, bundle: Bundle) -> tuple[list[Row], int]:
    """Score the stored logits of `test`; the reading of its labels is logged."""
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "command": "bench.ensemble_gain"}
    append_json_line(run.test_reads, entry)
    material = run_material(run)
    trained, _ = finished_targets(run, tuple(bundle.slugs))
    if any(model["copies"] for one in bundle.classifiers for model in one.entry["models"]):
        columns, films = augmented(bundle, material)
    else:
        tables = {slug: member_table(trained[slug], "test") for slug in bundle.slugs}
        columns, films = {slug: one.to_numpy(float) for slug, one in tables.items()}, tables[bundle.slugs[0]].index
    logits = np.stack([one.combine(columns) for one in bundle.classifiers], axis=1)
    probability = bundle.calibrate(logits)
    patients = material.patients.reindex(films).to_numpy(str)
    bootstrap = PatientBootstrap(patients)
    rows = []
    for index, slug in enumerate(bundle.slugs):
        truth = material.truth(slug).reindex(films).to_numpy(float)
        members = columns[slug][:, : len(columns_of(trained[slug]))]
        answers = {"logit": logits[:, index], "probability": probability[:, index]}
        rows.append(row_of(bundle.classifiers[index].entry, slug, answers, members, truth, bootstrap, patients))
    return rows, len(films)


def augmented(bundle: Bundle, material: Material):
    """All columns of the bundle on `test`, asked of the networks; sorted by image_id as the stored ones are."""
    frame, dataset = material.frame, material.dataset
    rows = np.flatnonzero(dataset.parts() == "test")
    rows = rows[np.argsort(frame["image_id"].to_numpy(str)[rows])]
    films = frame["image_id"].iloc[rows].to_list()
    return bundle.member_logits(dataset.images()[rows]), films


def row_of(entry, slug, answers, members, truth, bootstrap, patients) -> Row:
    known = ~np.isnan(truth)
    logit, probability, truth_known = answers["logit"][known], answers["probability"][known], truth[known]
    together = bootstrap.rank_scores(answers["logit"], truth)["auc"]
    single = np.mean([bootstrap.rank_scores(one, truth)["auc"] for one in members.T], axis=0)
    method = entry["calibration"]["method"]
    return Row(
        slug=slug,
        positives=int((truth_known > 0).sum()),
        single=float(single[0]),
        together=float(together[0]),
        gain=interval(together - single),
        ece=reliability.ece(probability, truth_known),
        ece_chance=reliability.ece_chance(probability, truth_known),
        slope=reliability.calibration_line(reliability.log_odds(probability), truth_known)[0],
        same_auc=abs(metrics.auc(probability, truth_known) - metrics.auc(logit, truth_known)) < 1e-12,
        combine=entry["combine"],
        calibration=method,
        underpowered=patient_power(truth, patients).underpowered or bool(entry["notes"]),
    )


def table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    titles = ["finding", "pos", "single AUC", "ensemble", "gain (95 % interval)", "ECE (chance)", "slope", "blend"]
    titles += ["calibration", "missed"]
    lines = []
    for row in rows:
        gain = f"{row.gain.value:+.4f} ({row.gain.low:+.4f} to {row.gain.high:+.4f})"
        lines.append([
            row.slug, str(row.positives), f"{row.single:.4f}", f"{row.together:.4f}", gain,
            f"{row.ece:.3f} ({row.ece_chance:.3f})", f"{row.slope:.2f}", row.combine, row.calibration,
            "underpowered" if row.underpowered else ", ".join(row.faults),
        ])  # fmt: skip
    return titles, lines


if __name__ == "__main__":
    sys.exit(main())
