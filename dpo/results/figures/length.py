"""How much of a preference is length: dose and response, accuracy by length class, margins over length differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from dpo.results.arms import Arm
from dpo.results.estimate import Estimate
from dpo.results.figures.beta import over
from dpo.results.figures.curves import COLOURS
from dpo.results.figures.figure import INK, RASTER_ABOVE, SERIES, SOFT, Figure, Look, Panel, build, looks
from dpo.results.figures.series import blanks, ids, row, whiskers
from dpo.results.frames import Run, Runs
from dpo.results.measures import CLASSES
from dpo.results.over_pairs import share_over_pairs, slope_over_pairs, tables

DOSE = "perturb.dose"
RESPONSES = (
    "samples/length",
    "length/slope",
    "rewards/accuracies",
    "length/accuracy_chosen_longer",
    "length/accuracy_chosen_shorter",
    "length/accuracy_balanced",
)
SHOWN = (*CLASSES, "balanced", "all")
MOST = 6
"""Panels of a figure that has one for each arm."""


def dose_response(runs: Runs) -> Figure | None:
    """Sample length, slope and accuracies over the dose of an injected length bias; None where no dose was swept."""
    if DOSE not in runs.done.axes():
        return None
    caption = (
        "The dose is the share of training pairs whose chosen answer was padded; the evaluation pairs are untouched. "
        "Points are means over seeds with 95 % intervals, small dots the runs. A learnt length bias shows as longer "
        "sampled answers and a slope that grows with the dose, not as a lower training loss."
    )
    return over(runs, DOSE, RESPONSES, "dose", "Response to a length bias", caption, False, "dose (share of pairs)")


def of_class(pairs: pd.DataFrame, name: str) -> pd.DataFrame:
    """The pairs of a length class, of the balanced subset, or all of them."""
    if name == "all":
        return pairs
    return pairs[pairs["balanced"]] if name == "balanced" else pairs[pairs["length_class"] == name]


def class_accuracy(arm: Arm, name: str) -> Estimate | None:
    """Accuracy on a length class, as the table of lengths has it; None where there is no such pair."""
    return share_over_pairs([of_class(frame, name) for frame in tables(arm.runs)])


def accuracy_by_length(runs: Runs) -> Figure:
    """Accuracy of each arm on pairs whose chosen answer is longer, equal or shorter, and on the balanced subset."""
    arms = runs.done.arms()
    style_of = looks([arm.label for arm in arms])
    legend = style_of | {"the rule: take the longer answer": Look(INK, "", "- -", "--")}
    found = {(arm.label, name): class_accuracy(arm, name) for arm in arms for name in SHOWN}
    data = [row(e, arm=arm, pairs=name) for (arm, name), e in found.items() if e]
    longer = arms[0].runs[0].last.get("eval/length/longer_wins") if arms else None

    def draw(axis: Any) -> None:
        for place, name in enumerate(SHOWN):
            for i, arm in enumerate(arms):
                estimate = found[arm.label, name]
                if estimate:
                    whiskers(axis, place + 0.6 * ((i + 0.5) / len(arms) - 0.5), estimate, style_of[arm.label])
        counts = [next((e.n for (_, n), e in found.items() if n == name and e), 0) for name in SHOWN]
        axis.set_xticks(
            range(len(SHOWN)), [f"{n.replace('chosen ', '')}\nn={c}" for n, c in zip(SHOWN, counts, strict=True)]
        )
        axis.set_xlim(-0.5, len(SHOWN) - 0.5)
        axis.set_ylim(-0.04, 1.04)
        axis.axhline(0.5, color=SOFT, lw=0.8, ls=":")
        if longer is not None:
            axis.axhline(longer, color=INK, lw=0.9, ls="--")
        axis.grid(axis="x", visible=False)

    caption = (
        "Share of held-out pairs whose chosen answer is preferred, with 95 % intervals, over seeds and pairs "
        "at once (pairs of one prompt together). Dashed: the accuracy of a rule that always takes "
        "the longer answer, to be read beside every accuracy. A model that learnt length is right where the chosen "
        "answer is longer and wrong where it is shorter."
    )
    panel = Panel("accuracy where the chosen answer is ...", draw)
    frame = pd.DataFrame(data)
    return build("length-classes", "Accuracy by length", caption, [panel], frame, ids(arms), legend, size=(4.4, 3.0))


def means_by_pair(arm: Arm, column: str) -> pd.DataFrame:
    """A row per pair: id, length_difference, length_class, and the mean over seeds of the column."""
    pairs = pd.concat([run.pairs() for run in arm.runs])
    means = {"length_difference": "first", "length_class": "first", column: "mean"}
    return pairs.groupby("id", sort=True).agg(means).reset_index()


def margin_on_length(runs: Runs) -> Figure:
    """Each pair's reward margin over its length difference, an arm to a panel, with the fitted slope; d in place of the
    margin where the arms' rewards have different units."""
    arms = runs.done.arms()
    column = "d" if "rewards/margins" in blanks(arms) else "margin"
    drawn = {arm.label: (arm, means_by_pair(arm, column)) for arm in arms[:MOST]}
    panels = [Panel(label, against_length(arm, table, column)) for label, (arm, table) in drawn.items()]
    unit = "log-ratio difference d, in nats" if column == "d" else "reward margin"
    left = f" The first {MOST} of {len(arms)} arms are drawn." if len(arms) > MOST else ""
    caption = (
        f"A point is a held-out pair ({unit}, averaged over seeds); the line is least squares, with its slope per "
        "token and its 95 % interval (over seeds and pairs at once, pairs of one prompt together). A slope is no proof "
        "of a length bias: longer answers may be better. What a bias does is told by the balanced subset and by "
        f"sampled lengths.{left}"
    )
    frame = pd.concat([table.assign(arm=label) for label, (_, table) in drawn.items()])
    title = "Margin over length difference"
    return build("margin-on-length", title, caption, panels, frame, ids(arms[:MOST]), columns=3)


