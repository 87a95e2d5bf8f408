"""From runs to points: an arm's estimate of a metric over its seeds, and how it is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from dpo.results.arms import Arm
from dpo.results.comparable import blank_columns
from dpo.results.figures.figure import SOFT, Look, looks
from dpo.results.frames import Run, Runs
from dpo.results.stats import Estimate
from dpo.results.tables import over_seeds

SHARES = ("rewards/accuracies", "displacement", "length/accuracy", "length/longer_wins", "json_rate")


def value_of(run: Run, metric: str) -> float | None:
    """A metric of the run's last evaluation; None where it has none or no finite one."""
    value = run.last.get(f"eval/{metric}")
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def estimate(arm: Arm, metric: str) -> Estimate | None:
    """A metric of the arm's last evaluation, as the tables have it; None where no run has it."""
    content = over_seeds(arm, metric).content
    return content if isinstance(content, Estimate) else None


def row(estimate: Estimate, **facts: Any) -> dict[str, Any]:
    """An estimate as a row of a figure's data."""
    found = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {**facts, **found, "n": estimate.n, "of": estimate.of, "method": estimate.method}


def run_row(run: Run, value: float | None, **facts: Any) -> dict[str, Any]:
    """One run's value as a row of a figure's data."""
    nothing = {"low": None, "high": None, "n": 1, "of": "runs", "method": ""}
    return {**facts, "value": value, **nothing, "run": run.id, "seed": run.seed}


def look_of(runs: Runs, arms: Iterable[Arm]) -> dict[str, Look]:
    """A look for each of these arms: the one that it has in every figure of these runs."""
    every = looks([arm.label for arm in runs.done.arms()])
    return {arm.label: every[arm.label] for arm in arms}


def ids(arms: Iterable[Arm]) -> list[str]:
    """Ids of all runs of these arms."""
    return [run.id for arm in arms for run in arm.runs]


def blanks(runs: Runs | Sequence[Arm]) -> dict[str, str]:
    """Metrics that mean different things in these runs, with the reason."""
    return blank_columns(run for part in runs for run in (part.runs if isinstance(part, Arm) else [part]))


def whiskers(axis: Any, x: float, estimate: Estimate, look: Look, hollow: bool = False) -> None:
    """A point with its interval, upright."""
    reach = None
    if estimate.interval:
        reach = [[estimate.value - estimate.interval[0]], [estimate.interval[1] - estimate.value]]
    face = "none" if hollow else look.colour
    axis.errorbar(
        [x],
        [estimate.value],
        yerr=reach,
        color=look.colour,
        marker=look.marker,
        mfc=face,
        capsize=2.5,
        lw=1.2,
        zorder=3,
    )


def log_ticks(axis: Any, values: Sequence[float]) -> None:
    """A logarithmic x-axis marked at the values that were run; a plain one where a value is not above 0."""
    shown = sorted(set(values))
    if len(shown) > 1 and shown[0] > 0:
        axis.set_xscale("log")
        axis.set_xlim(shown[0] / 1.35, shown[-1] * 1.35)
    axis.set_xticks(shown, [f"{value:g}" for value in shown])
    axis.minorticks_off()


def limits(axis: Any, metric: str) -> None:
    """The range and the line of no effect that a metric has."""
    if metric.startswith(SHARES):
        axis.set_ylim(-0.04, 1.04)
        if "accurac" in metric or "longer_wins" in metric:
            axis.axhline(0.5, color=SOFT, lw=0.8, ls=":")
    elif metric not in ("samples/length", "kl", "loss"):
        axis.axhline(0, color=SOFT, lw=0.8, ls=":")


def say(axis: Any, text: str) -> None:
    """Words in place of a drawing."""
    import textwrap

    axis.text(0.5, 0.5, textwrap.fill(text, 38), transform=axis.transAxes, ha="center", va="center", color=SOFT)
    axis.grid(False)
    axis.set_xticks([])
    axis.set_yticks([])


def group_of(arm: Arm, key: str) -> str:
    """An arm in words without one of its axes: what makes a line of a figure over that axis."""
    from dpo.results.arms import label

    rest = {name: value for name, value in arm.values.items() if name != key}
    return label(rest) if rest else ""
