"""What the facts of the nodes mean: ok, warning or problem, and what to do about it.

In: machines with their facts, and what the run wishes for. Out: checks. Called by the doctor; no Ray, no torch, so that
every sentence here is tested with made-up machines.
"""

from dataclasses import dataclass, field
from typing import Any

from orchestrator.planning.memory import Estimate

GIB = 2**30
MEMORY_SHARE = 0.95  # of a node's memory: above it Ray's monitor kills the newest process
SHARED_MEMORY_LEAST = 128 * 2**20  # Ray's store as hilum starts it; pixels do not travel through it
CLOCK_WARNING, CLOCK_PROBLEM = 2.0, 30.0  # seconds: times in ledgers are compared, leases last a minute
NEEDED = ("python", "torch", "timm", "ray", "hilum")


@dataclass(frozen=True, kw_only=True)
class Check:
    what: str
    level: str  # ok, warning, problem
    found: str
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A node: what Ray announces of it, and what was found on it."""

    name: str
    node: str
    cpus: float
    gpus: float
    memory: float = 0.0  # bytes for trainings; 0: Ray does not tell
    facts: dict[str, Any] = field(default_factory=dict)
    silent: str = ""  # why there are no facts
    reads: dict[str, str] | str = field(default_factory=dict)  # node -> "" or why its probe cannot be read here
    clock: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a run asks of the machines."""

    threads: int
    gpus: float
    jobs: int
    memory: Estimate  # of the largest target
    finished: int  # bytes that stay on disk
    cache: int  # bytes of images.u8
    run: bool  # a run's folder was named
    slots: dict[str, int]  # node -> trainings at once

    @property
    def room(self) -> int:
        return sum(self.slots.values())


