"""What a bundle says of itself, `bundle.json`: written with its seal, and believed only where it fits and is sealed.

In: the bytes of `bundle.json` and the folder that it lies in. Out: the description, checked key by key, so that who
works with it need not ask, and its SHA-256. A description that lacks something, or names a file outside the folder, is
an InputError. `bundle.sha256` is the seal: `sha256sum -c bundle.sha256` compares it too. Called by everything that
reads or writes a bundle, staging included; no torch.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.files.layout import BundlePaths, json_text, parse_json, write_text
from models.statistics.blending import GREEDY, MEAN_OF_RANKS, STACKING, model_columns
from orchestrator.storage.folder_swap import recover
from pathologies.errors import InputError

FORMAT = "hilum-bundle/1"
# With models in groups, or heads on a frozen encoder: a hilum of before would weigh the first wrongly, and take the
# second for networks.
SECOND = "hilum-bundle/2"
# Of a side, of a network, of an encoder; more is a mistake, and memory that nobody has.
MOST_PIXELS, MOST_OUTPUTS, MOST_FEATURES = 8192, 4096, 65536
MEND = "Copy the bundle again, or make it anew."
Rule = Callable[[Any, str], None]


@dataclass(frozen=True, kw_only=True)
class Seal:
    sha256: str  # of bundle.json
    sealed: bool  # the bundle carries it; those made before seals do not


def write_description(description: Mapping[str, Any], paths: BundlePaths) -> dict[str, Any]:
    """Write the seal, then `bundle.json`, which completes the bundle; returns what it says."""
    description = {**description, "seal": paths.seal.name}
    text = json_text(description)
    write_text(paths.seal, f"{hashlib.sha256(text.encode('utf-8')).hexdigest()}  {paths.bundle.name}\n")
    write_text(paths.bundle, text)
    return description


def read_description(folder: Path) -> dict[str, Any]:
    """`bundle.json`. Errors: FileNotFoundError / InputError for a folder that is no whole bundle of this format."""
    return open_description(folder)[0]


def open_description(folder: Path) -> tuple[dict[str, Any], Seal]:
    """As `read_description`, with the digest of exactly what was read."""
    paths = BundlePaths(folder)
    if not paths.bundle.is_file():
        recover(paths.root)
    if not paths.bundle.is_file():
        hint = " It is a run: make a bundle of it with `hilum ensemble`." if (folder / "plan.json").exists() else ""
        raise FileNotFoundError(f"{folder} is not a bundle: it has no bundle.json.{hint}")
    content = paths.bundle.read_bytes()
    description = parse_json(content, paths.bundle)
    _require_format(description, str(paths.bundle))
    seal = _seal_of(content, description, paths)
    check_description(description, paths.root, str(paths.bundle))
    for path in (paths.selftest / "input.png", paths.selftest / "expected.json"):
        _require_inside(path, paths.root, str(path))
    return description, seal


def check_description(description: Mapping[str, Any], root: Path, name: str) -> None:
    """InputError unless every key that is used is there, of its kind, and in keeping with the others.

    root: the folder that the weight files must lie in; name: how errors call the description.
    """
    _require_format(description, name)
    _DESCRIPTION(description, name)
    findings = description["findings"]
    if description["format"] == FORMAT != format_of(findings):
        raise InputError(f"{name} has groups of models or heads, which {FORMAT!r} does not know. {MEND}")
    for slug, entry in findings.items():
        where = f"{name}: findings.{slug}"
        if entry["operating_point"] not in entry["operating_points"]:
            raise InputError(f"{where} has no operating point {entry['operating_point']!r}, its default. {MEND}")
        _check_groups(entry, where)
        _check_blend(entry, findings, where)
        for model in entry["models"]:
            if ("head" in model) != ("encoder" in model):
                raise InputError(f"{where}: {model['file']} has a head or an encoder without the other. {MEND}")
            if model.get("column", 0) >= (model.get("outputs") or 1):
                raise InputError(f"{where}: {model['file']} has no output {model['column']}. {MEND}")
            for file in files_of(model):
                _require_inside(root / file, root, f"{where}: {file}")


def files_of(model: Mapping[str, Any]) -> dict[str, str]:
    """The weight files of a model with their SHA-256; a head has its encoder's beside its own."""
    encoder = model.get("encoder")
    return {model["file"]: model["sha256"]} | ({encoder["file"]: encoder["sha256"]} if encoder else {})


def format_of(findings: Mapping[str, Any]) -> str:
    """The oldest format whose readers understand these entries."""
    models = [model for entry in findings.values() for model in entry["models"]]
    return SECOND if any("group" in model or "head" in model for model in models) else FORMAT


