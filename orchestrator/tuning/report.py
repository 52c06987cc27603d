"""What a search found: tuned against default on `calibrate`, what mattered, a table, a picture per finding.

In: the open searches. Out: rows for the terminal, RUN/tuned/trials.csv, RUN/tuned/<slug>.png. Called by `hilum tune`.
Part `calibrate` has chosen nothing here, so it is a fair judge of the winner: the score on `select` is not, having been
the best of many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from models.statistics.bootstrap import PatientBootstrap, holm, interval, p_value
from orchestrator.formatting import cell, write_csv
from orchestrator.plotting import save_figure
from orchestrator.tuning.space import Dimension
from orchestrator.tuning.study import Search
from orchestrator.tuning.trials import STOPPED, Trial, ranked, read_trials
from pathologies.table_files import read_parquet_file

COLUMNS = ("finding", "trials", "ok", "stopped", "failed", "default", "best", "trial", "by", "default AUC", "tuned AUC",
           "difference", "95 % interval", "verdict", "what mattered")  # fmt: skip
SHUFFLES = 500


@dataclass(frozen=True, kw_only=True)
class TunedComparison:
    """The winner against the defaults on the films of `calibrate`; the reason where that cannot be said."""

    default: float | None = None
    tuned: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None  # of no difference, for this finding alone; none where the defaults themselves won
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Importance:
    """The share of the scores' rank variance that goes with one setting, and what chance gives in 95 of 100 cases."""

    field: str
    share: float
    chance: float


def compare(search: Search) -> TunedComparison:
    """Paired by patient. A winner that loses here is reported as it is."""
    trials = read_trials(search.paths)
    best = ranked(trials)
    default = next((trial for trial in trials if trial.number == 0), None)
    if not best or default is None or default.status != "ok":
        return TunedComparison(verdict="no comparison without a finished trial of the defaults")
    tuned, plain = (_calibrate_logits(trial) for trial in (best[0], default))
    truth, patients = _calibrate_truth(search, plain.index)
    known = ~np.isnan(truth)
    bootstrap = PatientBootstrap(patients[known])
    scores = [one.reindex(plain.index).to_numpy(float)[known] for one in (tuned, plain)]
    areas = [bootstrap.rank_scores(score, truth[known])["auc"] for score in scores]
    aucs = [float(area[0]) for area in areas]
    if np.isnan(aucs).any():
        return TunedComparison(verdict="no comparison: part calibrate has one class only")
    gain = interval(areas[0] - areas[1])
    figures = {"default": aucs[1], "tuned": aucs[0], "difference": gain.value, "low": gain.low, "high": gain.high}
    if best[0].number == 0:
        return TunedComparison(**figures, verdict="the defaults stand")
    p = p_value(areas[0] - areas[1])
    return TunedComparison(**figures, p=p, verdict=_verdict(gain.value, p))


def compare_all(searches: Mapping[str, Search]) -> dict[str, TunedComparison]:
    """`compare` for each finding, what is called better or worse adjusted after Holm for the number of findings."""
    found = {slug: compare(search) for slug, search in searches.items()}
    tested = [slug for slug, one in found.items() if one.p is not None]
    for slug, p in zip(tested, holm([found[slug].p for slug in tested]), strict=True):
        found[slug] = replace(found[slug], verdict=_verdict(found[slug].difference, p))
    return found


def importances(trials: Sequence[Trial], space: Sequence[Dimension]) -> list[Importance]:
    """Each setting by itself, the strongest first; empty for fewer than five scored trials."""
    scored = [trial for trial in trials if trial.score is not None]
    if len(scored) < 5:
        return []
    ranks = rankdata([trial.score for trial in scored])
    draws = np.random.default_rng(0)
    shuffled = np.stack([draws.permutation(ranks) for _ in range(SHUFFLES)])
    found = []
    for one in space:
        design = _design([trial.config[one.field] for trial in scored], one)
        chance = np.quantile([_explained(design, order) for order in shuffled], 0.95)
        found.append(Importance(field=one.field, share=_explained(design, ranks), chance=float(chance)))
    return sorted(found, key=lambda one: one.chance - one.share)


