"""Arms side by side: each arm's difference from one of them, in units that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dpo.results.arms import shown
from dpo.results.cells import Table
from dpo.results.estimate import Estimate
from dpo.results.figures.figure import SERIES, SOFT, Figure, Panel, build
from dpo.results.figures.series import row
from dpo.results.frames import Runs
from dpo.results.labels import DEFAULT, label
from dpo.results.tables import differences

USUAL = "dpo.losses.sigmoid."
"""Where DPO's own loss is defined: what the other losses are compared with."""


def axis(runs: Runs) -> str:
    """The setting that arms are compared along: which loss, else one of its own settings, else whatever was swept."""
    keys = runs.done.axes()
    return min(keys, key=lambda key: (key != "loss._target_", not key.startswith("loss.")))


def baseline(runs: Runs) -> Any:
    """The value of `axis` of the arm that others are compared with: the sigmoid loss, else the first arm's."""
    key = axis(runs)
    values = [arm.values[key] for arm in runs.done.arms(key)]
    return next((value for value in values if str(value).startswith(USUAL)), values[0])


def table(runs: Runs) -> Table:
    """The table of differences from the baseline: what `forest` draws."""
    return differences(runs, axis(runs), baseline(runs))


def forest(runs: Runs) -> Figure:
    """Each arm's difference from the baseline, a panel for each metric that means the same for all arms."""
    compared = table(runs)
    settings = len(compared.columns) - len(DEFAULT) - 1  # the column after them lists seeds
    arms = [", ".join(cell.text for cell in cells[:settings]) for cells in compared.rows]
    data: list[dict[str, Any]] = []
    panels = []
    for place, metric in enumerate(DEFAULT, settings + 1):
        found = {
            arm: e for arm, cells in zip(arms, compared.rows, strict=True) if (e := estimate_of(cells[place].content))
        }
        for arm, e in found.items():
            data.append(row(e, arm=arm, metric=metric, adjusted_p=e.adjusted, shown=e.shown))
        if found:
            panels.append(Panel(label(metric), drawing(found, arms)))
    base = shown(baseline(runs))
    caption = (
        f"Difference from {base}, paired by seed and evaluation pair, with 95 % intervals; the same numbers as in the "
        "table of differences. Filled: shown, also after Holm's correction over that table; hollow: no "
        f"difference shown.{left_out(compared)}"
    )
    height = max(1.9, 0.24 * len(arms) + 0.9)
    frame, title = pd.DataFrame(data), f"Differences from {base}"
    return build("forest", title, caption, panels, frame, compared.runs, columns=3, size=(3.5, height))


def estimate_of(content: object) -> Estimate | None:
    """A cell's content where it is an estimate."""
    return content if isinstance(content, Estimate) else None


def left_out(table: Table) -> str:
    """What is not drawn, and why."""
    blank = [note for note in table.notes if " is blank: " in note]
    return f" Not drawn: {' '.join(blank)}" if blank else ""


def drawing(found: dict[str, Estimate], arms: Sequence[str]) -> Any:
    """What draws one metric's rows, the first at the top."""

    def draw(axes: Any) -> None:
        for place, arm in enumerate(reversed(arms)):
            if arm not in found:
                axes.annotate("none", (0, place), color=SOFT, fontsize=7, ha="center", va="center")
                continue
            e = found[arm]
            reach = [[e.value - e.interval[0]], [e.interval[1] - e.value]] if e.interval else None
            face = SERIES[0] if e.shown else "none"
            axes.errorbar([e.value], [place], xerr=reach, color=SERIES[0], marker="o", mfc=face, capsize=2.5, lw=1.2)
        axes.axvline(0, color=SOFT, lw=0.9)
        axes.set_yticks(range(len(arms)), list(reversed(arms)))
        axes.set_ylim(-0.6, len(arms) - 0.4)
        axes.grid(axis="y", visible=False)

    return draw
