"""hilum beside fastai's Learner on real films: images a second, seconds and AUC of every epoch, and who tells better.

In: nih-sample of the test data (HILUM_TEST_DATA, or --data) and a folder (--work), in which a data set, fastai's
environment and both sides' results are made. Out: tables. Both sides train the same timm network from scratch, on the
same films at the same size, for the same epochs, and look at the same part `select` after every epoch; images a second
count training and validation, from the end of the first epoch on. The sides are judged on `calibrate`, which neither
trains nor chooses with; `test` is empty here, so nothing of it is read. With --check, exit code 1 unless hilum is 1.8
times as fast and the 95 % interval (over patients, paired) of the AUC difference is not wholly below 0.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.sides import cores
from models.bootstrap import Interval, PatientBootstrap, interval
from models.paths import RunPaths
from models.targets import PARTS, Targets
from orchestrator.plan import TrainRequest, plan_run
from orchestrator.prepare import PrepareRequest, prepare
from orchestrator.text import aligned
from pathologies.catalog import load_catalog

FASTER = 1.8
SLUG = "pneumonia"
FRACTIONS = (0.6, 0.1, 0.3, 0.0)
PACKAGES = ("fastai", "timm")
JOB = """import json, sys, time; from pathlib import Path; from models.job import run_job
rows = []
run_job(Path(sys.argv[1]), Path(sys.argv[2]), lambda row: rows.append({"time": time.time(), "auc": row["select_auc"]}))
Path(sys.argv[3]).write_text(json.dumps(rows))"""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One training of one side."""

    times: tuple[float, ...]  # end of each epoch, seconds
    aucs: tuple[float, ...]  # on `select`
    films: int  # that an epoch trains on
    scores: pd.Series  # of the films that are judged, by image_id

    @property
    def rate(self) -> float:
        """Images a second with validation; the first epoch warms up and is left out."""
        return self.films * (len(self.times) - 1) / (self.times[-1] - self.times[0])


@dataclass(frozen=True, kw_only=True)
class Course:
    data: Path
    work: Path
    backbone: str
    size: int
    epochs: int
    rate: float  # fastai's; 0: its finder's
    tries: int


def environment(folder: Path) -> Path:
    """The Python of fastai's own environment; made once."""
    python = folder / "bin" / "python"
    done = folder / "installed"
    if done.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if not uv:
        raise ValueError("fastai's environment is made by uv, which is not here. `make install` installs it.")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *PACKAGES], check=True)
    done.touch()
    return python


def make_dataset(course: Course) -> Path:
    source, out = course.data / "nih-sample", course.work / f"dataset-{course.size}"
    prepare(PrepareRequest(source="nih", labels=source / "Data_Entry_2017.csv", images=source / "images", out=out,
                           size=course.size, fractions=FRACTIONS))  # fmt: skip
    return out


def hilum_side(course: Course, dataset: Path, seed: int) -> tuple[Side, Targets]:
    out = course.work / f"hilum-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    settings = {"backbone": course.backbone, "epochs": course.epochs, "threads": cores(), "device": "cpu",
                "seed": seed}  # fmt: skip
    plan_run(TrainRequest(dataset=dataset, out=out, targets=(SLUG,), settings=settings), "cpu")
    paths = RunPaths(out).target(SLUG, 0)
    threads = {"OMP_NUM_THREADS": str(cores()), "MKL_NUM_THREADS": str(cores()), "CUDA_VISIBLE_DEVICES": ""}
    epochs = out / "epochs.json"
    words = [sys.executable, "-c", JOB, str(dataset), str(paths.root), str(epochs)]
    subprocess.run(words, env=os.environ | threads, check=True)
    rows = json.loads(epochs.read_text(encoding="utf-8"))
    targets = Targets.load(paths.targets)
    table = pd.read_parquet(paths.predictions)
    judged = table[table["part"] == "calibrate"].set_index("image_id")["logit"]
    return side_of(rows, len(targets.usable("train")), judged), targets


def side_of(rows: Sequence[Mapping[str, float]], films: int, scores: pd.Series) -> Side:
    return Side(
        times=tuple(row["time"] for row in rows), aucs=tuple(row["auc"] for row in rows), films=films, scores=scores
    )


def film_table(course: Course, dataset: Path, targets: Targets) -> pd.DataFrame:
    """The films of both sides as fastai reads them: the files themselves, with hilum's parts and training labels."""
    frame = pd.read_parquet(dataset / "labels.parquet").set_index("image_id")
    part = np.array(PARTS)[targets.part]
    names = targets.image_id.astype(str)
    table = pd.DataFrame({"image_id": names, "label": targets.value, "part": part})
    table = table[(part == "calibrate") | ~np.isnan(targets.value)].copy()
    table["path"] = [str((course.data / "nih-sample" / "images" / one).resolve())
                     for one in frame.loc[table["image_id"], "path"]]  # fmt: skip
    table["part"] = table["part"].replace({"calibrate": "judged"})
    table["label"] = table["label"].fillna(0).round().astype(int)  # of judged films none is read
    return table


