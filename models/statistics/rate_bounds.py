"""From which threshold on is a rate promised, not only estimated? Lower confidence bounds of a sensitivity.

In: the patient of each film of one class, in the order in which a moving threshold reaches them. Out: for every number
of films that it has reached the one-sided lower bound of the share that it reaches among films of new patients. Called
by `thresholds`. numpy and SciPy, the latter imported where it is used.

For films of different patients the bound is Clopper and Pearson's (Biometrika 1934;26:404-413). Read at the score of a
film it is Wilks's tolerance limit (Annals of Mathematical Statistics 1941;12:91-96), which holds whatever the scores'
distribution; so the threshold may be chosen on these very films. Films of one patient resemble each other: then n films
count as n / design effect, the effective sample size of Korn and Graubard (Survey Methodology 1998;24:193-201) with the
variance between patients, at most n and at least Kish's number, that of patients who agree with themselves always.
"""

import numpy as np

CONFIDENCE = 0.95  # one-sided


def lower_bounds(patients, confidence: float = CONFIDENCE) -> np.ndarray:
    """Entry k is the bound when the first k of the n films are reached, k = 0..n; entry 0 is 0."""
    from scipy.special import betaincinv

    films = len(patients)
    reached = np.arange(1, films + 1)
    effective = effective_films(patients, confidence)[1:]
    hits = reached / max(films, 1) * effective
    return np.concatenate([[0.0], betaincinv(hits, effective - hits + 1, 1 - confidence)])


def effective_films(patients, confidence: float = CONFIDENCE) -> np.ndarray:
    """How many independent films the n films are worth when the first k are reached, k = 0..n."""
    from scipy.special import stdtrit

    _, patient, size = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)
    films, owners = len(patient), len(size)
    if owners < 2:
        return np.full(films + 1, float(owners))
    squares = float(size @ size)
    share = np.arange(films + 1) / films
    # With y of its s films reached, a patient adds (y - share s)^2 to the variance; a film more makes y^2 2 y + 1 more.
    own = np.concatenate([[0.0], np.cumsum(2 * _earlier_films(patient, size) + 1.0)])
    crossed = np.concatenate([[0.0], np.cumsum(size[patient])])
    between = np.maximum(own - 2 * share * crossed + share**2 * squares, 0.0)
    variance = owners / (owners - 1) * between / films**2
    kish = films**2 / squares
    with np.errstate(divide="ignore", invalid="ignore"):
        found = share * (1 - share) / variance
    freedom = stdtrit(films - 1, confidence) / stdtrit(owners - 1, confidence)
    found = np.where(np.isfinite(found), found * freedom**2, kish)  # none or all reached: nothing tells how films agree
    return np.clip(found, kish, films)


def fewest_patients(rate: float, confidence: float = CONFIDENCE) -> int:
    """The fewest patients with which any threshold can promise a rate: rate^n <= 1 - confidence."""
    return int(np.ceil(np.log(1 - confidence) / np.log(rate) - 1e-9))


def _earlier_films(patient: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Of each film: how many films of its patient come before it."""
    order = np.argsort(patient, kind="stable")
    earlier = np.empty(len(patient))
    earlier[order] = np.arange(len(patient)) - np.repeat(np.cumsum(size) - size, size)
    return earlier