def _check_groups(entry: Mapping[str, Any], where: str) -> None:
    models = entry["models"]
    for members in model_columns(models):
        asked = {(models[one].get("copies", False), bool(models[one].get("outputs"))) for one in members}
        if len(asked) > 1:
            raise InputError(f"{where}: the models of group {models[members[0]]['group']} are of two kinds. {MEND}")


def _check_blend(entry: Mapping[str, Any], findings: Mapping[str, Any], where: str) -> None:
    blend = entry.get("blend") or {"method": entry["combine"]}
    columns = blend.get("inputs") or model_columns(entry["models"])
    unknown = [one for one in blend.get("inputs", ()) if one not in findings]
    if unknown:
        raise InputError(f"{where} is stacked from {unknown[0]!r}, which the bundle does not have. {MEND}")
    needed = {GREEDY: "weights", STACKING: "weights", MEAN_OF_RANKS: "distributions"}.get(blend["method"])
    found = {name: len(blend[name]) for name in ("weights", "distributions") if blend.get(name)}
    if (needed and needed not in found) or set(found.values()) - {len(columns)}:
        raise InputError(f"{where}: its blend, {blend['method']}, is not one of {len(columns)} columns. {MEND}")


def _require_format(description: Mapping[str, Any], name: str) -> None:
    if description.get("format") not in (FORMAT, SECOND):
        raise InputError(
            f"{name} has format {description.get('format')!r}; this hilum reads {FORMAT!r} and {SECOND!r}."
        )


def _require_inside(path: Path, root: Path, name: str) -> None:
    """Also by way of links: a bundle is one folder, and reads nothing else."""
    try:
        inside = path.resolve().is_relative_to(Path(root).resolve())
    except (OSError, ValueError, RuntimeError):  # a circle of links, a NUL in the name
        inside = False
    if not inside:
        raise InputError(f"{name} leads out of the bundle's folder. {MEND}")


def _seal_of(content: bytes, description: Mapping[str, Any], paths: BundlePaths) -> Seal:
    found = hashlib.sha256(content).hexdigest()
    if not paths.seal.is_file():
        if "seal" in description:
            raise InputError(
                f"The bundle lacks {paths.seal}, its seal. Copy the whole folder, {paths.seal.name} included."
            )
        return Seal(sha256=found, sealed=False)
    stored = paths.seal.read_bytes()[:200].decode("ascii", "replace").split()
    if stored[:1] != [found]:
        raise InputError(
            f"{paths.bundle} is not what its seal {paths.seal.name} was made for (SHA-256 {found[:12]}, not "
            f"{stored[0][:12] if stored else 'nothing'}): one of the two was changed afterwards. {MEND}"
        )
    return Seal(sha256=found, sealed=True)


def kind(words: str, holds: Callable[[Any], bool]) -> Rule:
    """A rule that one value keeps or not; `words` tells what it wants."""

    def check(value: Any, where: str) -> None:
        if not holds(value):
            text = repr(value)
            raise InputError(f"{where} is {text if len(text) < 60 else text[:56] + ' ...'}, not {words}. {MEND}")

    return check


def maybe(rule: Rule) -> Rule:
    return lambda value, where: None if value is None else rule(value, where)


def each(rule: Rule, least: int = 0) -> Rule:
    """A list, every item of which keeps `rule`."""

    def check(value: Any, where: str) -> None:
        kind(f"a list of at least {least}", lambda one: isinstance(one, list) and len(one) >= least)(value, where)
        for index, item in enumerate(value):
            rule(item, f"{where}[{index}]")

    return check


def named(rule: Rule, least: int = 0) -> Rule:
    """An object of any names, every value of which keeps `rule`."""

    def check(value: Any, where: str) -> None:
        kind(f"an object of at least {least}", lambda one: isinstance(one, dict) and len(one) >= least)(value, where)
        for name, item in value.items():
            rule(item, _below(where, name))

    return check


def record(required: Mapping[str, Rule], optional: Mapping[str, Rule] | None = None) -> Rule:
    """An object with these names; further ones are of another hilum, and left alone."""

    def check(value: Any, where: str) -> None:
        kind("an object", lambda one: isinstance(one, dict))(value, where)
        for name in required:
            if name not in value:
                raise InputError(f"{where} has no {name!r}. {MEND}")
        for name, rule in {**required, **(optional or {})}.items():
            if name in value:
                rule(value[name], _below(where, name))

    return check


