"""hilum as it comes beside plain rivals, on real films of a few hundred patients: who tells better, and what it costs.

In: nih-sample of the test data (HILUM_TEST_DATA, or --data) and a folder (--work), in which data sets, runs, bundles
and answers are made; whatever is finished there is used again. Out: a table of AUCs, findings by ways, with paired
intervals over patients against the plain rival, and one of processor seconds and peak memory.

Five folds by patient, so every film is tested once. The ways of hilum are its own commands, as WAYS says; the rivals
are in `bench.real_rivals`, and may learn from every film outside the test part. Nothing is chosen on what it is judged
on: hilum's settings are fixed and what a rival chooses, it chooses inside the fold. An AUC is the mean of those within
the folds, so that no way gains or loses by the scale of its answers from fold to fold. Every reading of the test labels
is appended to `real_reads.jsonl` beside this file. With --check, exit code 1 where a stated figure is not reached:
`default` .02 before `plain` in the mean AUC, its interval wholly above 0, no finding's wholly below, pneumonia .90;
`warm` (a shared start without folds) not behind `plain` beyond chance, at .6 of the processor time of `scratch`. Linux
only: it reads /proc.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from bench.real_meter import metered
from models.files.layout import append_json_line, read_json, write_json
from models.statistics.bootstrap import Interval, PatientBootstrap, interval
from orchestrator.datasets.dataset import load_dataset
from orchestrator.datasets.prepare import prepare
from orchestrator.datasets.request import PrepareRequest
from orchestrator.formatting import aligned, signed
from orchestrator.inference.bundle import load_bundle

FOLDS = 5
TARGETS = ("pneumonia", "infiltration", "atelectasis", "pleural_effusion", "edema")
READS = Path(__file__).with_name("real_reads.jsonl")
ALONE = ("--from-scratch", "--folds", "1")  # the recipe of before: every network by itself, on part `train` alone
# Each command of hilum that a way needs, by a name of its own; what two ways share runs once and counts for both.
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "{dataset}", "--out", "{fold}/run"),
    "train scratch": ("train", "{dataset}", "--out", "{fold}/run-scratch", *ALONE),
    "train shared": ("train", "{dataset}", "--out", "{fold}/run-shared", "--shared", *ALONE),
    "train warm": ("train", "{dataset}", "--out", "{fold}/run-warm", "--from-shared", "--folds", "1"),
    "train folds3": ("train", "{dataset}", "--out", "{fold}/run-folds3", "--from-shared", "--folds", "3"),
    "ensemble": ("ensemble", "{fold}/run", "--out", "{fold}/bundle-default"),
    "ensemble scratch": ("ensemble", "{fold}/run-scratch", "--out", "{fold}/bundle-scratch"),
    "ensemble shared": ("ensemble", "{fold}/run-shared", "--out", "{fold}/bundle-shared"),
    "ensemble warm": ("ensemble", "{fold}/run-warm", "--out", "{fold}/bundle-warm"),
    "ensemble folds3": ("ensemble", "{fold}/run-folds3", "--out", "{fold}/bundle-folds3"),
}
WAYS: Mapping[str, tuple[str, ...]] = {
    "default": ("train", "ensemble"),
    **{way: (f"train {way}", f"ensemble {way}") for way in ("scratch", "shared", "warm", "folds3")},
}
PLAIN, RIVALS = "plain", ("plain", "pca")
SIDES = (96, 128)
SETTINGS = [{"side": side, "epochs": epochs, "rate": 1e-3} for side in SIDES for epochs in (12, 24)]
GRID = [(count, strength) for count in (20, 50, 100) for strength in (1e-3, 1e-2, 1e-1)]
GAIN, PNEUMONIA, SHARE = 0.02, 0.90, 0.6  # what --check wants


@dataclass(frozen=True, kw_only=True)
class Row:
    """One finding, or the mean of all: within the folds, and the mean over folds and seeds."""

    slug: str
    positives: int
    auc: Mapping[str, float]
    gap: Mapping[str, Interval]  # of every way but the plain rival: its AUC minus the rival's


@dataclass(frozen=True, kw_only=True)
class Price:
    """Of one way, the mean over folds and seeds."""

    seconds: float  # of all processors, for what the way is in the end
    choosing: float  # beside it, for the choice of a rival's settings
    peak: float  # bytes of all its processes together
    torn: bool  # a command was stopped and went on: the seconds are less than it takes


def main(words: list[str] | None = None) -> int:
    options = parse(words)
    require_same_settings(options)
    places = [(seed, fold) for seed in range(options.seeds) for fold in range(1, options.folds + 1)]
    for seed, fold in places:
        for way in options.ways:
            answer_fold(options, seed, fold, way)
    table = pd.concat([read_fold(options, seed, fold) for seed, fold in places], ignore_index=True)
    rows, prices = judge(table, options.ways), {way: price_of(options, way, places) for way in options.ways}
    log(options, results={row.slug: {way: round(auc, 4) for way, auc in row.auc.items()} for row in rows})
    print(aligned(*auc_table(rows, options.ways)))
    print("\n" + aligned(*price_table(prices)))
    films, patients = table["image_id"].nunique(), table["patient_id"].nunique()
    print(f"\n{films} films of {patients} patients, each tested once, in {options.folds} of {FOLDS} folds.")
    print(f"Networks of {options.seeds} seed(s). How networks start from a shared one was fitted to films of this set.")
    faults = faults_of(rows, prices)
    print("\n".join(["", "Not reached:", *faults]) if faults else "\nEvery stated figure is reached.")
    return int(bool(options.check and faults))


def parse(words: list[str] | None) -> argparse.Namespace:
    here = Path(__file__).resolve().parents[2] / "shared" / "data"
    every = (*WAYS, *RIVALS)
    parser = argparse.ArgumentParser(prog="python -m bench.real", description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", type=Path, default=Path("bench-real"), help="folder of all files; goes on there")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("HILUM_TEST_DATA", here)), help="test data")
    parser.add_argument("--check", action="store_true", help="exit 1 where a stated figure is not reached")
    parser.add_argument("--folds", type=int, choices=range(1, FOLDS + 1), default=FOLDS, help="only the first so many")
    parser.add_argument("--ways", default=",".join(every), help=f"of {', '.join(every)}; separated by commas")
    parser.add_argument("--seeds", type=int, default=1, help="of every network; figures are means over them")
    parser.add_argument("--size", type=int, default=128, help="side of hilum's films in pixels (default 128)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="setting of hilum's networks")
    parser.add_argument("--inline", action="store_true", help="hilum trains without Ray, one network after the other")
    parser.add_argument("--inner", type=int, default=3, help="folds in which a rival chooses (default 3)")
    parser.add_argument("--settings", type=json.loads, default=SETTINGS, help="of the plain rival, as JSON: a trial")
    parser.add_argument("--log", type=Path, default=READS, help="where a reading of the test parts is written down")
    options = parser.parse_args(words)
    options.ways = [word for word in options.ways.split(",") if word]
    unknown = [word for word in options.ways if word not in every]
    if unknown or options.seeds < 1 or options.inner < 2:
        parser.error(f"--ways: {', '.join(unknown) or 'none unknown'}; --seeds: at least 1; --inner: at least 2")
    options.work = options.work.resolve()
    return options


def require_same_settings(options: argparse.Namespace) -> None:
    """What is finished in a folder is used again, so all of it has the same settings."""
    asked = {name: getattr(options, name) for name in ("size", "set", "inner", "settings")}
    path = options.work / "settings.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asked)
    if read_json(path) != asked:
        raise SystemExit(f"{options.work} was made with {read_json(path)}, not with {asked}. Give another --work.")


def dataset_of(options: argparse.Namespace, fold: int, size: int) -> Path:
    """The prepared films of a fold; a second call finds them finished."""
    films, out = options.data / "nih-sample", options.work / f"fold-{fold}" / f"dataset-{size}"
    prepare(PrepareRequest(source="nih", labels=films / "Data_Entry_2017.csv", images=films / "images", out=out,
                           size=size, fold=(fold, FOLDS)))  # fmt: skip
    return out


def place_of(options: argparse.Namespace, seed: int, fold: int) -> Path:
    return options.work / f"fold-{fold}" / f"seed-{seed}"


def answer_file(options: argparse.Namespace, seed: int, fold: int, way: str) -> Path:
    return place_of(options, seed, fold) / f"answers-{way}.json"


def answer_fold(options: argparse.Namespace, seed: int, fold: int, way: str) -> None:
    """The way's score of every film of the fold's test part, whose labels nothing here has looked at; once."""
    path = answer_file(options, seed, fold, way)
    if path.exists():
        return
    began = time.monotonic()
    names, scores = (rival if way in RIVALS else hilum)(options, seed, fold, way)
    columns = {slug: dict(zip(names, scores[:, one].tolist(), strict=True)) for one, slug in enumerate(TARGETS)}
    write_json(path, columns)
    print(f"fold {fold}, seed {seed}: {way}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def hilum(options: argparse.Namespace, seed: int, fold: int, way: str) -> tuple[list[str], np.ndarray]:
    """(films of the test part, probabilities of the way's bundle)."""
    path, place = dataset_of(options, fold, options.size), place_of(options, seed, fold)
    for name in WAYS[way]:
        words = [word.format(dataset=path, fold=place) for word in COMMANDS[name]]
        if words[0] == "train":
            words += ["--targets", ",".join(TARGETS), *(["--inline"] if options.inline else [])]
            words += [part for one in (f"seed={seed}", *options.set) for part in ("--set", one)]
        metered(place / "costs" / f"{name}.json", [sys.executable, "-m", "orchestrator.cli.app", *words])
    dataset = load_dataset(path)
    rows = np.flatnonzero(dataset.parts() == "test")
    bundle = load_bundle(place / f"bundle-{way}", "cpu")
    found = bundle.probabilities(np.asarray(dataset.images()[rows]))
    names = dataset.read_labels_frame()["image_id"].to_numpy(str)[rows].tolist()
    return names, found[:, [bundle.slugs.index(slug) for slug in TARGETS]]


def rival(options: argparse.Namespace, seed: int, fold: int, way: str) -> tuple[list[str], np.ndarray]:
    """(films of the test part, the rival's scores); its files hold no label of them."""
    folder = place_of(options, seed, fold) / way
    sides = sorted({one["side"] for one in options.settings}) if way == PLAIN else [min(SIDES)]
    sets = {side: load_dataset(dataset_of(options, fold, side)) for side in sides}
    first = sets[sides[0]]
    frame = first.read_labels_frame()
    label = frame[list(TARGETS)].to_numpy(float).copy()
    label[first.parts() == "test"] = np.nan
    folder.mkdir(parents=True, exist_ok=True)
    pixels = {f"side_{side}": np.asarray(one.images()) for side, one in sets.items()}
    np.savez(folder / "films.npz", label=label, patient=frame["patient_id"].to_numpy(str), **pixels)
    # One thread, as the networks of hilum: more would be sooner, and take more of the processors.
    settings = {"way": way, "threads": 1, "folds": options.inner, "seed": seed, "settings": options.settings,
                "side": sides[0], "grid": GRID}  # fmt: skip
    script = Path(__file__).with_name("real_rivals.py")
    cost = place_of(options, seed, fold) / "costs" / f"{way}.json"
    metered(cost, [sys.executable, str(script), str(folder), json.dumps(settings)])
    (folder / "films.npz").unlink()
    answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    return frame["image_id"].to_numpy(str)[answer["rows"]].tolist(), np.array(answer["scores"])


def read_fold(options: argparse.Namespace, seed: int, fold: int) -> pd.DataFrame:
    """A row per test film and finding: image_id, patient_id, seed, fold, slug, truth, and each way's score.

    The reading of the test labels is logged before they are looked at: one that crashes has been one.
    """
    log(options, seed=seed, fold=fold)
    size = options.size if any(way in WAYS for way in options.ways) else min(SIDES)
    frame = load_dataset(dataset_of(options, fold, size)).read_labels_frame().set_index("image_id")
    answers = {way: read_json(answer_file(options, seed, fold, way)) for way in options.ways}
    parts = []
    for slug in TARGETS:
        films = sorted(answers[options.ways[0]][slug])
        part = {"image_id": films, "patient_id": frame["patient_id"].reindex(films).to_numpy(str), "seed": seed,
                "fold": fold, "slug": slug, "truth": frame[slug].reindex(films).to_numpy(float)}  # fmt: skip
        part |= {way: [found[slug][name] for name in films] for way, found in answers.items()}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def log(options: argparse.Namespace, **more: object) -> None:
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "ways": options.ways, "folds": options.folds,
             "seeds": options.seeds, "size": options.size, "set": options.set,
             "settings": options.settings}  # fmt: skip
    append_json_line(options.log, entry | more)