def table_rows(searches: Mapping[str, Search]) -> list[list[str]]:
    """One row per finding, under COLUMNS."""
    rows, compared = [], compare_all(searches)
    for slug, search in searches.items():
        trials = read_trials(search.paths)
        best, seen = ranked(trials), compared[slug]
        counts = [sum(trial.status == status for trial in trials) for status in ("ok", STOPPED)]
        failed = sum(trial.status not in ("ok", STOPPED, "running") for trial in trials)
        default = next((trial.score for trial in trials if trial.number == 0), None)
        mattered = [one.field for one in importances(trials, search.space) if one.share > one.chance]
        span = f"{seen.low:+.3f} to {seen.high:+.3f}" if seen.low is not None else ""
        rows.append([
            slug, str(len(trials)), *map(str, counts), str(failed), cell(default),
            cell(best[0].score if best else None), str(best[0].number) if best else "", search.rule.name,
            cell(seen.default), cell(seen.tuned), cell(seen.difference, sign="+"), span, seen.verdict,
            ", ".join(mattered[:3]) or "nothing beyond chance",
        ])  # fmt: skip
    return rows


def trials_table(searches: Mapping[str, Search]) -> pd.DataFrame:
    """Every trial of every finding with its settings: one row each."""
    rows = []
    for slug, search in searches.items():
        for trial in read_trials(search.paths):
            outcome = trial.outcome or {}
            row = {"finding": slug, "trial": trial.number, "status": trial.status, "select_score": trial.score}
            row |= {name: outcome.get(name) for name in ("best_epoch", "epochs_trained", "started", "ended", "error")}
            rows.append(row | {one.field: trial.config[one.field] for one in search.space})
    return pd.DataFrame(rows)


def write_report(searches: Mapping[str, Search]) -> list[Path]:
    """RUN/tuned/trials.csv and a picture per finding; returns their paths."""
    written = []
    for slug, search in searches.items():
        goal = search.paths.run.tuned(slug).with_suffix(".png")
        trials = [trial for trial in read_trials(search.paths) if trial.score is not None]
        if trials:
            written.append(save_figure(draw_search(search, trials), goal))
    if searches:
        goal = next(iter(searches.values())).paths.run.tuned("any").with_name("trials.csv")
        write_csv(trials_table(searches), goal)
        written.append(goal)
    return written


