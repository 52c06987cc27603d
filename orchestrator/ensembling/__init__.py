"""From a RUN to a BUNDLE; a finding of it replaced; the whole of it adapted to a hospital.

In: a RUN with stored predictions and its DATASET; for `adapt` a BUNDLE and labelled films or prevalences. Out: a
BUNDLE, `bundle.json` last. From elsewhere are imported `build`, `replace`, `adapt` (their requests and functions),
`members` (`Trained`), `logit_tables` (`mean_logits`) and `pipeline` (`comparisons_text`, `patient_power`). Read
`build`, `members` (which networks), `logit_tables` (what they say), `calibration_fit`, `pipeline` (which blend and
calibration), `bundle_writing`; then `replace`; then `adapt` with `site_data`, `prior_shift`, `adapted_bundle`,
`adapt_report`.
"""

__all__ = ["adapt", "build", "logit_tables", "members", "pipeline", "replace"]
