"""Two runs, or two kinds of networks in one run: which is better for which finding, and at what cost.

In: a CompareRequest. Out: a RunComparison with a row per finding: both AUCs on the reference labels and their paired
difference over resampled patients; `comparison_rows` and `comparison_sentences` say it to a reader. An interval holds
for its finding alone; which side is called better rests on p values adjusted for the number of findings. Called by
`hilum compare`. Works on stored predictions; several members of a side count as the mean of their logits. Where part
`test` is judged, the reading is logged in both runs before its labels are looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.files.layout import RunPaths, read_json
from models.statistics.bootstrap import Interval, PatientBootstrap, holm, interval, p_value
from models.statistics.metrics import undefined_reason
from orchestrator.datasets.dataset import differing
from orchestrator.datasets.labelled import Material
from orchestrator.ensembling.build import run_material, trained_members
from orchestrator.ensembling.logit_tables import mean_logits
from orchestrator.ensembling.members import Trained
from orchestrator.ensembling.pipeline import patient_power
from orchestrator.evaluation.scoring import judged, mean_figures, resamples_note
from orchestrator.evaluation.training_cost import Cost, cost_of, epochs_of, span_of
from orchestrator.formatting import number, signed
from orchestrator.storage.workspace import Workspace, append_line
from pathologies.errors import InputError

JUDGED_PARTS = ("calibrate", "test", "select")
BLEND = "both blended"
NO_DIFFERENCE = "no difference shown"
SIGNIFICANT = 0.05  # of an adjusted p


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    run_a: Path
    run_b: Path
    use_a: str = "both"  # which networks of the run: single, shared, both
    use_b: str = "both"
    part: str = "calibrate"
    dataset: Path | None = None  # none: the one that run_a was planned on
    targets: tuple[str, ...] = ()
    findings: Path | None = None
    blend: bool = False  # also the mean of both sides' logits, against the better of the two
    resamples: int = 1000
    workspace: Workspace = field(default_factory=Workspace, compare=False)  # in which the runs were opened


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison."""

    name: str
    run: RunPaths
    trained: Mapping[str, list[Trained]]
    cost: Cost

    @property
    def kind(self) -> str:
        """single, shared, heads, or both for more than one of them."""
        kinds = {one.kind for members in self.trained.values() for one in members}
        return kinds.pop() if len(kinds) == 1 else "both"

    @property
    def folds(self) -> bool:
        """Whether any of its networks are of a cross-validation."""
        return any(one.fold for members in self.trained.values() for one in members)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One finding. Without both classes there are no figures, and `problem` says so."""

    slug: str
    positives: int
    negatives: int
    auc: tuple[float, float]
    gap: Interval  # AUC of the first side minus that of the second
    p: float  # of no difference, for this finding alone
    p_holm: float  # adjusted for all findings that are judged; NaN for one that is not
    epochs: tuple[str, str]
    better: str  # the name of a side, or NO_DIFFERENCE
    problem: str  # underpowered, or why there is no AUC; else nothing
    blend: float | None = None  # AUC
    blend_gap: Interval | None = None  # of the blend and the better of the two


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    names: tuple[str, str]
    kinds: tuple[str, str]
    costs: tuple[Cost, Cost]
    rows: tuple[Row, ...]
    mean_gap: Interval  # over the findings that have an AUC
    part: str
    films: int
    patients: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare_runs(request: CompareRequest) -> RunComparison:
    """Judge both sides on the same films. Errors: other data or another split; nothing in common; an unknown part."""
    if request.part not in JUDGED_PARTS:
        raise InputError(f"Networks are compared on part {', '.join(JUDGED_PARTS)}; {request.part!r} is none of them.")
    runs = RunPaths(request.run_a), RunPaths(request.run_b)
    places = tuple(request.workspace.address(run.root) for run in runs)
    if request.use_a == request.use_b and places[0] == places[1]:
        raise InputError(
            "Both sides are the same networks. Give two runs, or one run twice with --use-a single --use-b shared."
        )
    material = run_material(runs[0], request.dataset, request.findings, request.workspace)
    require_same_split(*runs)
    uses = request.use_a, request.use_b
    names = _names(places, uses)
    found = [
        trained_members(run, request.targets, material.catalog, use=use)[0] for run, use in zip(runs, uses, strict=True)
    ]
    if request.part == "select" and any(
        one.head for trained in found for members in trained.values() for one in members
    ):
        raise InputError("Heads learn from part select too, so they are not judged on it. Give --part calibrate.")
    common = [slug for slug in found[0] if slug in found[1]]
    if not common:
        raise InputError(f"No finding in common: {', '.join(found[0])} and {', '.join(found[1])}.")
    alone = [f"{name}: {', '.join(only)}" for name, trained in zip(names, found, strict=True)
             if (only := [slug for slug in trained if slug not in common])]  # fmt: skip
    sides = []
    for name, run, trained in zip(names, runs, found, strict=True):
        kept = {slug: trained[slug] for slug in common}
        cost = cost_of(one for members in kept.values() for one in members)
        sides.append(Side(name=name, run=run, trained=kept, cost=cost))
    notes = [f"Left out, since only one side has it: {'; '.join(alone)}."] if alone else []
    return judge_sides((sides[0], sides[1]), material, request, notes)


def require_same_split(first: RunPaths, second: RunPaths) -> None:
    """InputError unless both runs are of the same films, labels and parts."""
    if not second.plan.exists():
        raise FileNotFoundError(f"{second.root} is not a run: it has no plan.json. Make one with `hilum train`.")
    changed = differing(*(read_json(run.plan)["data"] for run in (first, second)))
    if changed:
        raise InputError(
            f"{first.root} and {second.root} cannot be compared: {', '.join(changed)} differ. Only runs on the same "
            "data set and parts are judged on films that neither has learned from."
        )


def _names(places: tuple[str, ...], uses: tuple[str, str]) -> tuple[str, str]:
    if places[0] == places[1]:
        return uses
    folders = [Path(place).name for place in places]
    return (folders[0], folders[1]) if folders[0] != folders[1] else ("A", "B")


def judge_sides(
    sides: tuple[Side, Side], material: Material, request: CompareRequest, notes: list[str]
) -> RunComparison:
    """The figures of both sides on the part."""
    slugs = list(sides[0].trained)
    logits = [{slug: mean_logits(side.trained[slug], request.part) for slug in slugs} for side in sides]
    if request.part == "test":
        _log_reading(sides, material, request)
    scores = [pd.DataFrame(one) for one in logits]
    films = scores[0].index.intersection(scores[1].index)
    beyond = len(scores[0].index.union(scores[1].index)) - len(films)
    notes = [*notes, *_fold_notes(sides, request.part)]
    if beyond and sides[0].folds == sides[1].folds:
        notes.append(f"{beyond} films were left out: the networks of one side do not take their view.")
    patients = material.patients.reindex(films).to_numpy(str)
    truth = pd.DataFrame({slug: material.truth(slug).reindex(films) for slug in slugs})
    bootstrap = PatientBootstrap(patients, resamples=request.resamples)
    rows, gaps = [], []
    for slug in slugs:
        row, gap = _row(slug, sides, [one.loc[films] for one in scores], truth, bootstrap, request.blend)
        rows.append(row)
        gaps.append(gap)
    rows = adjusted(rows, (sides[0].name, sides[1].name))
    notes = [*notes, *resamples_note(request.resamples, sum(not row.problem for row in rows))]
    return RunComparison(
        names=(sides[0].name, sides[1].name),
        kinds=(sides[0].kind, sides[1].kind),
        costs=(sides[0].cost, sides[1].cost),
        rows=tuple(rows),
        mean_gap=interval(mean_figures([gap for gap in gaps if not np.isnan(gap[0])])),
        part=request.part,
        films=len(films),
        patients=len(np.unique(patients)),
        notes=tuple(notes),
    )


def _fold_notes(sides: tuple[Side, Side], part: str) -> list[str]:
    """What has to be known where a side is a cross-validation and part `calibrate` is judged."""
    names = [side.name for side in sides if side.folds]
    if part != "calibrate" or not names:
        return []
    films = "each film of train, select and calibrate" if len(names) == 2 else "each film"
    notes = [
        f"{' and '.join(names)}: {films} is judged by the network that did not learn from it, one of the folds'; the "
        "mean of all, which a bundle asks, is judged on part test alone."
    ]
    if len(names) == 1:
        notes.append(
            "Judged are the films of part calibrate alone: the networks without folds learned from the others."
        )
    return notes


def _row(
    slug: str, sides: tuple[Side, Side], scores: list[pd.DataFrame], truth: pd.DataFrame, bootstrap, blend: bool
) -> tuple[Row, np.ndarray]:
    """One finding, and its difference in every resample."""
    (first, answer), (second, other) = (judged(one, truth, slug) for one in scores)
    answer = np.where(np.isnan(other), np.nan, answer)
    areas = {name: bootstrap.rank_scores(score, answer)["auc"]
             for name, score in ((sides[0].name, first), (sides[1].name, second), (BLEND, (first + second) / 2))
             if blend or name != BLEND}  # fmt: skip
    gap = areas[sides[0].name] - areas[sides[1].name]
    row = Row(
        slug=slug,
        positives=int((answer == 1).sum()),
        negatives=int((answer == 0).sum()),
        auc=(float(areas[sides[0].name][0]), float(areas[sides[1].name][0])),
        gap=interval(gap),
        p=p_value(gap),
        p_holm=float("nan"),
        epochs=tuple(span_of(epochs_of(side.trained[slug])) for side in sides),
        better=NO_DIFFERENCE,
        problem=problem_of(answer, bootstrap),
        blend=float(areas[BLEND][0]) if blend else None,
        blend_gap=against_the_better(areas[BLEND], *list(areas.values())[:2]) if blend else None,
    )
    return row, gap


def adjusted(rows: Sequence[Row], names: tuple[str, str]) -> list[Row]:
    """The rows with p adjusted over those that are judged, and with who is better, which rests on it."""
    corrected = holm([float("nan") if row.problem else row.p for row in rows])
    found = []
    for row, p in zip(rows, corrected, strict=True):
        better = names[0 if row.gap.value > 0 else 1] if p < SIGNIFICANT else NO_DIFFERENCE
        found.append(replace(row, p_holm=float(p), better=better))
    return found


def against_the_better(blend: np.ndarray, first: np.ndarray, second: np.ndarray) -> Interval:
    """The blend's figure minus that of the side whose figure is higher on these films, paired."""
    return interval(blend - (first if first[0] >= second[0] else second))


