"""hilum from Python: `from orchestrator import prepare, train, tune, ensemble, evaluate, predict, compare, load_bundle`

In: what the command of the same name takes, by keywords named as its options, with the same defaults; folders as str,
Path, URI, or as what an earlier call returned. Out: a Result (folder, table, notes), a Bundle, or a table. Called by
notebooks, scripts, and by the commands, which show what comes back. Several names or name=value pairs are taken as on
the command line ("a,b", ["epochs=3"]) or as Python values (["a", "b"], {"epochs": 3}).

Errors, of every function: InputError (a ValueError) or FileNotFoundError where the caller can put it right, in a
sentence; StorageError where object storage does not answer. After an interruption the same call goes on.
`progress`: True prints a line now and then, False is silent, a function gets every event as a dict.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import option_values as values
from orchestrator.option_values import Place, Result, Words, place_of, require_at_least
from orchestrator.progress import OnEvent, listener
from pathologies.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.inference.bundle import Bundle
    from orchestrator.inference.predict import PredictResult

__all__ = ["compare", "ensemble", "evaluate", "load_bundle", "predict", "prepare", "train", "tune"]

Settings = Mapping[str, Any] | Iterable[str] | None
Assignments = Mapping[str, float] | Iterable[str] | None
Progress = bool | OnEvent
FRACTIONS = (0.6, 0.1, 0.15, 0.15)


def prepare(
    source: str, *, labels: Path | str, images: Path | str, out: Place, size: int = 320, patients: int | None = None,
    fractions: str | Iterable[float] = FRACTIONS, seed: int = 0, fold: str | tuple[int, int] | None = None,
    official: bool = False, shared_split: Path | str | None = None, salt: str = "", frontal: bool = False,
    first_studies: int | None = None, projections: Words = (), option: Settings = None,
    findings: Path | str | None = None, max_rejected: float = 0.1, workers: int | None = None,
    intensity: int | None = None, progress: Progress = True,
) -> Result:  # fmt: skip
    """Read a label file, decode and letterbox its images once, split the patients into four parts: a data set at `out`.

    source: chexpert, nih, mimic, vindr, padchest, table. size: pixels of a side. fractions: shares of train, select,
    calibrate, test. fold: (i, k), or "i/k". max_rejected: a share from 0 to 1. The table has films, patients and each
    finding's positives by part; `details` is the manifest.
    """
    import pandas as pd

    from orchestrator.datasets.dataset import is_manifest, part_rows
    from orchestrator.datasets.prepare import prepare as run
    from orchestrator.datasets.request import PrepareRequest
    from orchestrator.storage.workspace import Workspace

    request = partial(
        PrepareRequest, source=source, labels=Path(labels), images=Path(images), size=size, patients=patients,
        fractions=values.read_fractions(fractions), seed=seed, fold=values.read_fold(fold), official=official,
        shared_split=_path(shared_split), salt=salt, frontal=frontal, first_studies=first_studies,
        projections=values.read_words(projections), options=values.read_source_options(option),
        findings=_path(findings), max_rejected=max_rejected, workers=workers, intensity=intensity,
    )  # fmt: skip
    place, tell = place_of(out), listener(progress, "images decoded", print)

    def on_event(event: dict[str, Any]) -> None:
        named = {"message": event["message"].replace(str(folder), str(place))} if "message" in event else {}
        tell(event | named)

    with Workspace() as workspace:
        folder = workspace.write(place, is_manifest, keep=True)
        manifest = run(request(out=folder), on_event)
    titles, rows = part_rows(manifest)
    return Result(folder=place, table=pd.DataFrame(rows, columns=titles).set_index(titles[0]), details=manifest)


def train(
    dataset: Place, *, out: Place, targets: Words = (), set: Settings = None, members: int = 1,
    member_set: Mapping[int, Mapping[str, Any]] | Iterable[str] | None = None, inline: bool = False,
    address: str | None = None, gpus_per_target: float | str | None = None, shared: bool = False, heads: bool = False,
    head: Words = "linear", encoder: str = "", force: bool = False, tuned: Place | None = None,
    findings: Path | str | None = None, folds: int | str = "auto", from_scratch: bool | None = None,
    progress: Progress = True, **further: Any,
) -> Result:  # fmt: skip
    """Train one network per finding and member, each in a process of its own; with `shared`, one for all: a run.

    folds, from_scratch: as --folds and --from-scratch of `hilum train`; left alone, a new run has a shared network
    first, and folds where films are few, and any other goes on as it began. set: training settings by name
    (`hilum settings` lists them). inline: in this process, without Ray. gpus_per_target: a number, or "auto". A
    training that fails is no error: the table has a row per training, its `status` "ok" or another, and why in `error`;
    `details` has the outcomes, `notes` what to do. `further`: fields of TrainRequest.
    heads: fit heads on the features of a frozen encoder (`hilum embed`) instead; head: "linear", "hidden"; encoder: the
    features' name, where the data set has several.
    """
    import pandas as pd

    from orchestrator.planning.plan import TrainRequest
    from orchestrator.planning.recipe import asked_folds, asked_start
    from orchestrator.storage.workspace import Workspace
    from orchestrator.training.launch import train_run
    from orchestrator.training.resources import parse_share, with_ranks

    require_at_least(members=(members, 1))
    if encoder and not heads:
        raise InputError("encoder belongs to heads. What a network starts from is set: pretrained=... or init=...")
    share = parse_share(None if gpus_per_target is None else str(gpus_per_target))
    share = 0.0 if heads and share is None else share
    request = partial(
        TrainRequest, targets=values.read_words(targets), members=members,
        settings=with_ranks(values.read_settings(set), share), member_settings=values.read_member_settings(member_set),
        inline=inline, address=address, gpus_per_target=share, shared=shared, force=force, findings=_path(findings),
        folds=asked_folds(folds), start=asked_start(from_scratch),
        heads=values.read_words(head) if heads else (), encoder=encoder, **further,
    )  # fmt: skip
    place, tuned = place_of(out), place_of(tuned)
    with Workspace() as workspace:
        run, data = workspace.drive(place), workspace.read_dataset(place_of(dataset))
        asked = request(dataset=data, out=run, tuned=workspace.read_run(tuned, "tuned"), workspace=workspace)
        outcomes = train_run(asked, listener(progress, "trained", print))
    untuned = [one["job"] for one in outcomes if one["untuned"]]
    failed = [one["job"] for one in outcomes if one["status"] != "ok"]
    notes = []
    if untuned:
        notes.append(f"{tuned} has no tuned settings of {', '.join(untuned)}: trained with their usual ones.")
    if failed:
        retry = "Each one's outcome.json has the traceback; the same command retries."
        notes.append(f"Not trained: {', '.join(failed)}. {retry}")
    table = pd.DataFrame(outcomes).set_index("job").reindex(columns=OUTCOME)
    return Result(folder=place, table=table, notes=tuple(notes), details=outcomes)


OUTCOME = ["status", "best_epoch", "select_score", "selection_rule", "peak_memory_bytes", "error"]


def tune(
    dataset: Place, *, out: Place, targets: Words = (), trials: int = 20, epochs: int | None = None,
    set: Settings = None, time_budget: float | None = None, gpus_per_trial: float | None = None, members: int = 0,
    keep: int = 5, seed: int = 0, inline: bool = False, address: str | None = None,
    findings: Path | str | None = None, progress: Progress = True,
) -> Result:  # fmt: skip
    """Search better training settings for each finding: a run for `train(..., tuned=RUN)`, or for `ensemble`.

    time_budget: minutes. The table has a row per finding, as text: the scores of the defaults and of the best trial on
    part select, both AUCs on part calibrate, what mattered. `details`: searches, errors (findings without a result) and
    pictures.
    """
    import pandas as pd

    from orchestrator.ray_address import own_cluster
    from orchestrator.storage.workspace import Workspace
    from orchestrator.tuning.report import COLUMNS, table_rows, write_report
    from orchestrator.tuning.study import SearchRequest
    from orchestrator.tuning.tune import tune_run

    require_at_least(trials=(trials, 1), epochs=(epochs, 1), time_budget=(time_budget, 0), keep=(keep, 1))
    require_at_least(gpus_per_trial=(gpus_per_trial, 0), members=(members, 0))
    settings = values.read_settings(set) | ({"epochs": epochs} if epochs else {})
    request = partial(
        SearchRequest, targets=values.read_words(targets), trials=trials, settings=settings, seed=seed,
        time_budget=time_budget, gpus_per_trial=gpus_per_trial, members=members, keep=keep, inline=inline,
        address=address, findings=_path(findings),
    )  # fmt: skip
    place = place_of(out)
    with Workspace() as workspace:
        run, data = workspace.drive_here(place, own_cluster(address)), workspace.read_dataset(place_of(dataset))
        found = tune_run(request(dataset=data, out=run, workspace=workspace), listener(progress, "tried", print))
        rows = table_rows(found["searches"])
        pictures = write_report(found["searches"])
        waiting = sum(len(search.todo()) for search in found["searches"].values())
    notes = [f"{waiting} trials are not finished: the same command goes on with them."] if waiting else []
    notes += [f"{note}." for note in found["notes"]]
    notes += [f"{slug}: {reason}." for slug, reason in found["errors"].items()]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).set_index(COLUMNS[0])
    return Result(folder=place, table=table, notes=tuple(notes), details=found | {"pictures": pictures})


def ensemble(
    run: Place, *, out: Place, dataset: Place | None = None, targets: Words = (), findings: Path | str | None = None,
    consistency: bool = False, tta: bool = False, snapshots: bool = True, use: str = "both",
    replace: Place | None = None, refit_dependents: bool = False, force: bool = False,
) -> "Bundle":  # fmt: skip
    """Combine the networks of a run into one calibrated multi-label predictor: the Bundle at `out`, loaded and tested.

    use: single, shared or both. replace: a bundle of which only the targets are replaced. Figures on part calibrate,
    cross-validated, and what was left out, are in `bundle.description`.
    """
    build(**locals())
    return load_bundle(out)


def build(
    *, run: Place, out: Place, dataset: Place | None, targets: Words, findings: Path | str | None, consistency: bool,
    tta: bool, snapshots: bool, use: str, replace: Place | None, refit_dependents: bool, force: bool,
) -> Mapping[str, Any]:  # fmt: skip
    """The work of `ensemble`; returns what bundle.json says."""
    from orchestrator.ensembling.build import EnsembleRequest, build_bundle
    from orchestrator.ensembling.replace import ReplaceRequest, replace_findings
    from orchestrator.storage.workspace import Workspace

    where = {"targets": values.read_words(targets), "findings": _path(findings), "tta": tta, "snapshots": snapshots}
    where |= {"use": use, "force": force}
    if replace is None and refit_dependents:
        raise InputError("--refit-dependents belongs to --replace BUNDLE.")
    if replace is not None and consistency:
        raise InputError("--consistency is a property of the whole bundle: --replace keeps it as it was.")
    with Workspace() as workspace:
        where |= {"run": workspace.read_run(place_of(run)), "dataset": workspace.read_dataset(place_of(dataset))}
        where |= {"out": workspace.write(place_of(out)), "workspace": workspace}
        if replace is None:
            return build_bundle(EnsembleRequest(**where, consistency=consistency))
        old = workspace.read_bundle(place_of(replace))
        return replace_findings(ReplaceRequest(**where, bundle=old, refit_dependents=refit_dependents))


def load_bundle(bundle: Place, *, device: str = "auto") -> "Bundle":
    """A bundle, read and tested: `bundle.predict(films)`, `bundle.predict_proba(arrays)`, `bundle.slugs`.

    device: cpu, cuda or auto. Errors: also where the self-test's answers differ from those stored.
    """
    from orchestrator.inference.bundle import load_bundle as load
    from orchestrator.storage.workspace import Workspace

    with Workspace() as workspace:
        return load(workspace.read_bundle(place_of(bundle)), device)


def predict(
    bundle: Place, inputs: "str | Path | Iterable[str | Path]", *, out: Path | str = "predictions.csv",
    device: str = "auto", operating_point: str | None = None, threshold: Assignments = None, level: str = "image",
    patient_pattern: str | None = None, study_pattern: str | None = None, conformal: bool = False,
    progress: Progress = True,
) -> "pd.DataFrame":  # fmt: skip
    """Write a table of calibrated probabilities for image files, and return it; `Bundle.predict` writes nothing.

    inputs: images (PNG, JPEG, DICOM), folders, globs, a CSV with a path column. out: .csv or .parquet. level: image,
    study, patient: what a row is. Columns: `path`, a probability in [0, 1] per finding, `<slug>_positive` (1, 0, or
    missing without a useful threshold), with conformal `<slug>_answer` (1, 0, -1 for uncertain). `.attrs` has
    `rejected`, {path: reason}, and `notes`.
    """
    found = answer_files(**locals())
    table = found.predictions.copy()
    table.attrs = {"rejected": dict(found.rejected.itertuples(index=False, name=None)), "notes": list(found.notes)}
    return table


def answer_files(
    *, bundle: Place, inputs: "str | Path | Iterable[str | Path]", out: Path | str, device: str,
    operating_point: str | None, threshold: Assignments, level: str, patient_pattern: str | None,
    study_pattern: str | None, conformal: bool, progress: Progress,
) -> "PredictResult":  # fmt: skip
    """The work of `predict`."""
    from orchestrator.inference.bundle import Bundle
    from orchestrator.inference.identity import Asked
    from orchestrator.inference.predict import PredictRequest
    from orchestrator.inference.predict import predict as run
    from orchestrator.storage.workspace import Workspace

    paths = [inputs] if isinstance(inputs, str | Path) else inputs
    request = partial(
        PredictRequest,
        inputs=tuple(str(one) for one in paths), out=Path(out), device=device, operating_point=operating_point,
        thresholds=values.read_assignments(threshold), level=level, conformal=conformal,
        asked=Asked(patient_pattern=patient_pattern, study_pattern=study_pattern),
    )  # fmt: skip
    tell = listener(progress, "images predicted", print)
    with Workspace() as workspace:
        asked = request(bundle=bundle if isinstance(bundle, Bundle) else workspace.read_bundle(place_of(bundle)))
        return run(asked, lambda done, total: tell({"event": "progress", "done": done, "total": total}))


def evaluate(
    bundle: Place | None = None, dataset: Place | None = None, *, part: str | None = None,
    truth: Path | str | None = None, out: Place | None = None, level: str | None = None,
    operating_point: str | None = None, predictions: Words = None, readers: Words = None, targets: Words = (),
    id: str | None = None, patient: str | None = None, patient_pattern: str | None = None,
    each_row_a_patient: bool = False, blank_as_zero: bool = False, resamples: int = 1000, device: str = "auto",
    findings: Path | str | None = None,
) -> Result:  # fmt: skip
    """Score a bundle on a part of a data set, or prediction tables from anywhere against `truth`, with intervals.

    Either bundle and dataset, with part (none: test; each reading of it is logged) and level (none: image); or
    predictions (paths of tables), truth and perhaps readers, with id, patient, ... The table has a row per finding (and
    table) with every figure and its 95 % bounds over resampled patients, the mean last. `out`: none: beside the bundle;
    for tables: nothing is written. `details`: an EvaluateResult, or a Comparison.
    """
    require_at_least(resamples=(resamples, 10))
    given = locals()
    if predictions or readers:
        _refuse(given, ("bundle", "dataset", "part"), "go with a bundle, --predictions with --truth")
        return _evaluate_tables(**given)
    _refuse(given, ("id", "patient", "patient_pattern", "each_row_a_patient", "blank_as_zero"), "go with --predictions")
    if bundle is None or dataset is None:
        raise InputError(
            "Give a BUNDLE and a DATASET, or --predictions tables with --truth; see hilum evaluate --help."
        )
    return _evaluate_bundle(**given)


def _refuse(given: Mapping[str, Any], names: tuple[str, ...], why: str) -> None:
    """An option that the other form has is a mistake worth a sentence."""
    options = {"bundle": "BUNDLE", "dataset": "DATASET"}
    extra = [options.get(name, f"--{name.replace('_', '-')}") for name in names if given[name]]
    if extra:
        raise InputError(f"{', '.join(extra)}: these {why}. hilum evaluate --help shows the two forms.")


def _evaluate_bundle(bundle: Place, dataset: Place, **given: Any) -> Result:
    from orchestrator.evaluation.evaluate_bundle import EvaluateRequest
    from orchestrator.evaluation.evaluate_bundle import evaluate as run
    from orchestrator.evaluation.scoring import report_frame
    from orchestrator.storage.object_store import is_remote
    from orchestrator.storage.workspace import Workspace

    part = given["part"] or "test"
    request = partial(
        EvaluateRequest, part=part, truth=_path(given["truth"]), level=given["level"] or "image",
        operating_point=given["operating_point"], targets=values.read_words(given["targets"]),
        resamples=given["resamples"], device=given["device"], findings=_path(given["findings"]),
    )  # fmt: skip
    place, out = place_of(bundle), place_of(given["out"])
    if out is None and is_remote(place):
        out = f"{place}-{part}"
    with Workspace() as workspace:
        judged, data = workspace.read_bundle(place), workspace.read_dataset(place_of(dataset))
        result = run(request(bundle=judged, dataset=data, out=workspace.write(out)))
    table = report_frame(result.report).set_index("finding")
    return Result(folder=out or result.folder, table=table, notes=tuple(result.notes), details=result)


def _evaluate_tables(**given: Any) -> Result:
    from orchestrator.evaluation.compare_tables import AUTO, TablesRequest, compare_tables
    from orchestrator.evaluation.compare_tables_report import comparison_frame, comparison_notes, write_comparison
    from orchestrator.evaluation.scoring import EvaluationSettings
    from orchestrator.inference.prediction_tables import Columns
    from orchestrator.storage.workspace import Workspace

    if not given["predictions"] or given["truth"] is None:
        missing = "--truth" if given["predictions"] else "--predictions"
        raise InputError(f"{missing} is missing: hilum evaluate --predictions a.csv b.csv --truth truth.csv.")
    request = TablesRequest(
        predictions=_paths(given["predictions"]), truth=Path(given["truth"]), readers=_paths(given["readers"]),
        targets=values.read_words(given["targets"]), level=given["level"], rule=given["operating_point"] or AUTO,
        blank_as_zero=given["blank_as_zero"], settings=EvaluationSettings(resamples=given["resamples"]),
        columns=Columns(
            id_name=given["id"], patient_name=given["patient"], patient_pattern=given["patient_pattern"],
            each_row_a_patient=given["each_row_a_patient"], findings=_path(given["findings"]),
        ),
    )  # fmt: skip
    found, out = compare_tables(request), place_of(given["out"])
    if out is not None:
        with Workspace() as workspace:
            write_comparison(found, workspace.write(out))
    table = comparison_frame(found).set_index(["table", "finding"])
    return Result(folder=out, table=table, notes=tuple(comparison_notes(found)), details=found)


def compare(
    run_a: Place, run_b: Place, *, use_a: str = "both", use_b: str = "both", part: str = "calibrate",
    blend: bool = False, targets: Words = (), dataset: Place | None = None, resamples: int = 1000,
    findings: Path | str | None = None,
) -> Result:  # fmt: skip
    """Say per finding which of two runs is better, with paired intervals, and what each cost.

    use_a, use_b: single, shared, both: which networks. The table has a row per finding: both AUCs, their difference
    (a minus b) with its 95 % bounds, p, p adjusted after Holm, which is better. `notes`: the same in sentences.
    """
    from orchestrator.evaluation.compare_runs import CompareRequest, compare_runs, comparison_frame
    from orchestrator.evaluation.compare_runs_report import comparison_sentences
    from orchestrator.storage.mirror import no_networks
    from orchestrator.storage.workspace import Workspace

    require_at_least(resamples=(resamples, 10))
    request = partial(
        CompareRequest, use_a=use_a, use_b=use_b, part=part, targets=values.read_words(targets),
        findings=_path(findings), blend=blend, resamples=resamples,
    )  # fmt: skip
    with Workspace() as workspace:
        first, second = (workspace.read_run(place_of(one), wanted=no_networks) for one in (run_a, run_b))
        data = workspace.read_dataset(place_of(dataset))
        found = compare_runs(request(run_a=first, run_b=second, dataset=data, workspace=workspace))
    return Result(folder=None, table=comparison_frame(found), notes=tuple(comparison_sentences(found)), details=found)


def _paths(given: "Words | Iterable[Path]") -> tuple[Path, ...]:
    return tuple(map(Path, [given] if isinstance(given, str | Path) else given or ()))


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)
