"""The four rewards over training: of one run, and of arms with bands over their seeds."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dpo.records import RunDir, write_atomically
from dpo.results import stats
from dpo.results.arms import Arm
from dpo.results.figures.figure import INK, SOFT, Figure, Look, Panel, build, on_card, style, svg_of
from dpo.results.figures.series import blanks, ids, limits, look_of, row
from dpo.results.frames import Run, Runs
from dpo.results.labels import label

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
    rows = list(run.rows(run.metrics))
    with style():
        write_atomically(run.curves, on_card(svg_of(reward_curves(rows, run.path.name), "dpo")))


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


def curves(runs: Runs) -> Figure | None:
    """The four rewards of each arm on the held-out pairs, with 95 % bands over its seeds; None for untrained arms."""
    arms = [arm for arm in runs.done.arms() if any(len(run.evaluations()) > 1 for run in arm.runs)]
    if not arms:
        return None
    style_of, blank = look_of(runs, arms), blanks(arms)
    metrics = [m for m in TITLES.values() if m not in blank]
    if len(metrics) < len(TITLES):  # losses of different scale: what means the same for all of them
        metrics += ["logratios/margins", "displacement", "logps/chosen_change"]
    data = pd.DataFrame([point for arm in arms for metric in metrics for point in band(arm, metric)])

    def panel(metric: str) -> Panel:
        def draw(axis: Any) -> None:
            for arm in arms:
                part = data[(data["arm"] == arm.label) & (data["metric"] == metric)]
                look = style_of[arm.label]
                axis.plot(part["step"], part["value"], color=look.colour, marker=look.marker, ls=look.line)
                held = part.dropna(subset=["low", "high"])
                ends = held["low"].astype(float), held["high"].astype(float)
                axis.fill_between(held["step"], *ends, color=look.colour, alpha=0.18, lw=0)
            limits(axis, metric)
            axis.set_xlabel("optimizer step")

        return Panel(label(metric), draw)

    left = f" Rewards are left out: {next(iter(blank.values()))}." if len(metrics) > len(TITLES) - len(blank) else ""
    caption = (
        "Held-out pairs at every evaluation: mean over seeds with 95 % bands (Student's t over seeds; no band where an "
        f"arm has one).{left or ' Rewards grow with beta by definition; compare arms on d and on what they say.'}"
    )
    return build("curves", "Rewards during training", caption, list(map(panel, metrics)), data, ids(arms), style_of)


def band(arm: Arm, metric: str) -> list[dict[str, Any]]:
    """The arm's estimate at every evaluation that all its runs have."""
    logged = [{r["step"]: r[f"eval/{metric}"] for r in run.rows if f"eval/{metric}" in r} for run in arm.runs]
    steps = sorted(set.intersection(*map(set, logged))) if logged else []
    return [
        row(stats.mean([values[step] for values in logged]), arm=arm.label, metric=metric, step=step) for step in steps
    ]
