"""Synthetic chest films with planted findings, in CheXpert's own layout.

In: a `PhantomConfig`: patients, seed, size, prevalence, style of the labels. Out: a folder of films with `train.csv`,
`truth.csv` and, last, `phantom.json`. From elsewhere only `writer` is imported (`PhantomConfig`, `write_phantom`,
`render_example`). Read `writer`, then `patients` (who is drawn, with what), `labels` (what a report labeller makes of
it), `films` (one film from build to pixels), then what it draws: `anatomy`, `findings`, `lateral`, `devices`, all with
`canvas`.
"""

__all__ = ["writer"]
