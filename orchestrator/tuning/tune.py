"""The search: for each finding, many short trainings with different settings, ranked on part `select`.

In: a SearchRequest. Out: RUN/trials/<slug>/<number>/ and RUN/tuned/<slug>.toml. Called by `hilum tune`. What is done is
what the files say: after any kill the same request finishes the numbers that have no outcome, from their checkpoints.
"""

import time
from collections.abc import Mapping
from typing import Any

from models.files.layout import read_json
from orchestrator.datasets.labelled import Material, read_material
from orchestrator.planning.plan import chosen_targets, require_same_data, write_plan
from orchestrator.planning.tuned_settings import write_tuned
from orchestrator.storage.workspace import DrivenRun
from orchestrator.training.launch import OnEvent, cluster_device, exclusive, inline_card, inline_device, record
from orchestrator.training.ray_session import connected, end_tasks, require_room
from orchestrator.training.resources import cluster_precision
from orchestrator.tuning.study import Search, SearchRequest, open_search
from orchestrator.tuning.trials import SearchPaths, adopt_trials, ranked, read_trials
from pathologies.errors import InputError

POLL_SECONDS = 0.5


def tune_run(request: SearchRequest, on_event: OnEvent) -> dict[str, Any]:
    """Finish what is missing of the searches; returns searches, errors and notes.

    `searches`: {slug: Search}; `errors`: {slug: sentence} of the findings that have no result; `notes`: sentences.

    Events are dicts with `event` ("trial"), `slug`, `number`, `outcome`, `finished` and `trials`. Errors: InputError
    before anything starts. KeyboardInterrupt ends every trial, and the same request goes on from the checkpoints.
    """
    run = request.workspace.driven(request.out)
    with exclusive(run):
        material = read_material(request.dataset, request.findings)
        slugs = chosen_targets(request.targets, material.dataset.manifest["findings"], material.catalog)
        require_same_data(run, material.dataset)
        errors: dict[str, str] = {}
        if request.inline:
            searches = _open_all(request, material, slugs, inline_device(), inline_card())
            _run_inline(searches, run, on_event)
        elif _all_finished(request, run, slugs):
            searches = _open_all(request, material, slugs, "cpu", "auto")
        else:
            with connected(request.address) as ray:
                searches = _open_all(request, material, slugs, cluster_device(ray), cluster_precision(ray))
                errors = _run_on_ray(ray, request, searches, on_event)
        notes = [note for search in searches.values() for note in _conclude(search, run, errors)]
        return {"searches": searches, "errors": errors, "notes": notes}


def _open_all(
    request: SearchRequest, material: Material, slugs: list[str], device: str, card: str
) -> dict[str, Search]:
    searches = {slug: open_search(request, slug, material, device, card) for slug in slugs}
    blind = [slug for slug, search in searches.items() if search.rule.name == "last_epoch"]
    if blind:
        raise InputError(
            f"Part select has no positive film of {', '.join(blind)}: there is nothing to rank trials by. "
            "Leave them out with --targets, or prepare more patients."
        )
    return searches


def _all_finished(request: SearchRequest, run: DrivenRun, slugs: list[str]) -> bool:
    for slug in slugs:
        paths = SearchPaths(run, slug)
        numbers = {*range(request.trials), *paths.numbers()}
        if not all(paths.trial(number).outcome.exists() for number in numbers):
            return False
    return True


def _conclude(search: Search, run: DrivenRun, errors: dict[str, str]) -> list[str]:
    """The winner's file, and members if they were asked for; returns what should be said about it."""
    trials = read_trials(search.paths)
    best = ranked(trials)
    if not best:
        none = "no trial is finished yet" if search.todo() else "no trial ended well; each outcome.json has the reason"
        errors.setdefault(search.slug, none)
        return []
    default = next((trial.score for trial in trials if trial.number == 0 and trial.status == "ok"), None)
    facts = {"trial": best[0].number, "select_score": best[0].score, "default_select_score": default,
             "score": search.rule.name, "trials": len(trials)}  # fmt: skip
    values = {one.field: best[0].config[one.field] for one in search.space}
    write_tuned(run.tuned(search.slug), facts, dict(search.request.settings) | values)
    wanted = search.request.members
    if not wanted:
        return []
    jobs, gone = adopt_trials(run.root, search.slug, wanted)
    write_plan(run, search.material.dataset, jobs, gone)
    names = ", ".join(f"{job.name} (trial {trial.number})" for job, trial in zip(jobs, best, strict=False))
    short = f"; {wanted} were asked for, but no more trials ended well" if len(jobs) < wanted else ""
    return [f"Members from trials: {names}{short}"]


def _run_inline(searches: Mapping[str, Search], run: DrivenRun, on_event: OnEvent) -> None:
    from orchestrator.tuning.inline_executor import search_inline

    for search in searches.values():
        watch = Watch({search.slug: search}, run, on_event)
        search_inline(search, watch.look)


def _run_on_ray(ray: Any, request: SearchRequest, searches: Mapping[str, Search], on_event: OnEvent) -> dict[str, str]:
    from orchestrator.tuning.executors import submit_search

    run = request.workspace.driven(request.out)
    waiting = {slug: search for slug, search in searches.items() if search.todo()}
    gpus = request.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if any(search.config().device.startswith("cuda") for search in waiting.values()) else 0.0
    require_room(ray, max(search.config().threads for search in waiting.values()), gpus)
    record(run, {"event": "begin search", "targets": list(waiting), "trials": request.trials})
    watch = Watch(waiting, run, on_event)
    deadline = time.time() + 60 * request.time_budget if request.time_budget else None
    running = {submit_search(ray, search, gpus, deadline): slug for slug, search in waiting.items()}
    errors: dict[str, str] = {}
    try:
        while running:
            ready, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            watch.look()
            for reference in ready:
                _outcome_of(ray, reference, running.pop(reference), errors)
    except KeyboardInterrupt:
        run.stop_waiting()
        raise
    finally:
        end_tasks(ray, running)  # only after an interrupt or an error is anything left
        record(run, {"event": "end search", "targets": list(waiting)})
    watch.look()
    return errors


def _outcome_of(ray: Any, reference: Any, slug: str, errors: dict[str, str]) -> None:
    try:
        ray.get(reference)
    except ray.exceptions.RayError as error:  # the search itself failed, not one of its trials; the others go on
        errors[slug] = f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"


class Watch:
    """Tells of every trial that has ended since the watch began."""

    def __init__(self, searches: Mapping[str, Search], run: DrivenRun, on_event: OnEvent) -> None:
        self.searches, self.run, self.on_event = searches, run, on_event
        self.seen = {slug: self._finished(search) for slug, search in searches.items()}

    def look(self) -> None:
        for slug, search in self.searches.items():
            finished = self._finished(search)
            for number in sorted(finished - self.seen[slug]):
                self.seen[slug].add(number)
                outcome = read_json(search.paths.trial(number).outcome)
                short = {name: outcome.get(name) for name in ("status", "attempt", "pid", "started", "ended")}
                record(self.run, {"event": "finished", "job": f"trials/{slug}/{number}", **short})
                best = ranked(read_trials(search.paths))
                self.on_event({"event": "trial", "slug": slug, "number": number, "outcome": outcome,
                               "finished": len(self.seen[slug]), "trials": search.request.trials,
                               "best": best[0] if best else None})  # fmt: skip

    @staticmethod
    def _finished(search: Search) -> set[int]:
        return {number for number in search.paths.numbers() if search.paths.trial(number).outcome.exists()}