def judge(table: pd.DataFrame, ways: Sequence[str]) -> list[Row]:
    """A Row per finding of the table, and one of their mean; all of it on the same resamples of patients."""
    slugs = list(dict.fromkeys(table["slug"]))
    areas = {}
    for slug in slugs:
        films = table[table["slug"] == slug].sort_values(["seed", "image_id"])
        films = {seed: part for seed, part in films.groupby("seed")}
        bootstrap = PatientBootstrap(next(iter(films.values()))["patient_id"].to_numpy(str))
        areas[slug] = {way: np.mean([within_folds(bootstrap, part, way) for part in films.values()], axis=0)
                       for way in ways}  # fmt: skip
    first = table[table["seed"] == table["seed"].min()]
    positives = {slug: int((first.loc[first["slug"] == slug, "truth"] == 1).sum()) for slug in slugs}
    rows = [row_of(slug, positives[slug], areas[slug]) for slug in slugs]
    mean = {way: np.mean([areas[slug][way] for slug in slugs], axis=0) for way in ways}
    return [*rows, row_of("mean", sum(positives.values()), mean)]


def within_folds(bootstrap: PatientBootstrap, films: pd.DataFrame, way: str) -> np.ndarray:
    """AUC within each fold, the mean over folds; of every resample."""
    truth, score, fold = (films[name].to_numpy(float) for name in ("truth", way, "fold"))
    found = [bootstrap.rank_scores(score, np.where(fold == one, truth, np.nan))["auc"] for one in np.unique(fold)]
    return np.nanmean(found, axis=0)


