"""Synthetic thorax radiographs with planted findings, written in CheXpert's own layout.

In: PhantomConfig. Out: a folder with train.csv (CheXpert's header), truth.csv (what was planted), train/patient.../
study.../view..._frontal.jpg, and phantom.json, written last: with it the folder is complete. Called by `hilum phantom`
and by tests. The same seed gives the same bytes, whatever the number of processes; more patients extend the set.
"""

import io
import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pathologies.errors import InputError
from pathologies.phantom.films import FilmRequest, render_example, render_film
from pathologies.phantom.labels import clean_labels, report_labels
from pathologies.phantom.patients import FINDINGS, PREVALENCES, Patient, Study, draw_patient, stream

__all__ = ["HEADER", "PhantomConfig", "draw_labels", "render_example", "write_phantom"]

logger = logging.getLogger(__name__)

PREFIX = "CheXpert-v1.0-small/"
FORMAT = "hilum-phantom/1"
JPEG_QUALITY = 90
_COLUMNS = {
    "no_finding": "No Finding",
    **{finding: finding.replace("_", " ").title() for finding in FINDINGS},
    "support_devices": "Support Devices",
}
HEADER = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *_COLUMNS.values())
LABEL_STYLES = ("clean", "chexpert")
PATIENTS_PER_WORKER = 16  # at least; fewer are not worth the start of a process
_LABEL_STREAM = 16


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """Everything that decides the bytes of a phantom, and `workers`, which does not."""

    patients: int = 900  # with 1.66 studies each on average
    seed: int = 0
    size: int = 320  # longer side of a film, pixels
    prevalence: str = "demo"  # demo: 15 to 35 % of the films per finding; chexpert: about CheXpert's own
    labels: str = "clean"  # clean: the truth as 1 and 0; chexpert: 1, 0, -1 and blank as a report labeller gives them
    strength: float = 1.0  # how pronounced the signs are
    laterals: bool = True
    workers: int | None = None  # processes; None: one per CPU

    def __post_init__(self) -> None:
        _check(self.prevalence in PREVALENCES, "prevalence", self.prevalence, ", ".join(PREVALENCES))
        _check(self.labels in LABEL_STYLES, "labels", self.labels, ", ".join(LABEL_STYLES))
        _check(1 <= self.patients <= 99_999, "patients", self.patients, "1 to 99999")
        _check(self.seed >= 0, "seed", self.seed, "0 or more")
        _check(32 <= self.size <= 2048, "size", self.size, "32 to 2048")
        _check(0 <= self.strength <= 3, "strength", self.strength, "0 to 3")
        _check(self.workers is None or self.workers >= 1, "workers", self.workers, "1 or more, or none")

    def identity(self) -> dict[str, object]:
        """What the bytes depend on, as it is stored in phantom.json."""
        return {key: value for key, value in asdict(self).items() if key != "workers"}


def _check(valid: bool, key: str, value: object, allowed: str) -> None:
    if not valid:
        raise InputError(f"Phantom setting {key}={value!r} is not possible. Allowed: {allowed}")


