"""Weights that a network starts from: what fits of a weight file, or what timm has of its backbone.

In: an untrained backbone and a file in any usual layout. Out: the backbone with the weights, and a sentence on what was
loaded, what was not, and which films they were trained on. Called by models.network.builder. timm's own loader folds
the first layer to one channel, resizes position embeddings and leaves the last layer out; no code in a file is run.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from models.network.architecture import OWN, Architecture
from models.network.pooling import WEIGHTS
from pathologies.errors import InputError

# Of two sets of weights in a file that fit alike: averages of a training's weights, which are the better ones.
PREFERRED = ("state_dict_ema", "model_ema", "ema", "teacher")
COUNTERS = "num_batches_tracked"  # of normalisations; files of old versions lack them


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The weights of a file that are this backbone's."""

    state: dict[str, Tensor]
    place: str  # where they lie in it, in words; empty: at the top, under the backbone's own names
    others: int  # tensors of the file that lie elsewhere


def load_file(backbone: nn.Module, kind: Architecture, path: Path) -> str:
    """Errors: FileNotFoundError; InputError where the file is not one of this backbone's weights."""
    if not path.is_file():
        raise FileNotFoundError(f"No weight file at {path}. Give a .safetensors or .pth file of this backbone.")
    wanted, head = backbone.state_dict(), head_names(backbone)
    stored = _stored(path, wanted)
    given = dict(stored.state)  # timm's loader changes what it gets
    try:
        source, answer = _through_timm(backbone, kind, given)
    except Exception as error:  # of a loader for hundreds of networks, whose errors have no common class
        raise InputError(
            f"{path} does not fit the backbone ({' '.join(str(error).split())[:300]}). Is it the weight file of "
            "another backbone?"
        ) from error
    missing = [name for name in answer.missing_keys if not name.startswith(head) and not name.endswith(COUNTERS)]
    if missing:
        raise InputError(
            f"{path} does not fit the backbone: {len(missing)} of {len(wanted)} tensors are missing or have another "
            f"shape, first {missing[0]!r}. Is it the weight file of another backbone?"
        )
    loaded = {name: value for name, value in source.state_dict().items() if not name.startswith(head)}
    loaded |= {key: stored.state[key] for key in wanted if WEIGHTS in key and key in stored.state}
    backbone.load_state_dict(loaded, strict=False)
    unused = [name for name in stored.state if name.startswith(head)] + [
        name for name in answer.unexpected_keys if name not in loaded
    ]
    changed = [name for name, value in loaded.items()
               if name in stored.state and stored.state[name].shape != value.shape]  # fmt: skip
    return "".join([
        f"Started from {path.name}{stored.place}: {len(loaded)} of {len(wanted)} tensors",
        f", resized or folded: {_some(changed)}" if changed else "",
        f"; not used: {_some(unused)}" if unused else "",
        f"; further tensors beside them: {stored.others}" if stored.others else "",
        f". {expected_films(source)}",
    ])  # fmt: skip


def load_own(backbone: nn.Module, kind: Architecture, name: str) -> str:
    """The weights that timm, a hub or a folder has of the backbone `name`. Errors: InputError."""
    if kind.name in OWN:
        raise InputError(
            f"There are no ImageNet weights of backbone={name}. Set pretrained=false, or another backbone."
        )
    try:
        outputs = getattr(backbone, "num_classes", 1)
        source = timm.create_model(name, pretrained=True, num_classes=outputs, in_chans=1, **kind.timm_args)
    except Exception as error:  # timm passes on whatever the hub's client, the disk or the network raised
        raise InputError(
            f"The ImageNet weights of {name!r} cannot be had here ({type(error).__name__}: {str(error)[:200]}). "
            "Without a network, give a weight file instead: --set pretrained=/path/to/weights.safetensors (embed: "
            "--weights)"
        ) from error
    weights = source.state_dict()
    weights |= {key: value for key, value in backbone.state_dict().items() if WEIGHTS in key}  # no others have them
    backbone.load_state_dict(weights)
    return f"Started from the weights of {name}. {expected_films(source)}"


