"""Look at every node before a GPU second is spent, and predict what the run will take.

In: what `hilum train` would be asked for. Out: checks (ok, warning, problem), the plan as a table, what to do. Called
by `hilum doctor`. The facts are those of `node_facts.py`, the judgements those of `checks.py` and `driver_checks.py`.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from models.config import TrainConfig
from models.files.layout import DatasetPaths, read_json
from orchestrator.cluster import node_facts
from orchestrator.cluster.checks import Check, Machine, Wish, judge, slots
from orchestrator.cluster.driver_checks import judge_connection
from orchestrator.cluster.probes import missing_folders, remove_probes
from orchestrator.datasets.labelled import read_material, usable_views
from orchestrator.planning.backbones import require_films
from orchestrator.planning.memory import Estimate, estimate
from orchestrator.planning.plan import chosen_targets, resolved_config
from orchestrator.storage.object_store import is_remote
from orchestrator.storage.staging import address
from orchestrator.training.environment import process_environment
from orchestrator.training.ray_session import connected, own_cluster
from orchestrator.training.resources import AUTO, cluster_precision, gpu_share
from orchestrator.training.schedule import effort, trained_films

ANSWER_SECONDS = 60  # for a node that starts its first process
STEP_SECONDS = 180
SIZE_WITHOUT_DATA = 224
PLAN_COLUMNS = ("target", "order", "node", "threads", "GPUs", "films", "memory", "hours", "starts after")


@dataclass(frozen=True, kw_only=True)
class DoctorRequest:
    dataset: Path | None = None
    address: str | None = None
    out: Path | str | None = None  # a URI of object storage too
    targets: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    members: int = 1
    gpus_per_target: float | str | None = None
    findings: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    checks: list[Check]
    plan: list[list[str]]
    summary: list[str]
    plan_columns: tuple[str, ...] = PLAN_COLUMNS

    @property
    def problems(self) -> int:
        return sum(one.level == "problem" for one in self.checks)


@dataclass(frozen=True, kw_only=True)
class Work:
    """One (target, member) as it would be trained."""

    name: str
    config: TrainConfig
    films: int  # of part `train`, at most: a policy may leave out uncertain ones
    watched: int  # of part `select`, looked at after every epoch
    predicted: int  # of the parts that are not trained on
    memory: Estimate


def examine(request: DoctorRequest) -> Diagnosis:
    """Errors: InputError for what the command line got wrong; what the machines lack is a check."""
    with connected(request.address) as ray:
        device = "cuda" if ray.cluster_resources().get("GPU", 0) > 0 else "cpu"
        works = planned_work(request, device, cluster_precision(ray))
        machines = inspect(ray, request)
        wish = _wish(request, works, machines, device)
        checks = judge(machines, wish)
        checks += judge_connection(request.address, ray)
        seconds = None
        if request.dataset and wish.room:
            seconds, step = _measure(ray, request, works, wish)
            checks.append(step)
    return Diagnosis(
        checks=checks,
        plan=_timetable(works, machines, wish, seconds) if request.dataset else [],
        summary=_summary(works, machines, wish, seconds),
    )


def planned_work(request: DoctorRequest, device: str, card: str) -> list[Work]:
    """In the order of `hilum train`, longest first; without a data set one network with the settings as given."""
    if request.dataset is None:
        config = resolved_config(_anything(), request.settings, 0, device, card=card)
        memory = estimate(config, SIZE_WITHOUT_DATA, 0)
        return [Work(name="one target", config=config, films=0, watched=0, predicted=0, memory=memory)]
    material = read_material(request.dataset, request.findings)
    manifest = material.dataset.manifest
    works = []
    for slug in chosen_targets(request.targets, manifest["findings"], material.catalog):
        for member in range(request.members):
            config = resolved_config(material.catalog[slug], request.settings, member, device, card=card)
            require_films(config, manifest["size"], own_cluster(request.address))
            parts = material.parts[usable_views(material.frame, config.views)]
            counts = {part: int((parts == part).sum()) for part in ("train", "select", "calibrate", "test")}
            works.append(
                Work(
                    name=f"{slug}/{member}" if request.members > 1 else slug,
                    config=config,
                    films=counts["train"],
                    watched=counts["select"],
                    predicted=len(parts) - counts["train"],
                    memory=estimate(config, manifest["size"], len(parts)),
                )
            )
    size = manifest["size"]
    return sorted(works, key=lambda one: -effort(one.config, one.films, one.watched, one.predicted, size))


def _anything() -> Any:
    from pathologies.findings.catalog import CHEXPERT_TARGETS, find_pathology

    return find_pathology(CHEXPERT_TARGETS[0])


def inspect(ray: ModuleType, request: DoctorRequest) -> list[Machine]:
    """Every living node's facts, gathered at the same time; a node that does not answer is a machine without facts."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    names = [node["NodeID"] for node in nodes]
    token = secrets.token_hex(4)
    run = str(request.out if is_remote(request.out) else request.out.resolve()) if request.out else None
    dataset = address(request.dataset) if request.dataset else None
    created = missing_folders(request.out)
    try:
        facts = _everywhere(ray, names, node_facts.look, lambda name: (run, dataset, token, name))
        reads = _everywhere(ray, names, node_facts.read_probes, lambda name: (run, token, names)) if run else {}
        clocks = {name: _clock(ray, name) for name in names if not isinstance(facts[name], str)}
    finally:
        if run:
            remove_probes(run, token, names, created)
    return [
        Machine(
            name=node["NodeManagerHostname"] if len(nodes) > 1 else "here",
            node=node["NodeID"],
            cpus=node["Resources"].get("CPU", 0),
            gpus=node["Resources"].get("GPU", 0),
            memory=node["Resources"].get("memory", 0),
            facts=facts[node["NodeID"]] if not isinstance(facts[node["NodeID"]], str) else {},
            silent=facts[node["NodeID"]] if isinstance(facts[node["NodeID"]], str) else "",
            reads=reads.get(node["NodeID"], {}),
            clock=clocks.get(node["NodeID"]),
        )
        for node in nodes
    ]


