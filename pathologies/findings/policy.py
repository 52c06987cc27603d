"""A label policy: what an uncertain and what a blank label of one finding become in training.

In: the strings of a finding's TOML file, of a command's option or of a manifest. Out: a `LabelPolicy`, or an InputError
that says what is allowed. Called by `pathology`, which reads one from each file, and by the label contracts.
"""

import re
from dataclasses import dataclass

from pathologies.errors import InputError

UNCERTAIN_POLICIES = ("zeros", "ones", "ignore", "soft(low,high)")
BLANK_POLICIES = ("zero", "ignore")
_SOFT = re.compile(r"soft\(\s*([0-9.]+)\s*,\s*([0-9.]+)\s*\)")


@dataclass(frozen=True, kw_only=True)
class LabelPolicy:
    """What an uncertain (-1) and a blank label of one finding become."""

    uncertain: str = "ignore"  # zeros | ones | ignore | soft(low,high): a number drawn from [low, high)
    blank: str = "zero"  # zero | ignore

    def __post_init__(self) -> None:
        if not isinstance(self.uncertain, str) or not (
            self.uncertain in UNCERTAIN_POLICIES[:3] or _SOFT.fullmatch(self.uncertain)
        ):
            raise InputError(
                f"Policy for uncertain labels is {self.uncertain!r}. Allowed: {', '.join(UNCERTAIN_POLICIES)}."
            )
        if self.blank not in BLANK_POLICIES:
            raise InputError(f"Policy for blank labels is {self.blank!r}. Allowed: {', '.join(BLANK_POLICIES)}.")
        if self.soft_range is not None:
            low, high = self.soft_range
            if not 0 <= low <= high <= 1:
                raise InputError(f"Policy for uncertain labels is {self.uncertain!r}. Allowed: 0 <= low <= high <= 1.")
            object.__setattr__(self, "uncertain", f"soft({low:g},{high:g})")  # one spelling, so that equal means equal

    @property
    def soft_range(self) -> tuple[float, float] | None:
        """(low, high) of a soft policy, else None."""
        match = _SOFT.fullmatch(self.uncertain)
        if match is None:
            return None
        try:
            return float(match[1]), float(match[2])
        except ValueError:
            raise InputError(
                f"Policy for uncertain labels is {self.uncertain!r}: low and high are numbers from 0 to 1."
            ) from None

    def to_dict(self) -> dict[str, str]:
        return {"uncertain": self.uncertain, "blank": self.blank}
