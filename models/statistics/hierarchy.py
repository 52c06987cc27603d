"""A parent finding is at least as probable as its likeliest child: there is no cardiomegaly without a wide mediastinum.

In: calibrated probabilities of all findings of a film, and each finding's parents. Out: the same with parents raised.
An optional last step, the same wherever a bundle's probabilities are computed or fitted. numpy only.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pathologies.errors import InputError


def descendants(slug: str, parents: Mapping[str, Sequence[str]]) -> list[str]:
    """All findings below `slug`, children of children included. Errors: a finding below itself."""
    found: list[str] = []
    open_ = [slug]
    while open_:
        above = open_.pop()
        for child, its_parents in parents.items():
            if above in its_parents and child not in found:
                found.append(child)
                open_.append(child)
    if slug in found:
        raise InputError(f"The parents go in a circle: {slug} lies below itself by way of {', '.join(found)}.")
    return [child for child in parents if child in found]


def raise_parents(probability, slugs: Sequence[str], parents: Mapping[str, Sequence[str]]) -> np.ndarray:
    """N x findings probabilities, each the largest of itself and its descendants; only parents change, only upwards."""
    probability = np.asarray(probability, dtype=np.float64)
    raised = probability.copy()
    position = {slug: index for index, slug in enumerate(slugs)}
    known = {slug: parents.get(slug, ()) for slug in slugs}
    for slug in slugs:
        below = [position[child] for child in descendants(slug, known)]
        if below:
            raised[:, position[slug]] = probability[:, [position[slug], *below]].max(axis=1)
    return raised
