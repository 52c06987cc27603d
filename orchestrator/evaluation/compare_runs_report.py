"""What a comparison of runs comes to, in sentences.

In: a RunComparison. Out: lines of text: on what it was judged, at what cost each side came, who is better where, and
whether a network of its own for each finding is worth it. Called by `hilum compare`.
"""

from orchestrator.evaluation.compare_runs import NO_DIFFERENCE, SIGNIFICANT, RunComparison
from orchestrator.evaluation.training_cost import compute_ratio, relation

ON = {
    "calibrate": "No network is judged on films that it has learned from or was chosen on.",
    "test": "This reading of the test labels is logged in test_reads.jsonl.",
    "select": "The epoch of every network was chosen on these very films: both figures flatter.",
}


def comparison_sentences(found: RunComparison) -> list[str]:
    """What a reader must know beside the table, the conclusion last."""
    first, second = found.names
    return [
        f"Judged on part {found.part}: {found.films} films of {found.patients} patients, reference labels. "
        f"{ON[found.part]}",
        f"{first}: {found.costs[0].describe()}.",
        f"{second}: {found.costs[1].describe()}.",
        relation(found.names, found.costs),
        *found.notes,
        _how(found),
        _who(found),
        *_worth(found),
    ]


def _how(found: RunComparison) -> str:
    judged = sum(not row.problem for row in found.rows)
    return (
        f"Each interval is of 95 % for its finding alone. A side is called better where p, adjusted after Holm for the "
        f"{judged} findings judged, is below {SIGNIFICANT:g}."
    )


def _who(found: RunComparison) -> str:
    """Each finding under the side that it speaks for."""
    judged = [row for row in found.rows if not row.problem]
    parts = []
    for name in found.names:
        better = [row.slug for row in judged if row.better == name]
        parts.append(f"{name} is better for {', '.join(better) if better else 'no finding'}")
    same = [row.slug for row in judged if row.better == NO_DIFFERENCE]
    parts += [f"no difference is shown for {', '.join(same)}"] if same else []
    weak = [row.slug for row in found.rows if row.problem]
    parts += [f"too few cases to judge {', '.join(weak)}"] if weak else []
    return "; ".join(parts) + "."


def _worth(found: RunComparison) -> list[str]:
    """Whether single networks are worth their price, where one side is single ones and the other a shared one."""
    if set(found.kinds) != {"single", "shared"}:
        return []
    at = found.kinds.index("single")
    single, shared = found.names[at], found.names[1 - at]
    judged = [row for row in found.rows if not row.problem]
    if not judged:
        return ["Every finding has too few cases here, so whether single networks are worth it cannot be said."]
    ratio, _ = compute_ratio(found.costs[at], found.costs[1 - at])
    wins = [row.slug for row in judged if row.better == single]
    price = f"{ratio:.1f} times the compute"
    if not wins:
        return [
            f"The single networks are not worth it here: for none of the {len(judged)} findings that can be judged are "
            f"they shown to be better, at {price}. A shared network does as well or better."
        ]
    rest = len(judged) - len(wins)
    others = f"; for the other {rest} a shared network does as well or better" if rest else ""
    return [f"Networks of their own are worth {price} for {', '.join(wins)}{others} ({shared})."]