def row_of(slug: str, positives: int, areas: Mapping[str, np.ndarray]) -> Row:
    rest = [way for way in areas if way != PLAIN] if PLAIN in areas else []
    return Row(slug=slug, positives=positives, auc={way: float(area[0]) for way, area in areas.items()},
               gap={way: interval(areas[way] - areas[PLAIN]) for way in rest})  # fmt: skip


def price_of(options: argparse.Namespace, way: str, places: Sequence[tuple[int, int]]) -> Price:
    seconds, choosing, peaks, torn = [], [], [], False
    for seed, fold in places:
        place = place_of(options, seed, fold)
        costs = [read_json(place / "costs" / f"{name}.json") for name in WAYS.get(way, (way,))]
        chose = read_json(place / way / "answer.json")["choosing_s"] if way in RIVALS else 0.0
        seconds.append(sum(one["seconds"] for one in costs) - chose)
        choosing.append(chose)
        peaks.append(max(one["peak"] for one in costs))
        torn |= any(one["torn"] for one in costs)
    return Price(seconds=float(np.mean(seconds)), choosing=float(np.mean(choosing)), peak=max(peaks), torn=torn)


def faults_of(rows: Sequence[Row], prices: Mapping[str, Price]) -> list[str]:
    """The stated figures that are not reached."""
    missing = [f"{way}: not measured" for way in ("default", "scratch", "warm", PLAIN) if way not in prices]
    if missing:
        return missing
    *each, mean = rows
    ahead, warm, found = mean.gap["default"], mean.gap["warm"], []
    if not (ahead.value >= GAIN and ahead.low > 0):
        found.append(f"default minus plain, mean AUC: {signed(**ahead.bounds)}; wanted {GAIN:+.3f} and wholly above 0")
    found += [f"{row.slug}: default behind plain, {signed(**row.gap['default'].bounds)}" for row in each
              if not row.gap["default"].high >= 0]  # fmt: skip
    found += [f"pneumonia: default {row.auc['default']:.3f}; wanted {PNEUMONIA:.2f}" for row in each
              if row.slug == "pneumonia" and not row.auc["default"] >= PNEUMONIA]  # fmt: skip
    if not warm.high >= 0:
        found.append(f"warm behind plain, mean AUC: {signed(**warm.bounds)}")
    share = prices["warm"].seconds / prices["scratch"].seconds
    if not share <= SHARE:
        found.append(f"warm takes {share:.2f} of the processor time of scratch; wanted at most {SHARE}")
    return found


def auc_table(rows: Sequence[Row], ways: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    beside = list(rows[0].gap)
    titles = ["finding", "pos", *ways, *(f"{way} - {PLAIN} (95 %)" for way in beside)]
    lines = [[row.slug, str(row.positives), *(f"{row.auc[way]:.3f}" for way in ways),
              *(signed(**row.gap[way].bounds) for way in beside)] for row in rows]  # fmt: skip
    return titles, lines


def price_table(prices: Mapping[str, Price]) -> tuple[list[str], list[list[str]]]:
    lines = [[way, f"{'at least ' if one.torn else ''}{one.seconds:,.0f}", f"{one.choosing:,.0f}",
              f"{one.peak / 2**20:,.0f}"] for way, one in prices.items()]  # fmt: skip
    return ["a fold", "processor s", "choosing s", "peak MiB"], lines


if __name__ == "__main__":
    sys.exit(main())
