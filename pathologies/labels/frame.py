"""The label frame: a row per film, what is known about it, and a column of raw labels per finding.

In: a frame, as `pathologies.sources` makes it. Out: the names of its columns, the codes of its raw labels, and a
finding's column, checked. Used by all that make, read or count labels. Needs numpy alone.
"""

from typing import TYPE_CHECKING

import numpy as np

from pathologies.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

META_COLUMNS = (
    "image_id",
    "patient_id",
    "study_id",
    "view",
    "projection",
    "age",
    "sex",
    "path",
    "official_split",
    "source",
    "no_finding",
)
# A raw label is 1 (present), 0 (absent), a soft value between, NaN (blank: not mentioned) or one of these two. Blank
# and unknown differ: a policy may read what a report does not mention as absent, and never what the source cannot say.
UNCERTAIN, UNKNOWN = -1.0, -2.0
LABEL_CODES = {  # written into a manifest; a data set without it was made when unknown had no code and was a blank
    "1": "present",
    "0": "absent",
    "0 to 1": "soft",
    "-1": "uncertain",
    "-2": "unknown: the source cannot say",
    "blank": "not mentioned",
}


def raw_labels(frame: "pd.DataFrame", slug: str) -> np.ndarray:
    """The raw column of a finding as float32; a missing column or an impossible label is an InputError."""
    if slug not in frame.columns:
        raise InputError(
            f"The label frame has no column '{slug}': its source does not label that finding. "
            f"Columns: {', '.join(frame.columns)}."
        )
    raw = frame[slug].to_numpy(dtype=np.float32, na_value=np.nan)
    wrong = ~(np.isnan(raw) | (raw == UNCERTAIN) | (raw == UNKNOWN) | ((raw >= 0) & (raw <= 1)))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"Column '{slug}', image '{frame['image_id'].iloc[row]}': label {raw[row]:g} in {int(wrong.sum())} row(s). "
            "Allowed: 1, 0, -1 (uncertain), -2 (unknown), blank, or a soft label between 0 and 1."
        )
    return raw
