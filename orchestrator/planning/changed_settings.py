"""A target that was trained, or begun, with other settings than are asked for now: nothing of it is lost unasked.

In: folders of targets and what their `config.json` is to be. Out: what differs; an error that says it and how to go on,
before anything is written or removed. Called by the plan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.config import UPKEEP, TrainConfig, difference
from models.files.layout import TargetPaths, read_json
from orchestrator.planning.batch_backoff import REDUCED, as_wished
from orchestrator.planning.initial_weights import comparable
from orchestrator.planning.target_files import BRANCH
from orchestrator.storage.workspace import DrivenRun
from pathologies.errors import InputError

LEARNT = (".ckpt", ".safetensors")  # what costs hours to make again


@dataclass(frozen=True, kw_only=True)
class Change:
    """A folder whose settings are not those asked for now."""

    slug: str
    paths: TargetPaths
    what: str  # as `name: old -> new`
    finished: bool


def is_finished(paths: TargetPaths) -> bool:
    return paths.outcome.exists() and read_json(paths.outcome).get("status") == "ok"


def changed_settings(paths: TargetPaths, payload: Mapping[str, Any], force: bool) -> str:
    """What differs, as `name: old -> new`; nothing where the folder is new or goes on as it is."""
    if not paths.config.exists():
        return ""
    old = read_json(paths.config)
    if force and REDUCED in old and not is_finished(paths):  # once more with the full batch
        return REDUCED
    return difference(*comparable(_flat(as_wished(old)), _flat(payload)))


def has_learnt(paths: TargetPaths, run: DrivenRun | None = None) -> bool:
    """Whether there are checkpoints or weights, on this machine or in the storage."""
    return any(name.endswith(LEARNT) for name in (run or DrivenRun(paths.root)).names_below(paths.root))


def refuse_changes(changes: Sequence[Change]) -> None:
    """InputError where there are any: one sentence for all that are finished, or begun, with the same difference."""
    groups: dict[tuple[bool, str], list[Change]] = {}
    for change in changes:
        groups.setdefault((change.finished, change.what), []).append(change)
    if groups:
        raise InputError(" ".join(_refusal(group, finished, what) for (finished, what), group in groups.items()))


def _refusal(group: list[Change], finished: bool, what: str) -> str:
    where = ", ".join(str(change.paths.root) for change in group)
    verb, them = ("is", "it") if len(group) == 1 else ("are", "them")
    if finished:
        return (
            f"{where} {verb} trained already, with another configuration ({what}). "
            f"Use another --out, or --force to train {them} again."
        )
    slugs = dict.fromkeys(change.slug for change in group)
    narrow = "" if "shared" in slugs else f"--targets {','.join(slugs)} "
    return (
        f"{where} {verb} begun with another configuration ({what}){_states(group)}. The settings of before go on from "
        f"the checkpoints. To remove those and train {them} anew, add to this command: {narrow}--force"
        " (or give another --out)."
    )


def _states(group: list[Change]) -> str:
    """The statuses of those that have ended."""
    ended = [read_json(one.paths.outcome).get("status") for one in group if one.paths.outcome.exists()]
    return f", and ended as {', '.join(dict.fromkeys(map(str, ended)))}" if ended else ""


def _flat(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A settings file of an earlier version lacks newer fields: they had what is their default now."""
    full = TrainConfig(**payload["config"]).to_dict()
    config = {name: value for name, value in full.items() if name not in UPKEEP}
    others = {name: value for name, value in payload.items() if name not in ("config", BRANCH)}
    if BRANCH in payload:  # its findings and policies are part of the digest
        others["goes on from"] = f"{payload[BRANCH]['from']} {payload[BRANCH]['digest']}"
    return config | others