def draw_search(search: Search, trials: Sequence[Trial]):
    """Parallel coordinates above; best so far over time and what mattered below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 8), layout="constrained")
    axes = figure.subplot_mosaic([["lines", "lines"], ["time", "share"]], width_ratios=[3, 2])
    figure.suptitle(
        f"{search.slug}: {len(trials)} trials, score: {search.rule.name} on part select "
        "(black: the defaults, dotted: stopped early)"
    )
    _draw_lines(figure, axes["lines"], search, trials)
    _draw_time(axes["time"], trials)
    _draw_shares(axes["share"], importances(trials, search.space))
    return figure


def _draw_lines(figure: Any, axes: Any, search: Search, trials: Sequence[Trial]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    ranks = rankdata([trial.score for trial in trials])
    colours = ScalarMappable(norm=Normalize(1, max(len(trials), 2)), cmap="viridis")
    for rank, trial in sorted(zip(ranks, trials, strict=True), key=lambda pair: pair[0]):
        heights = [_height(one, trial.config[one.field]) for one in search.space]
        style = {"linestyle": ":" if trial.status == STOPPED else "-", "linewidth": 2.6 if trial.number == 0 else 1.2}
        axes.plot(heights, color="black" if trial.number == 0 else colours.to_rgba(rank), alpha=0.8, **style)
    names = [f"{one.field}\n{_edge(one, 0)}" for one in search.space]
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    for place, one in enumerate(search.space):
        axes.axvline(place, color="0.8", linewidth=0.8, zorder=0)
        axes.text(place, 1.03, _edge(one, -1), ha="center", fontsize=8)
    axes.set_yticks([])
    axes.set_ylim(-0.05, 1.1)
    figure.colorbar(colours, ax=axes, label="rank of the score", pad=0.01)


def _draw_time(axes: Any, trials: Sequence[Trial]) -> None:
    ended = sorted(trials, key=lambda trial: trial.outcome["ended"])
    first = min(datetime.fromisoformat(trial.outcome.get("started") or trial.outcome["ended"]) for trial in trials)
    minutes = [(datetime.fromisoformat(trial.outcome["ended"]) - first).total_seconds() / 60 for trial in ended]
    for status, mark in (("ok", "o"), (STOPPED, "x")):
        chosen = [place for place, trial in enumerate(ended) if trial.status == status]
        axes.plot([minutes[i] for i in chosen], [ended[i].score for i in chosen], mark, color="0.5", label=status)
    well = [(minute, trial.score) for minute, trial in zip(minutes, ended, strict=True) if trial.status == "ok"]
    if well:
        best = np.maximum.accumulate([score for _, score in well])
        axes.step([minute for minute, _ in well], best, where="post", color="#b2182b", label="best so far")
    axes.set_xlabel("minutes since the first trial began")
    axes.set_ylabel("score")
    axes.legend(frameon=False, fontsize=8)


def _draw_shares(axes: Any, found: Sequence[Importance]) -> None:
    if not found:
        axes.text(0.5, 0.5, "too few trials to say what mattered", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    places = range(len(found))
    axes.barh(places, [one.share for one in found], color="#2166ac")
    axes.plot([one.chance for one in found], places, "|", color="black", markersize=12, label="95 % of chance below")
    axes.set_yticks(places, [one.field for one in found], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("share of the scores' rank variance that goes with one setting")
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _height(dimension: Dimension, value: Any) -> float:
    """Where on its axis a value lies, from 0 to 1."""
    if dimension.choices:
        return dimension.choices.index(value) / max(len(dimension.choices) - 1, 1)
    edges = np.array([dimension.low, dimension.high, max(value, dimension.low) if dimension.log else value], float)
    low, high, here = np.log(edges) if dimension.log else edges
    return float((here - low) / (high - low))


def _edge(dimension: Dimension, which: int) -> str:
    if dimension.choices:
        return str(dimension.choices[which])
    return f"{dimension.low if which == 0 else dimension.high:g}"


def _design(values: Sequence[Any], dimension: Dimension) -> np.ndarray:
    """Columns that a linear fit of the ranks may use: the value's rank, or one indicator per choice."""
    if dimension.choices:
        return np.stack([[value == choice for value in values] for choice in dimension.choices], axis=1).astype(float)
    return rankdata(values)[:, None]


def _explained(design: np.ndarray, ranks: np.ndarray) -> float:
    """R squared of the fit with an intercept: Spearman's squared for a number, eta squared for choices."""
    centred, target = design - design.mean(axis=0), ranks - ranks.mean()
    total = float(target @ target)
    if not total or not centred.any():
        return 0.0
    fitted = centred @ np.linalg.lstsq(centred, target, rcond=None)[0]
    return float(fitted @ fitted / total)


def _calibrate_logits(trial: Trial) -> pd.Series:
    stored = read_parquet_file(trial.paths.predictions)
    return stored[stored["part"] == "calibrate"].set_index("image_id")["logit"]


def _calibrate_truth(search: Search, films: pd.Index) -> tuple[np.ndarray, np.ndarray]:
    """Reference labels (NaN where unknown) and patients of these films."""
    truth, patients = search.material.truth(search.slug), search.material.patients
    return truth.reindex(films).to_numpy(float), patients.reindex(films).to_numpy(str)


def _verdict(difference: float, p: float) -> str:
    if not p < 0.05:
        return "no difference shown"
    return "tuned is better" if difference > 0 else "tuned is WORSE"
