"""hilum beside fastai's Learner on real films: images a second, seconds and AUC of every epoch, and who tells better.

In: nih-sample of the test data (HILUM_TEST_DATA, or --data) and a folder (--work), in which a data set, fastai's
environment and all sides' results are made. Out: tables. All sides train the same timm network from scratch, on the
same films at the same size, for the same epochs, and look at the same part `select` after every epoch; images a second
count training and validation, from the end of the first epoch on. fastai runs in two forms: its standard recipe (batch
64, the files decoded and resized in every epoch, no normalisation, fp32) and at its best (hilum's batch and so its
number of updates, films resized beforehand, normalised, hilum's precision). The sides are judged on `calibrate`, which
none trains or chooses with; `test` is empty here, so nothing of it is read. With --check, exit code 1 unless hilum is
1.8 times as fast as the standard form, no slower than the best one, and neither 95 % interval (over patients, paired)
of the AUC difference is wholly below 0.
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
from PIL import Image

from bench.sides import cores
from models.config import TrainConfig
from models.data.cache import open_images
from models.data.targets import PARTS, Targets
from models.files.layout import DatasetPaths, RunPaths, read_json
from models.statistics.bootstrap import Interval, PatientBootstrap, interval
from models.training.cpu_features import cpu_precision
from orchestrator.datasets.prepare import prepare
from orchestrator.datasets.request import PrepareRequest
from orchestrator.formatting import aligned
from orchestrator.planning.plan import TrainRequest, plan_run
from pathologies.findings.catalog import load_catalog

FORMS = ("standard", "best")
FASTER = {"standard": 1.8, "best": 1.0}
BATCH = {"standard": 64, "best": TrainConfig.batch_size}
SLUG = "pneumonia"
FRACTIONS = (0.6, 0.1, 0.3, 0.0)
PACKAGES = ("fastai", "timm")
JOB = """import json, sys, time; from pathlib import Path; from models.process.job import run_job
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


def resize_films(films: pd.DataFrame, dataset: Path, folder: Path) -> pd.DataFrame:
    """The same table, with films that are resized beforehand: hilum's own pixels as PNG, so both see the same ones."""
    folder.mkdir(exist_ok=True)
    pixels = open_images(dataset)
    row = {name: number for number, name in enumerate(pd.read_parquet(dataset / "labels.parquet")["image_id"])}
    paths = [folder / f"{row[name]}.png" for name in films["image_id"]]
    for path, name in zip(paths, films["image_id"], strict=True):
        Image.fromarray(np.asarray(pixels[row[name]])).save(path)
    return films.assign(path=[str(path) for path in paths])


def fastai_side(course: Course, python: Path, films: pd.DataFrame, manifest: Mapping, form: str, seed: int) -> Side:
    folder = course.work / f"fastai-{form}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    films.to_csv(folder / "films.csv", index=False)
    settings = {"backbone": course.backbone, "size": course.size, "epochs": course.epochs, "batch": BATCH[form],
                "seed": seed, "rate": course.rate, "tries": course.tries, "best": form == "best",
                "bf16": cpu_precision() == "bf16",
                "mean": manifest["pixel_mean"], "std": manifest["pixel_std"],
                }  # fmt: skip
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


def run(course: Course, rounds: int) -> tuple[Path, dict[str, list[Side]]]:
    """(the data set, the trainings of each side); who begins changes from round to round."""
    python = environment(course.work / "fastai")
    dataset = make_dataset(course)
    manifest = read_json(DatasetPaths(dataset).manifest)
    _, targets = hilum_side(Course(**vars(course) | {"epochs": 1}), dataset, 0)  # the parts and labels of all sides
    films = {"standard": film_table(course, dataset, targets)}
    films["best"] = resize_films(films["standard"], dataset, course.work / f"films-{course.size}")
    sides: dict[str, list[Side]] = {name: [] for name in ("hilum", *FORMS)}
    names = tuple(sides)
    for seed in range(rounds):
        for name in names[seed % 3 :] + names[: seed % 3]:
            if name == "hilum":
                sides[name].append(hilum_side(course, dataset, seed)[0])
            else:
                sides[name].append(fastai_side(course, python, films[name], manifest, name, seed))
    return dataset, sides


def epoch_rows(sides: Sequence[Side]) -> list[list[str]]:
    """A row per epoch: its number, then each side's seconds and AUC."""

    def seconds(side: Side, index: int) -> str:
        return "" if index == 0 else f"{side.times[index] - side.times[index - 1]:.1f}"

    return [
        [str(index + 1), *(cell for side in sides for cell in (seconds(side, index), f"{side.aucs[index]:.3f}"))]
        for index in range(len(sides[0].times))
    ]


def main(words: list[str] | None = None) -> int:
    here = Path(__file__).resolve().parent.parent
    data = Path(os.environ.get("HILUM_TEST_DATA", here.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=data, help="folder that holds nih-sample")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the environment and the results")
    parser.add_argument("--backbone", default="resnet18", help="timm model (default resnet18)")
    parser.add_argument("--size", type=int, default=128, help="pixels a side (default 128)")
    parser.add_argument("--epochs", type=int, default=12, help="of all sides (default 12)")
    parser.add_argument("--rounds", type=int, default=3, help="of all sides, in turn, a seed each (default 3)")
    parser.add_argument("--rate", type=float, default=0, help="fastai's peak learning rate (default: its finder's)")
    parser.add_argument("--tries", type=int, default=60, help="steps of its finder (default 60)")
    parser.add_argument("--check", action="store_true", help="exit 1 where a stated figure is not reached")
    options: Any = parser.parse_args(words)
    if options.epochs < 2:
        parser.error("--epochs: at least 2, since the first one warms up")
    load_catalog()
    course = Course(data=options.data, work=options.work.resolve(), backbone=options.backbone, size=options.size,
                    epochs=options.epochs, rate=options.rate, tries=options.tries)  # fmt: skip
    dataset, sides = run(course, options.rounds)
    columns = [word for name in sides for word in (f"{name} s", "AUC on select")]
    print(aligned(("epoch", *columns), epoch_rows([tries[-1] for tries in sides.values()])))
    rates = {name: statistics.median(side.rate for side in tries) for name, tries in sides.items()}
    gaps = {form: auc_difference(dataset, sides["hilum"], sides[form]) for form in FORMS}
    judged = [["hilum", f"{rates['hilum']:.1f}", f"{gaps['best'][1]:.3f}"]]
    judged += [[f"fastai, {form}", f"{rates[form]:.1f}", f"{gaps[form][2]:.3f}"] for form in FORMS]
    print(aligned(("side", "images/s", "AUC on calibrate"), judged))
    missed = [form for form in FORMS if verdict(form, rates["hilum"] / rates[form], gaps[form][0])]
    return int(options.check and bool(missed))


def verdict(form: str, times: float, gap: Interval) -> bool:
    """Say how hilum stands beside one form; True where a stated figure is not reached."""
    print(f"hilum is {times:.2f} times as fast as fastai's {form} form (wanted: {FASTER[form]}); its AUC minus "
          f"fastai's is {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}; wanted: not wholly below 0).")  # fmt: skip
    return times < FASTER[form] or not gap.high >= 0


if __name__ == "__main__":
    sys.exit(main())
