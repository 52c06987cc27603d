"""A smaller batch for a target that ran out of memory, and what the files say about it.

In: the settings of a job as `config.json` has them. Out: the same with half the batch and twice the accumulation, so
that as many films make one step; `reduced_from` keeps what was asked for. The weights differ from those of the full
batch (batch normalisation sees fewer films at once). Called by the launcher and the plan.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from models.config import TrainConfig
from models.files.layout import TargetPaths, read_json, write_json
from orchestrator.planning.memory import MIB, estimate

REDUCED = "reduced_from"  # key of config.json
FIELDS = ("batch_size", "accumulate")
MOST_HALVINGS = 3
SMALLEST_BATCH = 2  # batch normalisation needs two


def halve(paths: TargetPaths) -> TrainConfig | None:
    """Write the smaller batch into `config.json`; None, with nothing written, where it is as small as it may be."""
    payload = read_json(paths.config)
    config = TrainConfig(**payload["config"])
    wished = payload.get(REDUCED) or {name: getattr(config, name) for name in FIELDS}
    halved = wished["batch_size"] // config.batch_size >= 2**MOST_HALVINGS
    if halved or config.batch_size % 2 or config.batch_size // 2 < SMALLEST_BATCH:
        return None
    smaller = dataclasses.replace(config, batch_size=config.batch_size // 2, accumulate=2 * config.accumulate)
    write_json(paths.config, payload | {"config": smaller.to_dict(), REDUCED: wished})
    return smaller


def as_wished(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they were asked for: what a command is compared with."""
    plain = {name: value for name, value in payload.items() if name != REDUCED}
    return plain | {"config": payload["config"] | payload.get(REDUCED, {})}


def as_reduced(payload: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """`payload` with the smaller batch that `before` came to, for a training that goes on."""
    if REDUCED not in before:
        return dict(payload)
    kept = {name: before["config"][name] for name in FIELDS}
    return dict(payload) | {"config": payload["config"] | kept, REDUCED: before[REDUCED]}


def what_it_needs(paths: TargetPaths) -> str:
    """The figure for somebody who has to find a larger machine."""
    payload = read_json(paths.config)
    config = TrainConfig(**payload["config"])
    size = payload.get("data", {}).get("size") or config.image_size
    if not size:
        return ""
    needs = estimate(config, size, 0)
    card = f" and {needs.gpu / MIB:,.0f} MiB on the card" if needs.gpu else ""
    return f"With batch_size={config.batch_size} it takes about {needs.host / MIB:,.0f} MiB{card} by estimate."
