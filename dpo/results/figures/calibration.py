"""Whether implicit rewards are probabilities, and whether they agree with an explicit reward model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from dpo.results import stats
from dpo.results.arms import Arm
from dpo.results.comparable import comparable
from dpo.results.figures.figure import RASTER_ABOVE, SERIES, SOFT, Figure, Panel, build, looks
from dpo.results.figures.length import MOST
from dpo.results.figures.series import blanks, ids, row, whiskers
from dpo.results.frames import Run, Runs

BINS = 10


def confident(arm: Arm) -> pd.DataFrame:
    """A row per run and pair: seed, id, prompt, p = S(|m|), right (1, 0, or one half for a tie), bin."""
    parts = []
    for run in arm.runs:
        pairs = run.pairs()
        margin = pairs["margin"].where(pairs["win"] != 0.5, 0.0)
        p = 1 / (1 + np.exp(-margin.abs()))
        right = pairs["win"].where((margin == 0) | ((margin > 0) == (pairs["win"] > 0.5)), 1 - pairs["win"])
        columns = {"seed": run.seed, "id": pairs["id"], "prompt": pairs["prompt"], "p": p, "right": right}
        parts.append(pd.DataFrame(columns))
    table = pd.concat(parts, ignore_index=True)
    table["bin"] = np.minimum(((table["p"] - 0.5) * 2 * BINS).astype(int), BINS - 1)
    return table


def reliability(runs: Runs) -> Figure | None:
    """How often the policy's preference is right, for each strength of it: an arm to a panel; None where the arms'
    rewards have different units, so that not all can be log-odds."""
    arms = runs.done.arms()
    if "calibration/ece" in blanks(arms):
        return None
    style_of = looks([arm.label for arm in arms])
    data: list[dict[str, Any]] = []
    panels = []
    for arm in arms[:MOST]:
        table, points = confident(arm), []
        for _, part in table.groupby("bin"):
            share = stats.clustered_share(part["right"], list(part["prompt"]))
            points.append((float(part["p"].mean()), share))
            data.append(row(share, arm=arm.label, p=float(part["p"].mean())))

        def draw(axis: Any, points: Any = points, look: Any = style_of[arm.label], n: int = len(table)) -> None:
            axis.plot([0.5, 1], [0.5, 1], color=SOFT, lw=0.9, ls="--")
            for p, share in points:
                whiskers(axis, p, share, look)
            axis.set_xlim(0.48, 1.02)
            axis.set_ylim(-0.04, 1.06)
            axis.set_xlabel("said: S(|margin|)")
            axis.set_ylabel("right (share)")
            axis.set_title(f"n={n}", loc="right", fontsize=7.5, fontweight="normal")

        panels.append(Panel(arm.label, draw))
    left = f" The first {MOST} of {len(arms)} arms are drawn." if len(arms) > MOST else ""
    caption = (
        "Under the Bradley-Terry model the logistic of a margin is the probability that the preference is right. "
        "Points: held-out pairs of all seeds (n) in ten bins of that probability, with 95 % intervals (seeds and pairs "
        "of one prompt together; the number in each bin is in the data). On the dashed line it is calibrated; above it "
        "the margins are too timid, below it too sure. Margins of losses that are not logistic were never meant as "
        f"log-odds.{left}"
    )
    return build("reliability", "Reliability", caption, panels, pd.DataFrame(data), ids(arms[:MOST]), columns=3)


def judged(runs: Runs) -> list[tuple[Run, Run]]:
    """(policy, reward model) of every policy that a reward model was compared with on the same held-out pairs."""
    named = {run.name: run for run in runs.done}
    pairs = []
    for reward in runs.rewards:
        for path in sorted(reward.path.glob("against-*.json")):
            policy = named.get(path.stem.removeprefix("against-"))
            if policy is not None and not comparable([policy, reward]):
                pairs.append((policy, reward))
    return pairs


def implicit_explicit(runs: Runs) -> Figure | None:
    """The margin of each pair under the policy's implicit reward and under an explicit reward model; None where no
    reward model was compared with these runs."""
    data, panels, used = [], [], []
    for policy, reward in judged(runs)[:MOST]:
        both = policy.pairs().merge(reward.pairs(), on="id", suffixes=("_implicit", "_explicit"))
        both = both[["id", "margin_implicit", "margin_explicit", "win_implicit", "win_explicit"]]
        data.append(both.assign(policy=policy.id, reward=reward.id))
        used += [policy.id, reward.id]
        agree = stats.wilson(float((1 - (both["win_implicit"] - both["win_explicit"]).abs()).sum()), len(both), "pairs")
        rank = both["margin_implicit"].rank().corr(both["margin_explicit"].rank())

        def draw(axis: Any, both: Any = both, agree: Any = agree, rank: float = rank) -> None:
            axis.scatter(
                both["margin_implicit"], both["margin_explicit"], s=9, color=SERIES[0], alpha=0.55, lw=0,
                rasterized=len(both) > RASTER_ABOVE,
            )  # fmt: skip
            axis.axhline(0, color=SOFT, lw=0.8, ls=":")
            axis.axvline(0, color=SOFT, lw=0.8, ls=":")
            axis.set_ylabel("explicit margin (reward model)")
            said = "" if np.isnan(rank) else f", rank correlation {rank:+.2f}"
            axis.set_xlabel(f"implicit margin (policy)\nsame side {agree.text()}, n={agree.n}{said}")

        panels.append(Panel(f"{policy.name[:40]}", draw))
    caption = (
        "A point is a held-out pair. Implicit: beta times the log-ratio difference of the policy and its reference. "
        "Explicit: a Bradley-Terry reward model trained on the same pairs (dpo reward --against). Points in the upper "
        "right and lower left are pairs on which both prefer the same answer."
    )
    if not panels:
        return None
    frame = pd.concat(data)
    title = "Implicit against explicit reward"
    return build("implicit-explicit", title, caption, panels, frame, list(dict.fromkeys(used)), columns=3)
