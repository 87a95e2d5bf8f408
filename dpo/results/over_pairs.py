"""Estimates from per-pair rows of an arm: each pair averaged over seeds, the interval over pairs clustered by prompt.

Seeds that agree say nothing about other pairs, and pairs of one run nothing about other seeds; where an arm has
both, the wider of the two intervals is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from dpo.results import stats
from dpo.results.cells import Cell
from dpo.results.frames import Run
from dpo.results.stats import Estimate


def tables(runs: Sequence[Run]) -> list[pd.DataFrame]:
    """The last per-pair table of each run, with its seed."""
    return [run.pairs().assign(seed=run.seed) for run in runs]


def pair_means(frames: Sequence[pd.DataFrame], column: str) -> pd.DataFrame:
    """(id, prompt, column, length_difference): each pair once, its mean over the runs that have it."""
    stacked = pd.concat([f[["id", "prompt", "length_difference", column]] for f in frames], ignore_index=True)
    return stacked.groupby(["id", "prompt"], sort=False, as_index=False).mean()


def wider(over_pairs: Estimate, over_seeds: Estimate) -> Estimate:
    """The estimate with the wider interval, under the value of the first; it says which it was."""
    if over_seeds.interval is None or over_pairs.interval is None:
        return over_pairs if over_seeds.interval is None else over_seeds
    sizes = [high - low for low, high in (over_pairs.interval, over_seeds.interval)]
    if sizes[0] >= sizes[1]:
        return replace(over_pairs, method=f"{over_pairs.method}, mean of {over_seeds.n} seeds")
    return replace(over_seeds, method=f"{over_seeds.method} over seeds, {over_pairs.n} pairs each")


def share_over_pairs(runs: Sequence[Run], subset: tuple[str, Any] | None) -> Cell:
    """Accuracy on the pairs of a subset (column, value), or on all."""
    frames = tables(runs)
    if subset is not None:
        frames = [frame[frame[subset[0]] == subset[1]] for frame in frames]
    of = tuple(run.id for run in runs)
    if not sum(map(len, frames)):
        return Cell(None, of, "no such pairs")
    means = pair_means([frame for frame in frames if len(frame)], "win")
    over_pairs = stats.clustered_share(means["win"], list(means["prompt"]))
    return Cell(wider(over_pairs, stats.mean([frame["win"].mean() for frame in frames if len(frame)])), of)


def mean_over_pairs(runs: Sequence[Run], column: str) -> Estimate | None:
    """The mean of a column of the per-pair tables; None where a run lacks it."""
    frames = tables(runs)
    if not frames or any(column not in frame or frame[column].isna().any() for frame in frames):
        return None
    means = pair_means([frame.assign(**{column: frame[column].astype(float)}) for frame in frames], column)
    over_pairs = stats.clustered_mean(means[column], list(means["prompt"]))
    return wider(over_pairs, stats.mean([float(frame[column].mean()) for frame in frames]))


def slope_over_pairs(runs: Sequence[Run], column: str) -> Cell:
    """The least-squares slope of a column (margin, d) on the length difference."""
    of = tuple(run.id for run in runs)
    frames = tables(runs)
    if any(column not in frame or frame[column].isna().any() for frame in frames):
        return Cell(None, of, "not in the per-pair tables")
    means = pair_means(frames, column)
    over_pairs = stats.clustered_slope(means["length_difference"], means[column], list(means["prompt"]))
    if over_pairs is None:
        return Cell(None, of, "the length difference does not vary, or there are fewer than three pairs")
    each = [stats.clustered_slope(f["length_difference"], f[column], list(f["prompt"])) for f in frames]
    over_seeds = stats.mean([e.value for e in each if e is not None])
    return Cell(wider(over_pairs, over_seeds), of)