def expected_films(backbone: nn.Module) -> str:
    """The input that timm's configuration of the weights names; films here get their own."""
    config = getattr(backbone, "pretrained_cfg", None) or {}
    if not config.get("mean"):
        return "Which films they were trained on is not known."
    numbers = [", ".join(f"{one:g}" for one in config[name]) for name in ("mean", "std")]
    side = config["input_size"][-1]
    return f"timm's configuration names {side} pixels, mean ({numbers[0]}), std ({numbers[1]})."


def head_names(backbone: nn.Module) -> tuple[str, ...]:
    """What the tensors of the last layers begin with."""
    names = backbone.default_cfg.get("classifier", "fc")
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def _through_timm(backbone: nn.Module, kind: Architecture, state: dict[str, Tensor]) -> tuple[nn.Module, Any]:
    """A network of the same kind with the weights of `state`, and which names did not match."""
    config = backbone.default_cfg
    side = (config.get("input_size") or (3, 224, 224))[1:]
    first = config.get("first_conv") or ()
    firsts = [f"{name}.weight" for name in ([first] if isinstance(first, str) else first)]
    target = backbone.state_dict()
    folded = any(name in state and state[name].shape != target[name].shape for name in firsts)
    # no number of classes is -1, so the last layer of the file is never taken
    overlay = {"state_dict": state, "num_classes": -1, "input_size": (3 if folded else 1, *side), "source": None}
    outputs = backbone.num_classes
    with torch.random.fork_rng(devices=[]), _recorded(type(backbone)) as answers:
        if kind.name in OWN:
            source = kind.build(outputs=outputs)
            timm.models.load_pretrained(source, {**config, **overlay}, num_classes=outputs, in_chans=1, strict=False)
        else:
            sizes = {"num_classes": outputs, "in_chans": 1} | kind.timm_args
            source = timm.create_model(kind.name, pretrained=True, pretrained_cfg_overlay=overlay, **sizes)
    return source, answers[-1]


@contextlib.contextmanager
def _recorded(kind: type[nn.Module]) -> Iterator[list[Any]]:
    """What `load_state_dict` answers in the block: timm's loader writes the names that do not match to its log only.

    That log, a line of hundreds of names, is switched off meanwhile.
    """
    answers, before = [], kind.load_state_dict
    timms = logging.getLogger("timm.models")
    level = timms.level
    timms.setLevel(logging.ERROR)

    def recording(self: nn.Module, *words: Any, **more: Any) -> Any:
        answers.append(before(self, *words, **more))
        return answers[-1]

    kind.load_state_dict = recording
    try:
        yield answers
    finally:
        timms.setLevel(level)
        if before is nn.Module.load_state_dict:
            del kind.load_state_dict
        else:
            kind.load_state_dict = before


def _stored(path: Path, wanted: Mapping[str, Tensor]) -> Stored:
    """The tensors that fit best, wherever they lie in the file and whatever stands before their names."""
    try:
        content = timm.models.load_state_dict(str(path))  # weights only: it runs no code
        states = sorted(_states(content), key=lambda one: one[0].rpartition("'")[0].rpartition("'")[2] not in PREFERRED)
    except Exception as error:
        raise InputError(f"{path} cannot be read as weights: {' '.join(str(error).split())[:300]}") from error
    if not states:
        raise InputError(f"{path} cannot be read as weights: it holds no tensors.")
    best = None
    for place, state in states:
        prefixes = Counter({"": 0})
        for name in state:
            parts = name.split(".")
            ends = (".".join(parts[cut:]) for cut in range(len(parts)))
            prefixes.update(name.removesuffix(end) for end in ends if end in wanted)
        prefix, count = max(prefixes.items(), key=lambda item: (item[1], -len(item[0])))
        if best is None or count > best[0]:
            best = count, place, prefix, state
    _, place, prefix, state = best
    taken = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return Stored(
        state=taken,
        place=" ".join(filter(None, [place, f", names without {prefix!r}" if prefix else ""])).replace(" ,", ","),
        others=len(state) - len(taken),
    )


def _states(content: Any, place: str = "", depth: int = 2) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(place in words, tensors by name) of a file's dictionaries, those inside others too."""
    if not isinstance(content, Mapping):
        return
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for name, value in content.items() if depth else ():
        yield from _states(value, f"{place} under {str(name)!r}", depth - 1)


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
