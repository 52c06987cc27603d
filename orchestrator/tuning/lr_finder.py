"""Which learning rate suits a finding: the range test on a prepared data set, its figures and its picture.

In: a DATASET, a finding, settings of TrainConfig. Out: a RangeTest, and PNG and JSON files of it. Called by
`hilum lr-find`. It works in a scratch folder: no run is read or changed.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.files.layout import AttemptPaths, DatasetPaths, TargetPaths, write_json
from models.process.job import open_task
from models.training.device import available_device
from models.training.lr_range_test import PASSES, Ramp, RangeTest, run_range_test
from orchestrator.datasets.labelled import read_material
from orchestrator.planning.backbones import require_films
from orchestrator.planning.plan import Job, chosen_targets, resolved_config, write_job
from orchestrator.plotting import BLUE, GREY, ORANGE, STYLE, pyplot, save_figure
from pathologies.errors import InputError

BY_HEART = 0.05  # of the first loss
SUFFIXES = (".png", ".json")


@dataclass(frozen=True, kw_only=True)
class RateRequest:
    """What `hilum lr-find` was asked for."""

    dataset: Path
    target: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    ramp: Ramp = Ramp()
    findings: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RateResult:
    slug: str
    config: Mapping[str, Any]  # of the training that was tested
    test: RangeTest


def find_rate(request: RateRequest, on_step: Callable[[int, int], None] | None = None) -> RateResult:
    """Run the test in this process. Errors: InputError for a finding or a setting that there is not."""
    material = read_material(request.dataset, request.findings)
    slug = chosen_targets((request.target,), material.dataset.manifest["findings"], material.catalog)[0]
    device, finding = available_device("auto"), material.catalog[slug]
    config = resolved_config(finding, request.settings, 0, device, card="auto")  # of this process's own GPU
    require_films(config, material.dataset.manifest["size"])
    with tempfile.TemporaryDirectory(prefix="hilum-") as folder:
        paths = TargetPaths(Path(folder))
        write_job(Job(slug=slug, member=0, paths=paths, config=config), material)
        task = open_task(DatasetPaths(request.dataset), paths, AttemptPaths(paths.root / "1"), lambda: None)
        test = run_range_test(task, request.ramp, on_step)
    return RateResult(slug=slug, config=config.to_dict(), test=test)


def suggestions(result: RateResult) -> tuple[list[list[str]], list[str]]:
    """(rows: rate and what it is; notes in words)."""
    test, notes = result.test, []
    named = ((test.steepest, "steepest descent: the loss falls fastest here"),
             (test.tenth, "a tenth of the rate at which the loss ran away"),
             (test.diverged, "the loss ran away"),
             (result.config["learning_rate"], "learning_rate as it is set"))  # fmt: skip
    if test.steepest is None:
        notes.append("The loss did not fall to speak of: no descent to choose by. More --steps, or larger batches?")
    if test.diverged is None and test.smoothed.min() < BY_HEART * test.smoothed[0]:
        notes.append("The loss never ran away: the network knew the films by heart before any rate could harm it.")
    elif test.diverged is None:
        notes.append(f"The loss never ran away up to {test.rates[-1]:.1e}: a higher --high would find the edge.")
    if test.passes > PASSES + 0.5:
        notes.append(
            f"Every film was seen {test.passes:.0f} times, so at the higher rates the network may have known them by "
            "heart. Fewer --steps show less of that."
        )
    if test.steepest is not None:  # a tenth of the divergence alone says nothing about what is learned there
        notes.append(f"Next: hilum train ... --set learning_rate={test.steepest:.1e} (the peak of the schedule).")
    return [[f"{rate:.1e}", words] for rate, words in named if rate is not None], notes


def check_outputs(paths: list[Path]) -> None:
    """Before the work: only pictures and JSON are written."""
    wrong = [str(path) for path in paths if path.suffix.lower() not in SUFFIXES]
    if wrong:
        raise InputError(f"--out {wrong[0]}: the picture is written as .png, the figures as .json.")


def write_result(result: RateResult, path: Path) -> None:
    if path.suffix.lower() == ".json":
        write_json(path, {"target": result.slug, "config": result.config} | result.test.to_dict())
    else:
        draw_result(result, path)


def draw_result(result: RateResult, path: Path) -> Path:
    """Loss over rate, the suggestions, where it diverged, and the rate of the configuration."""
    plt, test = pyplot(), result.test
    marks = (
        ("steepest descent", test.steepest, BLUE, "-"),
        ("a tenth of the divergence", test.tenth, ORANGE, "--"),
        ("diverged", test.diverged, ORANGE, ":"),
        ("now set: learning_rate", result.config["learning_rate"], GREY, "-."),
    )
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.5, 5), layout="constrained")
        axis.plot(test.rates, test.losses, ".", color=GREY, alpha=0.5, markersize=4, label="loss of each step")
        axis.plot(test.rates, test.smoothed, color="black", linewidth=2, label="smoothed")
        for name, rate, colour, line in marks:
            if rate is not None:
                axis.axvline(rate, color=colour, linestyle=line, linewidth=1.5, label=f"{name}: {rate:.1e}")
        axis.set(xscale="log", xlabel="learning rate, rising with each step", ylabel="training loss")
        axis.set_ylim(0, 1.1 * test.smoothed.max())
        axis.set_title(
            f"{result.slug}: learning-rate range test, {len(test.rates)} steps ({result.config['backbone']})"
        )
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        return save_figure(figure, path)
