"""The one class of error that a user can mend: bad input, told in a sentence (what, got, allowed, next step).

Raised by every package, shown by the command line without a traceback (exit code 2). Any other exception, a bare
ValueError among them, is a defect of ours and keeps its traceback. `did_you_mean` ends the sentence on a name that is
not known.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """What was given cannot be used as it is. The message is a sentence for whoever gave it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, if one is near, and all known names."""
    known = list(known)
    return f"{nearest(name.lower(), known)} Known: {', '.join(known)}."


def nearest(name: str, known: Iterable[str], question: str = "Did you mean") -> str:
    """A question after the nearest known name, for the middle of such a message; "" if none is near."""
    near = get_close_matches(name, list(known), n=1)
    return f" {question} '{near[0]}'?" if near else ""
