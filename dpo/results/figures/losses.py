"""Loss variants side by side: each arm's difference from one arm, in units that all losses share."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dpo.results import stats
from dpo.results.arms import Arm
from dpo.results.figures.figure import SERIES, SOFT, Figure, Panel, build
from dpo.results.figures.series import blanks, estimate, ids, row, say, value_of
from dpo.results.frames import Runs
from dpo.results.labels import label
from dpo.results.stats import Estimate

COMPARED = ("logratios/margins", "rewards/accuracies", "kl", "displacement", "samples/length", "logps/chosen_change")
USUAL = "dpo.losses.sigmoid.Sigmoid"


def axis(runs: Runs) -> str:
    """The setting of the loss that was varied: which loss, else the first of its own settings."""
    keys = [key for key in runs.done.axes() if key.startswith("loss.")]
    return min(keys, key=lambda key: key != "loss._target_")


def baseline_value(runs: Runs) -> Any:
    """The value of `axis` of the arm that others are compared with."""
    return baseline(runs.done.arms()).values[axis(runs)]


def baseline(arms: list[Arm]) -> Arm:
    """The arm with the sigmoid loss, else the first."""
    return next((arm for arm in arms if arm.values.get("loss._target_") == USUAL), arms[0])


def difference(arm: Arm, base: Arm, metric: str) -> Estimate | None:
    """The arm's mean minus the baseline's over the seeds that both have; None where they share no value."""
    ours, theirs = ({r.seed: v for r in a.runs if (v := value_of(r, metric)) is not None} for a in (arm, base))
    return stats.paired(ours, theirs)


def forest(runs: Runs) -> Figure:
    """Each arm against the baseline, paired by seed, with Holm's correction over the arms of a panel."""
    arms = runs.done.arms()
    base, blank = baseline(arms), blanks(arms)
    others = [arm for arm in arms if arm is not base]
    data: list[dict[str, Any]] = []
    panels = []
    for metric in COMPARED:
        found = {arm.label: e for arm in others if (e := difference(arm, base, metric))}
        found = dict(zip(found, stats.holm(list(found.values())), strict=True))
        data += [
            row(e, arm=arm, baseline=base.label, metric=metric, adjusted_p=e.adjusted, shown=e.shown)
            for arm, e in found.items()
        ]
        panels.append(Panel(label(metric), drawing(found, [arm.label for arm in others], blank.get(metric, ""))))
    caption = (
        f"Difference from {base.label} ({at_base(base)}), paired by seed, with 95 % intervals (Student's t over "
        "seeds). Filled: shown, also after Holm's correction over the arms of the panel; hollow: no difference shown. "
        "Rewards and margins are not drawn: losses give them different units."
    )
    height = max(1.9, 0.24 * len(others) + 0.9)
    title = "Losses against " + base.label
    return build("forest", title, caption, panels, pd.DataFrame(data), ids(arms), columns=2, size=(4.2, height))


def at_base(base: Arm) -> str:
    """The baseline's own values, in words."""
    said = [(metric, estimate(base.runs, metric)) for metric in ("logratios/margins", "kl")]
    return (
        ", ".join(f"{metric.split('/')[0].replace('logratios', 'd')} {e.text()}" for metric, e in said if e)
        or "baseline"
    )


def drawing(found: dict[str, Estimate], labels: list[str], blank: str) -> Any:
    """What draws one metric's rows, the first at the top."""

    def draw(axis: Any) -> None:
        if blank or not found:
            return say(axis, f"left blank: {blank}" if blank else "no arm has this value beside the baseline")
        for place, arm in enumerate(reversed(labels)):
            if arm not in found:
                axis.annotate("none", (0, place), color=SOFT, fontsize=7, ha="center", va="center")
                continue
            e = found[arm]
            reach = [[e.value - e.interval[0]], [e.interval[1] - e.value]] if e.interval else None
            face = SERIES[0] if e.shown else "none"
            axis.errorbar([e.value], [place], xerr=reach, color=SERIES[0], marker="o", mfc=face, capsize=2.5, lw=1.2)
        axis.axvline(0, color=SOFT, lw=0.9)
        axis.set_yticks(range(len(labels)), list(reversed(labels)))
        axis.set_ylim(-0.6, len(labels) - 0.4)
        axis.grid(axis="y", visible=False)
        return None

    return draw
