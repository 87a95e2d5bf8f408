"""What beta does: each outcome over beta, and margins against the distance from the reference."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dpo.results.arms import Arm
from dpo.results.figures.figure import Figure, Look, Panel, build, looks
from dpo.results.figures.series import (
    blanks,
    estimate,
    group_of,
    ids,
    limits,
    log_ticks,
    look_of,
    row,
    run_row,
    say,
    value_of,
    whiskers,
)
from dpo.results.frames import Runs
from dpo.results.labels import label

BETA = "beta.value"
OUTCOMES = ("rewards/margins", "logratios/margins", "kl", "rewards/accuracies", "displacement", "samples/length")


def over(
    runs: Runs, key: str, metrics: tuple[str, ...], name: str, title: str, caption: str, logarithmic: bool, along: str
) -> Figure:
    """Each metric's last evaluation over one swept setting: means over seeds with intervals, runs as small dots.

    Arms that differ in another setting too make a line each.
    """
    arms = [arm for arm in runs.done.arms(key) if isinstance(arm.values.get(key), int | float)]
    lines: dict[str, list[Arm]] = {}
    for arm in arms:
        lines.setdefault(group_of(arm, key), []).append(arm)
    style_of, blank = looks(list(lines)), blanks(arms)
    points: list[dict[str, Any]] = []
    for line, members in lines.items():
        for arm in members:
            for metric in (m for m in metrics if m not in blank):
                facts = {"line": line, key: arm.values[key], "metric": metric}
                found = estimate(arm, metric)
                points += [row(found, **facts, run="", seed=None)] if found else []
                points += [run_row(r, v, **facts) for r in arm.runs if (v := value_of(r, metric)) is not None]

    def panel(metric: str) -> Panel:
        def draw(axis: Any) -> None:
            if metric in blank:
                return say(axis, f"left blank: {blank[metric]}")
            if not any(point["metric"] == metric for point in points):
                return say(axis, "no run has this value")
            for line, members in lines.items():
                draw_line(axis, members, key, metric, style_of[line])
            if logarithmic:
                log_ticks(axis, [float(arm.values[key]) for arm in arms])
            limits(axis, metric)
            axis.set_xlabel(along)
            return None

        return Panel(label(metric), draw)

    legend = style_of if len(lines) > 1 else None
    return build(name, title, caption, list(map(panel, metrics)), pd.DataFrame(points), ids(arms), legend, columns=3)


def draw_line(axis: Any, arms: list[Arm], key: str, metric: str, look: Look) -> None:
    """One line of arms: runs as small dots, means with intervals, joined."""
    means = []
    for arm in arms:
        x = float(arm.values[key])
        values = [v for r in arm.runs if (v := value_of(r, metric)) is not None]
        axis.plot([x] * len(values), values, color=look.colour, marker="o", ms=2.5, lw=0, alpha=0.5)
        found = estimate(arm, metric)
        if found:
            means.append((x, found.value))
            whiskers(axis, x, found, look)
    axis.plot([m[0] for m in means], [m[1] for m in means], color=look.colour, ls=look.line, lw=1.2)


def beta_panels(runs: Runs) -> Figure:
    """Margin, d, KL, accuracy, displacement and sample length over beta."""
    caption = (
        "Last evaluation of each run; points are means over seeds with 95 % intervals, as in the table; small "
        "dots are the runs. Reward margins are beta times d, so they grow with beta even where the policy does not "
        "move: read d, KL and what the policy writes for what beta did."
    )
    return over(runs, BETA, OUTCOMES, "beta", "Outcomes over beta", caption, True, "beta (log scale)")


def frontier(runs: Runs) -> Figure | None:
    """What each arm won in preference for its distance from the reference; None where no KL was measured."""
    arms = [arm for arm in runs.done.arms() if estimate(arm, "kl")]
    if not arms:
        return None
    style_of, blank = look_of(runs, arms), blanks(arms)
    metrics = [m for m in ("rewards/margins", "logratios/margins", "rewards/accuracies") if m not in blank]
    data: list[dict[str, Any]] = []
    for arm in arms:
        for metric in ("kl", *metrics):
            found = estimate(arm, metric)
            data += [row(found, arm=arm.label, metric=metric, run="", seed=None)] if found else []
            data += [run_row(r, value_of(r, metric), arm=arm.label, metric=metric) for r in arm.runs]

    def panel(metric: str) -> Panel:
        def draw(axis: Any) -> None:
            for arm in arms:
                look, far, won = style_of[arm.label], estimate(arm, "kl"), estimate(arm, metric)
                pairs = [(value_of(r, "kl"), value_of(r, metric)) for r in arm.runs]
                pairs = [p for p in pairs if None not in p]
                axis.plot([p[0] for p in pairs], [p[1] for p in pairs], color=look.colour, marker="o", ms=2.5, lw=0)
                if far and won:
                    whiskers(axis, far.value, won, look)
                    if far.interval:
                        axis.hlines(won.value, *far.interval, color=look.colour, lw=1.2)
            limits(axis, metric)
            axis.set_xlabel(label("kl"))

        return Panel(label(metric), draw)

    caption = (
        "Each arm's mean over seeds with 95 % intervals in both directions, small dots the runs. Up and to the left "
        "is a preference learnt close to the reference. KL is estimated on the policy's own samples, so it may come "
        "out below 0 where it is small."
    )
    figures = [panel(metric) for metric in metrics]
    return build("frontier", "Margin against KL", caption, figures, pd.DataFrame(data), ids(arms), style_of, columns=3)
