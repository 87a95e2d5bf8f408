"""Estimates of an arm from its rows: each pair (or answer) averaged over seeds, the interval clustered by prompt.

Seeds that agree say nothing about other pairs, and pairs of one run nothing about other seeds; where an arm has
both, the wider of the two intervals is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from dpo.results import stats
from dpo.results.estimate import Estimate
from dpo.results.frames import Run

SHARES = ("win", "displaced")
METRICS = {
    "rewards/accuracies": "win",
    "displacement": "displaced",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "rewards/margins": "margin",
    "logratios/chosen": "c",
    "logratios/rejected": "r",
    "logratios/margins": "d",
    "logps/chosen": "chosen_logp",
    "logps/rejected": "rejected_logp",
    "logps/chosen_change": "chosen_change",
    "logps/rejected_change": "rejected_change",
}
"""Metrics that are means over pairs -> the column of the per-pair tables."""
KEYS = ["id", "prompt", "length_difference"]


def tables(runs: Sequence[Run]) -> list[pd.DataFrame]:
    """The last per-pair table of each run."""
    return [run.pairs() for run in runs]


def have(frames: Sequence[pd.DataFrame], column: str) -> bool:
    """Whether every table has the column, without a hole."""
    return bool(frames) and all(column in frame and not frame[column].isna().any() for frame in frames)


def pair_means(frames: Sequence[pd.DataFrame], column: str) -> pd.DataFrame:
    """Each pair once, (id, prompt, length_difference, column): the column's mean over the runs that have the pair."""
    stacked = pd.concat([frame[KEYS].assign(**{column: frame[column].astype(float)}) for frame in frames])
    return stacked.groupby(["id", "prompt"], sort=False, as_index=False).mean()


def wider(over_pairs: Estimate, over_seeds: Estimate) -> Estimate:
    """The estimate with the wider interval, both being of the same value; it says which it was."""
    if over_seeds.interval is None or over_pairs.interval is None:
        return over_pairs if over_seeds.interval is None else over_seeds
    sizes = [high - low for low, high in (over_pairs.interval, over_seeds.interval)]
    if sizes[0] >= sizes[1]:
        return replace(over_pairs, method=f"{over_pairs.method}, mean of {over_seeds.n} seeds")
    return replace(over_seeds, method=f"{over_seeds.method} over seeds, {over_pairs.n} {over_pairs.of} each")


def share_over_pairs(frames: Sequence[pd.DataFrame], column: str = "win") -> Estimate | None:
    """A share of pairs, such as accuracy; None where there are no pairs or the tables lack the column."""
    frames = [frame for frame in frames if len(frame)]
    if not have(frames, column):
        return None
    means = pair_means(frames, column)
    over_pairs = stats.clustered_share(means[column], list(means["prompt"]))
    return wider(over_pairs, stats.mean([float(frame[column].mean()) for frame in frames]))


def mean_over_pairs(frames: Sequence[pd.DataFrame], column: str, share: bool = False) -> Estimate | None:
    """The mean of a column over pairs; None where there are no pairs or the tables lack the column. With `share` the
    column is a difference of shares, from -1 to 1.
    """
    frames = [frame for frame in frames if len(frame)]
    if not have(frames, column):
        return None
    means = pair_means(frames, column)
    estimated = stats.clustered_change if share else stats.clustered_mean
    over_pairs = estimated(means[column], list(means["prompt"]))
    return wider(over_pairs, stats.mean([float(frame[column].mean()) for frame in frames]))


def slope_over_pairs(frames: Sequence[pd.DataFrame], column: str, on: str = "length_difference") -> Estimate | None:
    """Least-squares slope of a column (margin, d, win) on another; None where it cannot be had."""
    if not have(frames, column):
        return None
    frames = [frame.assign(length_difference=frame[on].astype(float)) for frame in frames]
    means = pair_means(frames, column)
    over_pairs = stats.clustered_slope(means["length_difference"], means[column], list(means["prompt"]))
    if over_pairs is None:
        return None
    each = [stats.clustered_slope(f["length_difference"], f[column], list(f["prompt"])) for f in frames]
    return wider(over_pairs, stats.mean([e.value for e in each if e is not None]))


def accuracy_gap(frames: Sequence[pd.DataFrame]) -> Estimate | None:
    """Accuracy where the chosen answer is the longer minus accuracy where it is the shorter; None without both."""
    unequal = [frame[frame["length_difference"] != 0] for frame in frames]
    marked = [frame.assign(longer=frame["length_difference"] > 0) for frame in unequal]
    return slope_over_pairs(marked, "win", "longer") if all(map(len, marked)) else None


def estimate(frames: Sequence[pd.DataFrame], metric: str) -> Estimate | None:
    """A metric of `METRICS` from the tables of pairs; None for any other."""
    if metric not in METRICS:
        return None
    column = METRICS[metric]
    return share_over_pairs(frames, column) if column in SHARES else mean_over_pairs(frames, column)


def difference(ours: Sequence[Run], theirs: Sequence[Run], metric: str) -> Estimate | None:
    """The difference of a metric of `METRICS` between runs of the same seeds, by seed and pair id; over pairs."""
    column = METRICS.get(metric, "")
    both = [
        a.pairs().merge(b.pairs(), on=["id", "prompt", "length_difference"]) for a, b in zip(ours, theirs, strict=True)
    ]
    if not column or any(f"{column}_x" not in frame for frame in both):
        return None
    changes = [f.assign(change=f[f"{column}_x"].astype(float) - f[f"{column}_y"].astype(float)) for f in both]
    return mean_over_pairs(changes, "change", column in SHARES)


def sampled_change(runs: Sequence[Run], column: str) -> tuple[float, float, Estimate] | None:
    """(mean before, mean after, change) of a column of the sampled answers (tokens, ended, is_json, repetition).

    Paired by prompt and draw, clustered by prompt; None where a run has no answers at both ends.
    """
    changes, ends = [], []
    for run in runs:
        rows = run.samples()
        if not len(rows) or column not in rows or rows[column].isna().any():
            return None
        sampled = rows[rows["decoding"] == "sampled"]
        first, last = (sampled[sampled["step"] == step] for step in (sampled["step"].min(), sampled["step"].max()))
        if not len(sampled) or sampled["step"].nunique() < 2:
            return None
        both = first.merge(last, on=["prompt", "draw"], suffixes=("_first", "_last"))
        both["change"] = both[f"{column}_last"].astype(float) - both[f"{column}_first"].astype(float)
        changes.append(both[["prompt", "draw", "change"]])
        ends.append((float(both[f"{column}_first"].mean()), float(both[f"{column}_last"].mean())))
    means = pd.concat(changes).groupby(["prompt", "draw"], as_index=False, sort=False).mean()
    estimated = stats.clustered_mean if column == "tokens" else stats.clustered_change
    over_answers = estimated(means["change"], list(means["prompt"]), of="answers")
    change = wider(over_answers, stats.mean([float(frame["change"].mean()) for frame in changes]))
    before, after = (sum(values) / len(values) for values in zip(*ends, strict=True))
    return before, after, change
