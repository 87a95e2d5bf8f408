"""The four rewards over training: of one run, and of arms with bands over their seeds."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dpo.records import RunDir
from dpo.results import stats
from dpo.results.arms import Arm
from dpo.results.figures.figure import GRID, INK, SERIES, SOFT, Figure, Look, Panel, build, looks, style, svg_of
from dpo.results.figures.series import WORDS, blanks, ids, row, say
from dpo.results.frames import Run, Runs

COLOURS = {"chosen": "#0072B2", "rejected": "#D55E00", "margins": "#009E73", "accuracies": "#CC79A7"}
TITLES = {name: f"rewards/{name}" for name in COLOURS}
KINDS = {"train": Look(INK, "", "—", "-"), "eval": Look(INK, "o", "●", "")}


def reward_curves(rows: list[dict[str, Any]], name: str) -> Any:
    """The four reward metrics of one run over steps, training as a line, evaluation as dots; a matplotlib Figure.

    Rewards are beta times summed log-ratios in nats; accuracy is a share.
    """
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(10, 5.5), layout="constrained")
    for axis, metric in zip(figure.subplots(2, 2).flat, COLOURS, strict=True):
        draw_run(axis, rows, metric)
        axis.set_title(TITLES[metric])
        axis.legend(fontsize=8)
    figure.suptitle(name, fontsize=10)
    return figure


def draw_run(axis: Any, rows: list[dict[str, Any]], metric: str) -> None:
    """One reward metric of one run."""
    for kind, options in (("train", {"lw": 1.2, "alpha": 0.7}), ("eval", {"lw": 0, "marker": "o", "ms": 5})):
        key = f"{kind}/{TITLES[metric]}"
        points = [(row["step"], row[key]) for row in rows if key in row]
        axis.plot([p[0] for p in points], [p[1] for p in points], color=COLOURS[metric], label=kind, **options)
    if metric == "accuracies":
        axis.set_ylim(-0.05, 1.05)
    axis.axhline(0.5 if metric == "accuracies" else 0, color=SOFT, lw=0.8, ls=":")
    axis.set_xlabel("optimizer step")


def save_reward_curves(run: RunDir) -> None:
    """Write the run's curves.svg (the same bytes for the same rows)."""
    from dpo.results.figures.figure import on_card

    rows = list(run.rows(run.metrics))
    with style():
        run.curves.write_text(on_card(svg_of(reward_curves(rows, run.path.name), "dpo")), encoding="utf-8")


def run_curves(run: Run) -> Figure:
    """The four rewards of one run: each optimizer step and each evaluation."""
    rows = list(run.rows)
    panels = [Panel(TITLES[m], lambda axis, m=m: draw_run(axis, rows, m)) for m in COLOURS]  # type: ignore[misc]
    data = [
        {"run": run.id, "kind": r["kind"], "step": r["step"], "metric": title, "value": r[f"{r['kind']}/{title}"]}
        for title in TITLES.values()
        for r in rows
        if f"{r['kind']}/{title}" in r
    ]
    caption = (
        f"Run {run.name}. Lines: means over the pairs of each optimizer step; dots: means over all held-out pairs. "
        "Rewards are beta times the log-ratio to the reference, summed over the answer. Watch chosen and rejected, "
        "not the margin alone: both far below 0 is reward collapse."
    )
    return build(f"curves-{run.id}", "Rewards during training", caption, panels, pd.DataFrame(data), [run.id], KINDS)


def curves(runs: Runs, *keys: str) -> Figure:
    """The four rewards of each arm on the held-out pairs, with 95 % bands over its seeds."""
    arms = [arm for arm in runs.done.arms(*keys) if any(len(run.evaluations()) > 1 for run in arm.runs)]
    style_of, blank = looks([arm.label for arm in arms]), blanks(arms)
    data = pd.DataFrame([point for arm in arms for metric in COLOURS for point in band(arm, TITLES[metric])])

    def panel(metric: str) -> Panel:
        title = TITLES[metric]

        def draw(axis: Any) -> None:
            if title in blank:
                return say(axis, f"left blank: {blank[title]}")
            for arm in arms:
                part = data[(data["arm"] == arm.label) & (data["metric"] == title)]
                look = style_of[arm.label]
                axis.plot(part["step"], part["value"], color=look.colour, marker=look.marker, ls=look.line)
                held = part.dropna(subset=["low", "high"])
                axis.fill_between(
                    held["step"], held["low"].astype(float), held["high"].astype(float), color=look.colour, alpha=0.18, lw=0
                )
            if metric == "accuracies":
                axis.set_ylim(-0.05, 1.05)
            axis.axhline(0.5 if metric == "accuracies" else 0, color=SOFT, lw=0.8, ls=":")
            axis.set_xlabel("optimizer step")
            return None

        return Panel(WORDS[title], draw)

    caption = (
        "Held-out pairs at every evaluation: mean over seeds with 95 % bands (Student's t over seeds; no band where an "
        "arm has one). Rewards grow with beta by definition; compare arms on d and on what they say."
    )
    shown = data[~data["metric"].isin(blank)] if len(data) else data
    return build("curves", "Rewards during training", caption, list(map(panel, COLOURS)), shown, ids(arms), style_of)


def band(arm: Arm, metric: str) -> list[dict[str, Any]]:
    """The arm's estimate at every evaluation that all its runs have."""
    logged = [{r["step"]: r[f"eval/{metric}"] for r in run.rows if f"eval/{metric}" in r} for run in arm.runs]
    steps = sorted(set.intersection(*map(set, logged))) if logged else []
    return [
        row(stats.mean([values[step] for values in logged]), arm=arm.label, metric=metric, step=step) for step in steps
    ]


__all__ = ["COLOURS", "GRID", "SERIES", "TITLES", "curves", "reward_curves", "run_curves", "save_reward_curves"]