def problem_of(truth: np.ndarray, bootstrap: PatientBootstrap) -> str:
    """Why a finding cannot be judged here; nothing where it can. Cases are counted in patients."""
    return undefined_reason(truth) or ("underpowered" if patient_power(truth, bootstrap.patient).underpowered else "")


def _log_reading(sides: tuple[Side, Side], material: Material, request: CompareRequest) -> None:
    """Before the labels are looked at: a reading that crashes has been a reading."""
    address = request.workspace.address
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "compare",
        "runs": [Path(address(side.run.root)).name for side in sides],
        "use": [request.use_a, request.use_b],
        "split_hash": material.dataset.manifest["split_hash"],
    }
    for place in dict.fromkeys(address(side.run.test_reads) for side in sides):
        append_line(place, entry)


def comparison_frame(found: RunComparison) -> pd.DataFrame:
    """The figures, a row per finding; `difference` is the first side's AUC minus the second's."""
    rows = []
    for row in found.rows:
        gap = {"difference": row.gap.value, "low": row.gap.low, "high": row.gap.high, "p": row.p, "p_holm": row.p_holm}
        aucs = {"auc_a": row.auc[0], "auc_b": row.auc[1]} | ({} if row.blend is None else {"auc_blend": row.blend})
        counts = {"positives": row.positives, "negatives": row.negatives}
        rows.append({"finding": row.slug} | counts | aucs | gap | {"better": row.better, "problem": row.problem})
    return pd.DataFrame(rows).set_index("finding")


def comparison_rows(found: RunComparison) -> tuple[list[str], list[list[str]]]:
    """(titles, rows of text) for a terminal."""
    first, second = found.names
    titles = [
        "finding",
        "pos",
        "neg",
        f"AUC {first}",
        f"AUC {second}",
        "difference (95 % interval)",
        "p (Holm)",
        "better",
    ]
    titles += [f"epochs {first}", f"epochs {second}"]
    blended = any(row.blend_gap for row in found.rows)
    titles += [f"AUC {BLEND}", "against the better of the two"] if blended else []
    rows = []
    for row in found.rows:
        cells = [row.slug, str(row.positives), str(row.negatives), number(row.auc[0]), number(row.auc[1])]
        cells += [signed(**row.gap.bounds), number(row.p_holm), row.problem or row.better, *row.epochs]
        rows.append([*cells, number(row.blend), signed(**row.blend_gap.bounds)] if row.blend_gap else cells)
    width = len(titles) - 6
    return titles, [*rows, ["mean", "", "", "", "", signed(**found.mean_gap.bounds), *[""] * width]]