def slots(machine: Machine, threads: int, gpus: float, memory: int = 0) -> int:
    """How many trainings Ray starts there at once; `memory`: bytes that each reserves, or all there is for one."""
    by_cpu = by_gpu = int(machine.cpus // threads)
    if gpus:
        by_gpu = int(machine.gpus) * int(1 / gpus + 1e-9) if gpus < 1 else int(machine.gpus // gpus)
    by_memory = max(int(machine.memory // memory), 1) if memory and machine.memory else by_cpu
    return min(by_cpu, by_gpu, by_memory)


def judge(machines: list[Machine], wish: Wish) -> list[Check]:
    answering = [one for one in machines if one.facts]
    checks = [_answers(machines), _versions(answering), _room(machines, wish)]
    checks += _data(answering) + _storage(answering, wish)
    for one in answering:
        checks += [_memory(one, wish), *_gpu_memory(one, wish), _shared_memory(one), _threads(one, wish)]
    return [*checks, _clocks(answering)]


def _answers(machines: list[Machine]) -> Check:
    silent = [f"{one.name}: {one.silent}" for one in machines if one.silent]
    if silent:
        return Check(
            what="nodes",
            level="problem",
            found="; ".join(silent),
            advice="Install hilum there as on the head (`make install`), or take the node out of the cluster.",
        )
    return Check(what="nodes", level="ok", found=f"{len(machines)} answer")


def _versions(machines: list[Machine]) -> Check:
    missing, different = [], []
    for name in NEEDED:
        found = {one.name: one.facts["versions"].get(name, "") for one in machines}
        missing += [f"{node}: no {name}" for node, version in found.items() if not version and name != "hilum"]
        if len(set(found.values())) > 1:
            different.append(f"{name} {', '.join(f'{version or None} on {node}' for node, version in found.items())}")
    if len({one.facts["sources"] for one in machines}) > 1:
        different.append("hilum's source files")
    if missing or different:
        return Check(
            what="versions",
            level="problem",
            found="; ".join(missing + [f"differs: {one}" for one in different]),
            advice="Install the same constraints.txt on every node (`make install`), and the same checkout.",
        )
    first = machines[0].facts["versions"] if machines else {}
    return Check(
        what="versions", level="ok", found=", ".join(f"{name} {first[name]}" for name in NEEDED if first.get(name))
    )


def _room(machines: list[Machine], wish: Wish) -> Check:
    asked = f"{wish.threads} CPUs and {wish.gpus:g} GPUs a target"
    offered = "; ".join(f"{one.name}: {one.cpus:g} CPUs, {one.gpus:g} GPUs" for one in machines)
    if not wish.room:
        return Check(
            what="requests",
            level="problem",
            found=f"{asked}; {offered}",
            advice="No node can ever start one. Lower --set threads=... or --gpus-per-target, or add a node.",
        )
    idle = [one.name for one in machines if not wish.slots[one.node] and one.cpus]
    if idle:
        return Check(
            what="requests",
            level="warning",
            found=f"{asked}: nothing runs on {', '.join(idle)}",
            advice=f"{', '.join(idle)} offers less than a target asks for.",
        )
    return Check(what="requests", level="ok", found=f"{asked}; {wish.room} at once ({offered})")


def _data(machines: list[Machine]) -> list[Check]:
    seen = {one.name: one.facts["dataset"] for one in machines if one.facts["dataset"]}
    if not seen:
        return []
    wrong = [f"{name}: {facts['error']}" for name, facts in seen.items() if facts["error"]]
    if not wrong and len({(facts["manifest"], facts["bytes"]) for facts in seen.values()}) > 1:
        wrong = [f"{name}: manifest {facts['manifest']}, {facts['bytes']} bytes" for name, facts in seen.items()]
    if wrong:
        return [
            Check(
                what="data set",
                level="problem",
                found="; ".join(wrong),
                advice="Put the same data set under the same path on every node (a shared mount, or a copy).",
            )
        ]
    return [Check(what="data set", level="ok", found=f"the same on {len(seen)} nodes")]


def _storage(machines: list[Machine], wish: Wish) -> list[Check]:
    if not wish.run:
        return []
    wrong = [f"{one.name} cannot write: {one.facts['written']}" for one in machines if one.facts["written"]]
    names = {one.node: one.name for one in machines}
    for one in machines:
        if isinstance(one.reads, str):
            wrong.append(f"{one.name}: {one.reads}")
        else:
            wrong += [
                f"{one.name} does not see what {names.get(writer, writer)} wrote"
                for writer, why in one.reads.items()
                if why and not one.facts["written"]
            ]
    if wrong:
        return [
            Check(
                what="storage of the run",
                level="problem",
                found="; ".join(wrong),
                advice="--out has to lie on storage that every node mounts under the same path.",
            )
        ]
    return [
        Check(what="storage of the run", level="ok", found="written and read from every node"),
        _disk(machines, wish),
    ]


def _disk(machines: list[Machine], wish: Wish) -> Check:
    needed = min(wish.room, max(wish.jobs, 1)) * wish.memory.disk + max(wish.finished, wish.memory.finished)
    free = min(one.facts["disk_free"] or 0 for one in machines)
    found = f"{_gib(free)} free, at most {_gib(needed)} needed (checkpoints, {wish.jobs or 1} results)"
    if free < needed:
        return Check(
            what="disk",
            level="problem",
            found=found,
            advice="Free some, or give --out on a larger disk: a full disk stops every target at its next checkpoint.",
        )
    return Check(
        what="disk",
        level="ok" if free > 2 * needed else "warning",
        found=found,
        advice="" if free > 2 * needed else "It fits, with little to spare.",
    )


def _memory(one: Machine, wish: Wish) -> Check:
    memory, at_once = one.facts["memory"], wish.slots[one.node]
    at_once = min(at_once, wish.jobs) if wish.jobs else at_once
    if not memory or not at_once:
        return Check(what=f"memory, {one.name}", level="ok", found="no training here" if memory else "not told")
    needed = at_once * wish.memory.host
    free = f"{_gib(memory['available'])} of {_gib(memory['total'])} free"
    found = f"{at_once} x {_gib(wish.memory.host)} ({wish.memory.basis}); {free}"
    what = f"memory, {one.name}"
    fits = int(MEMORY_SHARE * memory["total"] // wish.memory.host)
    if needed > MEMORY_SHARE * memory["total"]:
        advice = "Not even one fits: lower --set batch_size=... or image_size=..."
        if fits:
            advice = f"{fits} fit: start Ray there with --num-cpus={fits * wish.threads}, or lower --set batch_size=..."
        return Check(what=what, level="problem", found=found, advice=advice)
    if needed > memory["available"]:
        return Check(what=what, level="warning", found=found, advice="Something else holds memory there now.")
    if wish.cache > memory["available"] - needed:
        return Check(
            what=what,
            level="warning",
            found=f"{found}; the films are {_gib(wish.cache)}",
            advice="The films do not fit into the page cache, so every epoch reads the disk: let it be a fast one.",
        )
    return Check(what=what, level="ok", found=found)


def _gpu_memory(one: Machine, wish: Wish) -> list[Check]:
    cards = one.facts["gpus"]
    if not wish.gpus or not one.gpus:
        return []
    what = f"GPU memory, {one.name}"
    if not cards:
        return [
            Check(
                what=what,
                level="warning",
                found=f"Ray announces {one.gpus:g} GPUs, nvidia-smi shows none",
                advice="Check the driver there.",
            )
        ]
    sharing = max(int(1 / wish.gpus + 1e-9), 1) if wish.gpus < 1 else 1
    free = min(card["total"] - card["used"] for card in cards)
    card = f"{_gib(free)} free on the fullest {cards[0]['name']}"
    found = f"{sharing} x {_gib(wish.memory.gpu)} a card ({wish.memory.basis}); {card}"
    if sharing * wish.memory.gpu > free:
        return [
            Check(
                what=what,
                level="problem",
                found=found,
                advice="Raise --gpus-per-target, or lower --set batch_size=...; a share of a GPU limits no memory.",
            )
        ]
    return [Check(what=what, level="ok", found=found)]


def _shared_memory(one: Machine) -> Check:
    free = one.facts["shared_memory"]
    found = "no /dev/shm" if free is None else f"{free / 2**20:.0f} MiB free in /dev/shm"
    low = free is not None and free < SHARED_MEMORY_LEAST
    return Check(
        what=f"shared memory, {one.name}",
        level="warning" if low else "ok",
        found=found,
        advice="In a container: --shm-size=1g. Ray falls back to a slow file otherwise." if low else "",
    )


def _threads(one: Machine, wish: Wish) -> Check:
    there, busy = one.facts["cpus"], wish.slots[one.node] * wish.threads
    preset = ", ".join(f"{name}={value}" for name, value in one.facts["threads"].items())
    found = f"{busy} threads of trainings on {there} CPUs" + (
        f"; {preset} there, set anew for trainings" if preset else ""
    )
    over = there and busy > there
    return Check(
        what=f"threads, {one.name}",
        level="warning" if over else "ok",
        found=found,
        advice=f"Ray was told of more CPUs than there are: start it with --num-cpus={there}." if over else "",
    )


def _clocks(machines: list[Machine]) -> Check:
    told = {one.name: one.clock for one in machines if one.clock}
    if not told:
        return Check(what="clocks", level="warning", found="no node told its time", advice="See the nodes above.")
    name, (ahead, unsure) = max(told.items(), key=lambda one: abs(one[1][0]) - one[1][1])
    off = max(abs(ahead) - unsure, 0)
    level = "problem" if off > CLOCK_PROBLEM else "warning" if off > CLOCK_WARNING else "ok"
    return Check(
        what="clocks",
        level=level,
        found=f"at most {abs(ahead):.2f} s apart ({name}), known to {unsure:.2f} s",
        advice="" if level == "ok" else f"Let {name} keep its time by NTP (chrony).",
    )


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.0f} MiB"