def fastai_side(course: Course, python: Path, films: pd.DataFrame, seed: int) -> Side:
    folder = course.work / f"fastai-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    films.to_csv(folder / "films.csv", index=False)
    settings = {"backbone": course.backbone, "size": course.size, "epochs": course.epochs, "batch": 64, "seed": seed,
                "rate": course.rate, "tries": course.tries}  # fmt: skip
    script = Path(__file__).with_name("peers_fastai.py")
    words = [str(python), str(script), str(folder), json.dumps(settings)]
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    subprocess.run(words, env=kept | {"CUDA_VISIBLE_DEVICES": ""}, check=True, stdout=subprocess.DEVNULL)
    found = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    return side_of(found["epochs"], found["films"], pd.Series(found["scores"]))


def auc_difference(dataset: Path, ours: Sequence[Side], theirs: Sequence[Side]) -> tuple[Interval, float, float]:
    """hilum minus fastai on the judged films, mean over the rounds, paired over patients; and both AUCs."""
    frame = pd.read_parquet(dataset / "labels.parquet").set_index("image_id")
    names = [name for name in ours[0].scores.index if frame[SLUG].isin([0, 1])[name]]  # the reference labels
    truth = frame.loc[names, SLUG].to_numpy(float)
    patients = PatientBootstrap(frame.loc[names, "patient_id"])
    sides = [
        np.mean([patients.rank_scores(one.scores[names].to_numpy(), truth)["auc"] for one in side], axis=0)
        for side in (ours, theirs)
    ]
    return interval(sides[0] - sides[1]), float(sides[0][0]), float(sides[1][0])


def run(course: Course, rounds: int) -> tuple[Path, list[Side], list[Side]]:
    python = environment(course.work / "fastai")
    dataset = make_dataset(course)
    ours, theirs = [], []
    _, targets = hilum_side(Course(**vars(course) | {"epochs": 1}), dataset, 0)  # the parts and labels of both
    films = film_table(course, dataset, targets)
    for seed in range(rounds):
        for mine in (True, False) if seed % 2 == 0 else (False, True):
            if mine:
                ours.append(hilum_side(course, dataset, seed)[0])
            else:
                theirs.append(fastai_side(course, python, films, seed))
    return dataset, ours, theirs


def epoch_rows(ours: Side, theirs: Side) -> list[list[str]]:
    def seconds(side: Side, index: int) -> str:
        return "" if index == 0 else f"{side.times[index] - side.times[index - 1]:.1f}"

    return [
        [str(index + 1), seconds(ours, index), f"{ours.aucs[index]:.3f}", seconds(theirs, index),
         f"{theirs.aucs[index]:.3f}"]
        for index in range(len(ours.times))
    ]  # fmt: skip


def main(words: list[str] | None = None) -> int:
    here = Path(__file__).resolve().parent.parent
    data = Path(os.environ.get("HILUM_TEST_DATA", here.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=data, help="folder that holds nih-sample")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the environment and the results")
    parser.add_argument("--backbone", default="resnet18", help="timm model (default resnet18)")
    parser.add_argument("--size", type=int, default=128, help="pixels a side (default 128)")
    parser.add_argument("--epochs", type=int, default=12, help="of both sides (default 12)")
    parser.add_argument("--rounds", type=int, default=3, help="of both sides, in turn, a seed each (default 3)")
    parser.add_argument("--rate", type=float, default=0, help="fastai's peak learning rate (default: its finder's)")
    parser.add_argument("--tries", type=int, default=60, help="steps of its finder (default 60)")
    parser.add_argument("--check", action="store_true", help="exit 1 where a stated figure is not reached")
    options: Any = parser.parse_args(words)
    if options.epochs < 2:
        parser.error("--epochs: at least 2, since the first one warms up")
    load_catalog()
    course = Course(data=options.data, work=options.work.resolve(), backbone=options.backbone, size=options.size,
                    epochs=options.epochs, rate=options.rate, tries=options.tries)  # fmt: skip
    dataset, ours, theirs = run(course, options.rounds)
    columns = ("epoch", "hilum s", "AUC on select", "fastai s", "AUC on select")
    print(aligned(columns, epoch_rows(ours[-1], theirs[-1])))
    rates = [statistics.median(side.rate for side in sides) for sides in (ours, theirs)]
    gap, our_auc, their_auc = auc_difference(dataset, ours, theirs)
    judged = [["hilum", f"{rates[0]:.1f}", f"{our_auc:.3f}"], ["fastai", f"{rates[1]:.1f}", f"{their_auc:.3f}"]]
    print(aligned(("side", "images/s", "AUC on calibrate"), judged))
    times = rates[0] / rates[1]
    print(f"hilum is {times:.2f} times as fast (wanted: {FASTER}); its AUC minus fastai's is {gap.value:+.3f} "
          f"({gap.low:+.3f} to {gap.high:+.3f}; wanted: not wholly below 0).")  # fmt: skip
    return int(options.check and (times < FASTER or not gap.high >= 0))


if __name__ == "__main__":
    sys.exit(main())