def draw_labels(config: PhantomConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(train, truth): the two tables in CheXpert's columns, one row per view, without drawing any film."""
    rows: list[tuple[dict, dict]] = [
        row for number in range(1, config.patients + 1) for row in _rows(config, _patient(config, number))
    ]
    train, truth = (pd.DataFrame([row[index] for row in rows], columns=list(HEADER)) for index in (0, 1))
    return train, truth


def write_phantom(out: Path, config: PhantomConfig, on_image: Callable[[int, int], None] | None = None) -> Path:
    """Writes the phantom below `out` and returns the path of train.csv; `on_image(done, total)` reports progress.

    A complete folder of the same config is left alone, an incomplete one is completed; another config is an InputError.
    """
    out = Path(out)
    marker, started = out / "phantom.json", out / "phantom.partial.json"
    if _same_config(marker, config):
        return out / "train.csv"
    if not _same_config(started, config):
        _write(started, _marker_bytes(config))
    train, truth = draw_labels(config)
    _draw_films(out, config, len(train), on_image)
    for leftover in out.rglob(".*.tmp"):  # of a run that was killed
        leftover.unlink()
    _write(out / "truth.csv", truth.to_csv(index=False, lineterminator="\n").encode())
    _write(out / "train.csv", train.to_csv(index=False, lineterminator="\n").encode())
    _write(marker, _marker_bytes(config))
    started.unlink(missing_ok=True)
    logger.info("Phantom of %d patients, %d films in %s", config.patients, len(train), out)
    return out / "train.csv"


def _patient(config: PhantomConfig, number: int) -> Patient:
    return draw_patient(config.seed, number, config.prevalence, config.laterals)


def _views(patient: Patient) -> Iterator[tuple[Study, bool, str]]:
    """(study, lateral?, path below the folder) of each film."""
    for study in patient.studies:
        folder = f"train/{patient.name}/study{study.number}"
        yield study, False, f"{folder}/view1_frontal.jpg"
        if study.lateral:
            yield study, True, f"{folder}/view2_lateral.jpg"


def _rows(config: PhantomConfig, patient: Patient) -> Iterator[tuple[dict, dict]]:
    """(row of train.csv, row of truth.csv) of each film; the views of a study share its report."""
    for study, lateral, path in _views(patient):
        start = {
            "Path": PREFIX + path,
            "Sex": patient.sex,
            "Age": patient.age,
            "Frontal/Lateral": "Lateral" if lateral else "Frontal",
            "AP/PA": "" if lateral else study.projection,
        }
        truth = clean_labels(study)
        labels = truth
        if config.labels == "chexpert":
            labels = report_labels(study, stream(config.seed, patient.number, study.number, _LABEL_STREAM))
        yield tuple(start | {_COLUMNS[key]: value for key, value in values.items()} for values in (labels, truth))


def _draw_films(out: Path, config: PhantomConfig, total: int, on_image: Callable[[int, int], None] | None) -> None:
    workers = min(config.workers or _cpus(), -(-config.patients // PATIENTS_PER_WORKER))
    task = partial(_write_patient, out, config)
    numbers = range(1, config.patients + 1)
    done = 0
    if workers == 1:
        for count in map(task, numbers):
            done = _report(done + count, total, on_image)
        return
    # spawn: no thread of the caller (torch, Ray) is ever forked; an executor fails where a pool would start for ever
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_leave_interrupt_to_parent) as pool:
        blocks = [pool.submit(_write_patients, task, numbers[at : at + 8]) for at in range(0, len(numbers), 8)]
        try:
            for block in as_completed(blocks):
                done = _report(done + block.result(), total, on_image)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _write_patients(task: Callable[[int], int], numbers: Sequence[int]) -> int:
    return sum(map(task, numbers))


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _leave_interrupt_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _report(done: int, total: int, on_image: Callable[[int, int], None] | None) -> int:
    if on_image:
        on_image(done, total)
    return done


def _write_patient(out: Path, config: PhantomConfig, number: int) -> int:
    """Writes the films of one patient that are not there yet; the number of its films."""
    patient = _patient(config, number)
    views = list(_views(patient))
    for study, lateral, path in views:
        if (out / path).exists():
            continue
        request = FilmRequest(
            seed=config.seed,
            patient=patient,
            study=study,
            lateral=lateral,
            size=config.size,
            strength=config.strength,
        )
        _write(out / path, _jpeg(render_film(request)))
    return len(views)


def _jpeg(film: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(film).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _marker_bytes(config: PhantomConfig) -> bytes:
    return (json.dumps({"format": FORMAT, **config.identity()}, indent=1, sort_keys=True) + "\n").encode()


def _same_config(marker: Path, config: PhantomConfig) -> bool:
    """Whether the marker is there; InputError that shows the difference if it tells of another config."""
    if not marker.exists():
        return False
    stored = json.loads(marker.read_text())
    wanted = {"format": FORMAT, **config.identity()}
    keys = ["format", *(field.name for field in fields(config) if field.name != "workers")]
    different = [
        f"{key}: there {stored.get(key)!r}, asked {wanted[key]!r}" for key in keys if stored.get(key) != wanted[key]
    ]
    if different:
        raise InputError(
            f"{marker.parent} holds another phantom ({'; '.join(different)}). Choose another folder or delete this one"
        )
    return True
