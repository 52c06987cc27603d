"""The label audit: everything that can be counted in a label frame, before and after the contract, as plain data.

Goes in: a label frame (filtered or not), the catalogue and a label contract. Comes out: one dictionary of numbers and
strings, ready for JSON, and the rows of a table. Called by `hilum labels audit` and by the report.

`findings.<slug>` counts raw labels first (positive, negative, uncertain, blank, unknown), then, under `after`, what the
contract makes of them, and under `changes`, the rows that each of its rules touched. Unknown is what the source says of
a film and, as `not_labelled`, what it says of none. Label vectors and co-occurrence are of raw positives.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pathologies.findings.pathology import Pathology
from pathologies.labels.contract import LabelContract, training_contract
from pathologies.labels.frame import raw_labels
from pathologies.labels.resolution import resolve
from pathologies.labels.sample_weights import combination_of

AUDIT_HEADER = (
    "finding",
    "positive",
    "negative",
    "uncertain",
    "blank",
    "unknown",
    "policy",
    "lifted",
    "contradictions",
    "positive after",
    "negative after",
    "soft after",
    "unknown after",
)
MOST_COMMON = 20
_CHANGES = (
    "no_finding_filled",
    "no_finding_contradictions",
    "closure_lifted",
    "closure_lifted_uncertain",
    "uncertain_as_zeros",
    "uncertain_as_ones",
    "uncertain_as_ignore",
    "uncertain_as_soft",
    "blank_as_zero",
    "blank_as_ignore",
)
_MANY = 10  # studies or images of a patient from which on they are counted together


def audit_labels(
    frame: pd.DataFrame,
    catalog: Mapping[str, Pathology],
    contract: LabelContract | None = None,
    *,
    labelled: Mapping[str, Sequence[str]] | None = None,
    dropped: Mapping[str, int] | None = None,
    notes: Sequence[str] = (),
) -> dict:
    """Count a label frame; without a contract, each finding's own training policy and closure apply.

    `labelled` ({source: slugs}) as in `resolution.resolve`; `dropped` and `notes` (of filters and readers) are passed
    on.
    """
    if contract is None:
        contract = training_contract(catalog, [slug for slug in catalog if slug in frame.columns])
    slugs = tuple(contract.policies)
    raw = {slug: raw_labels(frame, slug) for slug in slugs}
    positive = np.stack([raw[slug] == 1 for slug in slugs], axis=1) if slugs else np.zeros((len(frame), 0), bool)
    findings = {slug: _finding(frame, raw[slug], slug, contract, catalog, labelled) for slug in slugs}
    return {
        "rows": len(frame),
        "patients": int(frame["patient_id"].nunique()),
        "studies": int(frame["study_id"].nunique()),
        "views": {"frontal": 0, "lateral": 0, **_counts(frame["view"])},
        "projections": _counts(frame["projection"]),
        "sex": _counts(frame["sex"]),
        "age": _ages(frame["age"].to_numpy(np.float32, na_value=np.nan)),
        "sources": _counts(frame["source"]),
        "studies_per_patient": _per_patient(frame.drop_duplicates("study_id")["patient_id"]),
        "images_per_patient": _per_patient(frame["patient_id"]),
        "no_finding": {"positive": _no_finding(frame)},
        "contract": contract.to_dict(),
        "findings": findings,
        "label_vectors": _label_vectors(positive, slugs),
        "cooccurrence": {"findings": list(slugs), "positive": _cooccurrence(positive)},
        "dropped": {name: int(count) for name, count in (dropped or {}).items()},
        "notes": list(notes),
    }


def audit_rows(report: Mapping) -> list[list[str]]:
    """The findings of an audit as rows of a table under AUDIT_HEADER."""
    rows = []
    for slug, finding in report["findings"].items():
        after, policy = finding["after"], report["contract"]["policies"][slug]
        numbers = [finding[key] for key in ("positive", "negative", "uncertain", "blank", "unknown")]
        changes = [finding["closure_lifted"], finding["contradictions"]]
        results = [after[key] for key in ("positive", "negative", "soft", "unknown")]
        written = policy["uncertain"] if policy["blank"] == "zero" else f"{policy['uncertain']}, blank ignored"
        rows.append([slug, *_written(numbers), written, *_written(changes), *_written(results)])
    return rows


def audit_facts(report: Mapping) -> list[str]:
    """Everything in an audit that is not per finding, as lines of text."""
    age, vectors = report["age"], report["label_vectors"]
    span = f"{age['minimum']:.0f} to {age['maximum']:.0f}, median {age['median']:.0f}, " if age["known"] else ""
    lines = [f"dropped by {name}: {count:,} rows" for name, count in report["dropped"].items()]
    lines += [
        f"patients {report['patients']:,}, studies {report['studies']:,}",
        f"views: {_listed(report['views'])}; projections: {_listed(report['projections'])}",
        f"sex: {_listed(report['sex'])}; age: {span}unknown {age['unknown']:,}, zero {age['zero']:,}",
        f"studies per patient: {_listed(report['studies_per_patient'].get('patients', {}))}",
        f"label vectors: {vectors['distinct']:,} distinct, {vectors['none']:,} rows without a positive finding",
    ]
    common = [f"{' + '.join(one['findings']) or 'none'} {one['rows']:,}" for one in vectors["most_common"][:10]]
    return [*lines, f"most frequent: {'; '.join(common)}"]


def cooccurrence_rows(report: Mapping) -> tuple[list[str], list[list[str]]]:
    """(titles, rows): in how many rows both findings are positive; the columns are numbered like the rows."""
    slugs = report["cooccurrence"]["findings"]
    counts = report["cooccurrence"]["positive"]
    titles = ["positive together", *[str(number) for number in range(1, len(slugs) + 1)]]
    rows = [[f"{number} {slug}", *_written(counts[number - 1])] for number, slug in enumerate(slugs, 1)]
    return titles, rows


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _written(numbers: Sequence[int]) -> list[str]:
    return [f"{number:,}" for number in numbers]


def _finding(frame, raw: np.ndarray, slug: str, contract, catalog, labelled) -> dict:
    counts = resolve(frame, slug, contract, catalog, labelled=labelled).counts
    lifted, lifted_uncertain = counts["closure_lifted"], counts["closure_lifted_uncertain"]
    uncertain = sum(counts[f"uncertain_as_{name}"] for name in ("zeros", "ones", "ignore", "soft"))
    blank = sum(counts[name] for name in ("no_finding_filled", "blank_as_zero", "blank_as_ignore"))
    return {
        "name": catalog[slug].name,
        "positive": counts["explicit_positive"],
        "negative": counts["explicit_negative"],
        "uncertain": uncertain + lifted_uncertain,
        "blank": blank + lifted - lifted_uncertain,
        "unknown": counts["explicit_unknown"] + counts["not_labelled"],
        "soft": counts["explicit_soft"],
        "not_labelled": counts["not_labelled"],
        "closure_lifted": lifted,
        "contradictions": counts["contradictions"],
        "after": {key: counts[key] for key in ("positive", "negative", "soft", "unknown")},
        "changes": {key: count for key, count in counts.items() if key in _CHANGES},
        **{f"positive_by_{by}": _counts(frame[by][raw == 1]) for by in ("view", "projection", "sex")},
    }


def _counts(column: pd.Series) -> dict[str, int]:
    """How often each value occurs, most frequent first; an empty one is called unknown."""
    counts = column.fillna("").value_counts()
    return {str(value) or "unknown": int(count) for value, count in counts.items()}


def _ages(age: np.ndarray) -> dict:
    known = age[~np.isnan(age)]
    summary = {"known": len(known), "unknown": int(len(age) - len(known)), "zero": int((known == 0).sum())}
    if not len(known):
        return summary
    decades = np.bincount((known // 10).astype(int))
    return {
        **summary,
        "minimum": float(known.min()),
        "median": float(np.median(known)),
        "maximum": float(known.max()),
        "by_decade": {f"{10 * i}-{10 * i + 9}": int(count) for i, count in enumerate(decades) if count},
    }


def _per_patient(patients: pd.Series) -> dict:
    """How many patients have one, two, ... of what the rows are; from ten on together."""
    sizes = patients.value_counts().to_numpy()
    if not len(sizes):
        return {}
    histogram = np.bincount(np.minimum(sizes, _MANY), minlength=_MANY + 1)
    names = [str(i) if i < _MANY else f"{_MANY}+" for i in range(_MANY + 1)]
    return {
        "mean": round(float(sizes.mean()), 3),
        "median": float(np.median(sizes)),
        "maximum": int(sizes.max()),
        "patients": {name: int(count) for name, count in zip(names, histogram, strict=True) if count},
    }


def _no_finding(frame: pd.DataFrame) -> int:
    return int((frame["no_finding"] == 1).sum()) if "no_finding" in frame.columns else 0


def _label_vectors(positive: np.ndarray, slugs: Sequence[str]) -> dict:
    _, first, counts = np.unique(combination_of(positive), return_index=True, return_counts=True)
    vectors = positive[first]
    order = np.argsort(-counts, kind="stable")[:MOST_COMMON]
    return {
        "findings": list(slugs),
        "distinct": len(counts),
        "none": int(np.count_nonzero(~positive.any(axis=1))),
        "most_common": [
            {"findings": [slug for slug, on in zip(slugs, vectors[i], strict=True) if on], "rows": int(counts[i])}
            for i in order
        ],
    }


def _cooccurrence(positive: np.ndarray) -> list[list[int]]:
    """Rows in which both findings are positive; the diagonal is the positives of each."""
    matrix = positive.astype(np.float32)  # whole numbers are exact in float32 up to 2**24 rows; beyond, by blocks
    blocks = [matrix[i : i + 2**24] for i in range(0, max(len(matrix), 1), 2**24)]
    return sum((block.T @ block).astype(np.int64) for block in blocks).tolist()