def _on_node(ray: ModuleType, name: str, function: Any, *words: Any) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place = NodeAffinitySchedulingStrategy(name, soft=False)
    return ray.remote(num_cpus=0, max_retries=1)(function).options(scheduling_strategy=place).remote(*words)


def _everywhere(ray: ModuleType, names: list[str], function: Any, words: Any) -> dict[str, Any]:
    """The function's answer by node, or a sentence where there is none."""
    asked = {name: _on_node(ray, name, function, *words(name)) for name in names}
    answers = {}
    for name, reference in asked.items():
        try:
            answers[name] = ray.get(reference, timeout=ANSWER_SECONDS)
        except (ray.exceptions.RayError, TimeoutError) as error:
            answers[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error) else ''}"
    return answers


def _clock(ray: ModuleType, name: str) -> tuple[float, float] | None:
    """(seconds that the node's clock is ahead of this one, how uncertain that is); the best of a few answers."""
    best = None
    for _ in range(3):
        before = node_facts.now()
        try:
            there = ray.get(_on_node(ray, name, node_facts.now), timeout=ANSWER_SECONDS)
        except (ray.exceptions.RayError, TimeoutError):
            return None
        after = node_facts.now()
        if best is None or (after - before) / 2 < best[1]:
            best = (there - (before + after) / 2, (after - before) / 2)
    return best


def _wish(request: DoctorRequest, works: list[Work], machines: list[Machine], device: str) -> Wish:
    cache = (request.dataset / "images.u8").stat().st_size if request.dataset else 0
    threads = max(work.config.threads for work in works)
    memory = max((work.memory for work in works), key=lambda one: one.host + one.gpu)
    gpus = _share(request, memory, cache, machines, device)
    return Wish(
        threads=threads,
        gpus=gpus,
        jobs=len(works) if request.dataset else 0,
        memory=memory,
        finished=sum(work.memory.finished for work in works),
        cache=cache,
        run=request.out is not None,
        slots={one.node: slots(one, threads, gpus, memory.host) for one in machines},
    )