def against_length(arm: Arm, pairs: pd.DataFrame, column: str) -> Callable[[Any], None]:
    """What draws one arm's pairs, coloured by length class, and their slope."""
    colours = dict(zip(CLASSES, (SERIES[0], INK, SERIES[1]), strict=True))
    slope = slope_over_pairs(tables(arm.runs), column)

    def draw(axis: Any) -> None:
        for name, colour in colours.items():
            x, y = (pairs[pairs["length_class"] == name][key] for key in ("length_difference", column))
            axis.scatter(x, y, s=9, color=colour, alpha=0.55, lw=0, rasterized=len(x) > RASTER_ABOVE)
        if slope is not None:
            x, y = pairs["length_difference"], pairs[column]
            ends = np.array([x.min(), x.max()])
            axis.plot(ends, y.mean() + slope.value * (ends - x.mean()), color=INK, lw=1.2)
            axis.set_title(f"slope {slope.text(signed=True)}", loc="right", fontsize=7.5, fontweight="normal")
        axis.axhline(0, color=SOFT, lw=0.8, ls=":")
        axis.axvline(0, color=SOFT, lw=0.8, ls=":")
        axis.set_xlabel("chosen - rejected tokens")
        axis.set_ylabel("d (nats)" if column == "d" else "reward margin")

    return draw


def audit(run: Run) -> Figure | None:
    """What the run was trained on: lengths of both answers, their difference, what was limited, surface tells; None
    where the run has no such audit.json."""
    if "chosen_tokens" not in run.audit.get("train", {}):
        return None
    from dpo.results.data import bars

    part = run.audit["train"]
    low, high = part["longer_wins_interval"]
    kinds = [kind for kind in ("words", "format") if kind in run.audit["probe"]]
    probes = [run.audit["probe"][kind] for kind in kinds]
    names = list(run.audit["shares"])

    def lengths(axis: Any) -> None:
        for side in ("chosen", "rejected"):
            bars(axis, part[f"{side}_tokens"], COLOURS[side], side)
        axis.set_xlabel("tokens")
        axis.legend(fontsize=8)

    def difference(axis: Any) -> None:
        bars(axis, part["difference_tokens"], COLOURS["margins"], None)
        axis.axvline(0, color=SOFT, lw=0.8, ls=":")
        axis.set_xlabel(f"tokens; longer wins {part['longer_wins']:.0%} ({low:.0%} to {high:.0%})")

    def shares(axis: Any) -> None:
        axis.barh(names, [run.audit["shares"][name] for name in names], color=SERIES[5])
        axis.set_xlim(0, 1)
        axis.tick_params(axis="y", labelsize=7)

    def tells(axis: Any) -> None:
        centres = [p["accuracy"] for p in probes]
        reach = [[abs(c - p["interval"][side]) for c, p in zip(centres, probes, strict=True)] for side in (0, 1)]
        axis.barh(kinds, centres, xerr=reach, color=COLOURS["accuracies"], ecolor=INK, height=0.5)
        axis.axvline(0.5, color=SOFT, lw=0.8, ls=":")
        axis.set_xlim(0, 1)

    data = [
        {"what": f"{side} tokens", "from": a, "to": b, "value": n}
        for side in ("chosen", "rejected", "difference")
        for d in [part[f"{side}_tokens"]]
        for a, b, n in zip(d["edges"], d["edges"][1:], d["histogram"], strict=False)
    ] + [{"what": f"share {name}", "value": run.audit["shares"][name]} for name in names]
    data += [{"what": f"probe {k}", "value": p["accuracy"]} for k, p in zip(kinds, probes, strict=True)]
    panels = [
        Panel("answer length", lengths),
        Panel("chosen - rejected", difference),
        Panel("share of pairs", shares),
        Panel(f"label found from the surface (n={run.audit['probe']['n']})", tells),
    ]
    caption = (
        f"The {part['pairs']} training pairs of run {run.name}, before training. Lengths are tokens with the "
        "end-of-sequence token; whiskers are 95 % intervals. Where the surface alone tells chosen from rejected, a "
        "high accuracy of the policy says nothing about the behaviour that was meant."
    )
    return build(f"audit-{run.id}", "The training pairs", caption, panels, pd.DataFrame(data), [run.id])
