"""Estimates of an arm from its rows: the mean over its seeds and pairs (or answers), with an interval for both at once.

Seeds that agree say nothing about other pairs, and pairs of one run nothing about other seeds; where both vary, so
does the estimate, by more than either alone (`crossed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dpo.errors import UsageError
from dpo.results import stats
from dpo.results.estimate import Estimate
from dpo.results.frames import Run
from dpo.results.intervals import ROUNDING, Array

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


@dataclass(frozen=True)
class Rows:
    """The pairs that every run has: their prompts and length differences (J,), and a column as (S, J), a row a run."""

    prompts: list[str]
    length_difference: Array
    values: Array


def aligned(frames: Sequence[pd.DataFrame], column: str) -> Rows:
    """A column of several tables, pair by pair (by id and prompt, in the first table's order); rows that share an id
    and a prompt in one table count as their mean."""
    each = [f[KEYS].assign(value=f[column].astype(float)).groupby(KEYS[:2], sort=False).mean() for f in frames]
    kept = each[0].index
    for other in each[1:]:
        kept = kept[kept.isin(other.index)]
    if not len(kept):
        raise UsageError("these runs have no evaluation pair in common, so they do not belong in one estimate")
    values = np.stack([frame.loc[kept, "value"].to_numpy() for frame in each])
    return Rows(list(kept.get_level_values(1)), each[0].loc[kept, "length_difference"].to_numpy(dtype=float), values)


def share_over_pairs(frames: Sequence[pd.DataFrame], column: str = "win") -> Estimate | None:
    """A share of pairs, such as accuracy; None where there are no pairs or the tables lack the column."""
    frames = [frame for frame in frames if len(frame)]
    if not have(frames, column):
        return None
    rows = aligned(frames, column)
    return stats.clustered_share(rows.values, rows.prompts)


def mean_over_pairs(
    frames: Sequence[pd.DataFrame], column: str, share: bool = False, of: str = "pairs"
) -> Estimate | None:
    """The mean of a column over pairs; None where there are no pairs or the tables lack the column. With `share` the
    column is a difference of shares, from -1 to 1.
    """
    frames = [frame for frame in frames if len(frame)]
    if not have(frames, column):
        return None
    rows = aligned(frames, column)
    return (stats.clustered_change if share else stats.clustered_mean)(rows.values, rows.prompts, of)


def slope_over_pairs(frames: Sequence[pd.DataFrame], column: str, on: str = "length_difference") -> Estimate | None:
    """Least-squares slope of a column (margin, d, win) on another; None where it cannot be had."""
    if not have(frames, column):
        return None
    rows = aligned([frame.assign(length_difference=frame[on].astype(float)) for frame in frames], column)
    return stats.clustered_slope(rows.length_difference, rows.values, rows.prompts)


def accuracy_gap(frames: Sequence[pd.DataFrame]) -> Estimate | None:
    """Accuracy where the chosen answer is the longer minus accuracy where it is the shorter; None without both. Where
    neither class has any spread it is Newcombe's, from the two shares.
    """
    unequal = [frame[frame["length_difference"] != 0] for frame in frames]
    marked = [frame.assign(longer=frame["length_difference"] > 0) for frame in unequal]
    gap = slope_over_pairs(marked, "win", "longer") if all(map(len, marked)) else None
    if gap is None or (gap.interval and gap.interval[0] < gap.interval[1]):
        return gap
    longer, shorter = (share_over_pairs([frame[frame["longer"] == side] for frame in marked]) for side in (True, False))
    return stats.difference(longer, shorter) if longer and shorter else gap


def estimate(frames: Sequence[pd.DataFrame], metric: str) -> Estimate | None:
    """A metric of `METRICS` from the tables of pairs; None for any other."""
    if metric not in METRICS:
        return None
    column = METRICS[metric]
    return share_over_pairs(frames, column) if column in SHARES else mean_over_pairs(frames, column)


def difference(ours: Sequence[Run], theirs: Sequence[Run], metric: str) -> Estimate | None:
    """The difference of a metric of `METRICS` between runs of the same seeds, by seed and pair id; over pairs."""
    column = METRICS.get(metric, "")
    both = [a.pairs().merge(b.pairs(), on=KEYS) for a, b in zip(ours, theirs, strict=True)]
    if not column or any(f"{column}_x" not in frame for frame in both):
        return None
    changes = [f.assign(change=apart(f[f"{column}_x"], f[f"{column}_y"])) for f in both]
    return mean_over_pairs(changes, "change", column in SHARES)


def apart(a: Sequence[float] | pd.Series, b: Sequence[float] | pd.Series) -> Array:
    """a - b, element by element, and 0 where that is rounding."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return np.where(np.abs(x - y) <= ROUNDING * np.maximum(np.abs(x), np.abs(y)), 0.0, x - y)


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
        both["change"] = apart(both[f"{column}_last"], both[f"{column}_first"])
        changes.append(both[["prompt", "change"]].assign(id=both["draw"], length_difference=0.0))
        ends.append((float(both[f"{column}_first"].mean()), float(both[f"{column}_last"].mean())))
    estimated = mean_over_pairs(changes, "change", column != "tokens", "answers")
    if estimated is None:
        return None
    before, after = (sum(values) / len(values) for values in zip(*ends, strict=True))
    return before, after, estimated
