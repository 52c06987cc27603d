"""A search per finding over training settings, and the learning-rate range test.

In: a `study.SearchRequest`, or an `lr_finder.RateRequest`. Out: RUN/trials/<slug>/<number>/ and RUN/tuned/<slug>.toml;
a suggested rate with its picture. The command line alone imports from here: `tune`, `study`, `report`, `lr_finder`.
Read `tune` (the whole search), `study` (one finding's), `space` (what is varied), `trials` (the files that decide what
is done), `executors` with `trial_worker` (Ray Tune), `inline_executor`, `report`; apart from them `lr_finder`.
"""

__all__ = ["lr_finder", "report", "study", "tune"]