def _share(request: DoctorRequest, memory: Estimate, cache: int, machines: list[Machine], device: str) -> float:
    if request.gpus_per_target == AUTO and device == "cuda":
        cards = [card["total"] for one in machines for card in one.facts.get("gpus", ())]
        return gpu_share(memory, cache, min(cards)) if cards else 1.0
    return float(device == "cuda") if request.gpus_per_target in (None, AUTO) else float(request.gpus_per_target)


def _measure(
    ray: ModuleType, request: DoctorRequest, works: list[Work], wish: Wish
) -> tuple[dict[str, float] | None, Check]:
    """Seconds of a step for every different kind of network, each in a process of its own."""
    seconds: dict[str, float] = {}
    dataset, size = address(request.dataset), read_json(DatasetPaths(request.dataset).manifest)["size"]
    for work in works:
        if _kind(work) in seconds:
            continue
        settings = work.config.to_dict() | {"pretrained": "false", "init": ""}
        task = ray.remote(max_calls=1, max_retries=0)(node_facts.measure_step).options(
            num_cpus=work.config.threads,
            num_gpus=wish.gpus,
            runtime_env={"env_vars": process_environment(work.config, wish.gpus, size)},
        )
        try:
            seconds[_kind(work)] = ray.get(task.remote(dataset, settings), timeout=STEP_SECONDS)
        except (ray.exceptions.RayError, TimeoutError) as error:
            reason = str(getattr(error, "cause", None) or error).strip().splitlines()[-1:]
            advice = "A training would fail in the same way. Correct the setting that it names, or the node."
            found = f"{work.name}: {' '.join(reason) or type(error).__name__}"
            return None, Check(what="a measured step", level="problem", found=found, advice=advice)
    found = ", ".join(f"{value:.3f} s ({kind})" for kind, value in seconds.items())
    return seconds, Check(what="a measured step", level="ok", found=found)


def _kind(work: Work) -> str:
    config = work.config
    return f"{config.backbone}, batch {config.batch_size}, {config.precision}, {config.threads} threads"


def hours(work: Work, step: float) -> float:
    """Training, the look at `select` after every epoch, and the predictions at the end."""
    films = trained_films(work.config, work.films, work.watched, work.predicted)
    return films * step / work.config.batch_size / 3600


def _timetable(
    works: list[Work], machines: list[Machine], wish: Wish, seconds: dict[str, float] | None
) -> list[list[str]]:
    """Each job on the slot that is free first. Ray decides by the same rule, but may choose another node."""
    free = [[0.0, one.name] for one in machines for _ in range(wish.slots[one.node])]
    rows = []
    for order, work in enumerate(works, 1):
        took = hours(work, seconds[_kind(work)]) if seconds else None
        slot = min(free, key=lambda one: one[0]) if free else None
        start, node = (slot[0], slot[1]) if slot else (None, "none")
        rows.append([
            work.name, str(order), node, str(work.config.threads), f"{wish.gpus:g}", str(work.films),
            f"{(work.memory.host + work.memory.gpu) / 2**30:.1f} GiB", "" if took is None else f"{took:.2f}",
            "" if took is None or start is None else f"{start:.2f} h",
        ])  # fmt: skip
        if slot and took is not None:
            slot[0] += took
    return rows


def _summary(works: list[Work], machines: list[Machine], wish: Wish, seconds: dict[str, float] | None) -> list[str]:
    slots = sum(wish.slots.values())
    lines = [
        f"Nodes: {len(machines)}. Trainings at once: {slots}, each with CPUs: {wish.threads}, GPUs: {wish.gpus:g}."
    ]
    if seconds and slots:
        total = sum(hours(work, seconds[_kind(work)]) for work in works)
        longest = max(hours(work, seconds[_kind(work)]) for work in works)
        lines.append(
            f"{len(works)} trainings: {total:.2f} hours of work, about {max(total / slots, longest):.2f} hours in all "
            "(one step measured alone; trainings that share a machine slow each other down)."
        )
    return lines