def _figures(value: Any, where: str) -> None:
    """Cross-validated figures of a finding, or the reason why there are none."""
    required = ("auc", "auc_low", "auc_high") if isinstance(value, dict) and "reason" not in value else ()
    record(dict.fromkeys(required, maybe(number)), {"reason": text})(value, where)
    named(maybe(number))({name: one for name, one in value.items() if name != "reason"}, where)


def _below(where: str, name: str) -> str:
    return f"{where}{': ' if where.endswith('.json') else '.'}{name}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


anything: Rule = lambda value, where: None  # noqa: E731
text = kind("text", lambda value: isinstance(value, str))
flag = kind("true or false", lambda value: isinstance(value, bool))
number = kind("a number", _is_number)
positive = kind("a number above 0", lambda value: _is_number(value) and value > 0)
count = kind("a whole number from 0", lambda value: _is_whole(value, 0, 2**53))
side = kind(f"a whole number from 1 to {MOST_PIXELS}", lambda value: _is_whole(value, 1, MOST_PIXELS))
outputs = kind(f"a whole number from 1 to {MOST_OUTPUTS}", lambda value: _is_whole(value, 1, MOST_OUTPUTS))
features = kind(f"a whole number from 1 to {MOST_FEATURES}", lambda value: _is_whole(value, 1, MOST_FEATURES))
hidden = kind(f"a whole number from 0 to {MOST_OUTPUTS}", lambda value: _is_whole(value, 0, MOST_OUTPUTS))
digest = kind("a SHA-256", lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None)
mapping = named(anything)
pair = kind("a pair of numbers", lambda one: isinstance(one, list) and len(one) == 2 and all(map(_is_number, one)))
knots = each(pair, 1)

_CALIBRATION = record(
    {"method": text},
    {
        "slope": number,
        "intercept": number,
        "shift": number,
        "beta": maybe(pair),
        "knots": maybe(knots),
        "prevalence": maybe(number),
        "reason": text,
    },
)
_BLEND = record(
    {"method": text},
    {"weights": each(number), "intercept": number, "inputs": each(text), "distributions": each(knots)},
)
_MODEL = record(
    {"file": text, "sha256": digest, "member": count, "backbone": text, "image_size": side, "views": text},
    {
        "column": count,
        "outputs": maybe(outputs),
        "copies": flag,
        "group": count,
        "fold": record({"index": count, "of": count, "films_sha256": digest}),
        "snapshot": count,
        "standardise": text,
        "backbone_args": maybe(mapping),
        "head": record({"kind": text, "features": features, "hidden": hidden}, {"name": text}),
        "encoder": record({"file": text, "sha256": digest, "pixel_mean": number, "pixel_std": positive}),
    },
)
_POINT = record(
    {"threshold": number, "useful": flag},
    {
        "reason": text,
        "promise": text,
        "lower_bound": maybe(number),
        "cross_validated": named(record({"value": maybe(number)})),
        **dict.fromkeys(("sensitivity", "specificity", "precision", "f1", "f2"), maybe(number)),
    },
)
_ZONE = record(
    {"coverage": number, "low": number, "high": number},
    {"reason": text, "cross_validated": named(maybe(number))},
)
_CANDIDATE = record(
    {"candidate": text, "adopted": flag, **dict.fromkeys(("log_loss", "gain", "low", "high"), maybe(number))}
)
_ENTRY = record(
    {
        "position": count,
        "name": text,
        "parents": each(text),
        "models": each(_MODEL, 1),
        "combine": text,
        "calibration": _CALIBRATION,
        "operating_point": text,
        "operating_points": named(_POINT, 1),
        "counts": record({"films": count, "positives": count, "negatives": count}),
        "cross_validated": _figures,
    },
    {
        "blend": _BLEND,
        "conformal": lambda value, where: _ZONE(value, where) if value else None,
        "choices": record({"blend": each(_CANDIDATE), "calibration": each(_CANDIDATE), "note": text}),
        "consumes": each(text),
    },
)
_DESCRIPTION = record(
    {
        "format": text,
        "input": record(
            {
                "size": side,
                "letterbox": anything,
                "intensity": anything,
                "pixel_mean": number,
                "pixel_std": positive,
                "views": each(text, 1),
            }
        ),
        "findings": named(_ENTRY, 1),
        "reference_contract": mapping,
        "data": record({"images_sha256": text, "split_hash": text}),
        "run": text,
        "made_with": mapping,
        "left_out": named(text),
    },
    {
        "runs": named(text),
        "consistency": flag,
        "adapted": each(record({"from_sha256": text})),
        "replaced": mapping,
    },
)
