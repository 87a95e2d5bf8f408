"""Estimates with their intervals: over seeds, over seeds and prompts, paired, of shares; families of comparisons.

An estimate and its interval never part: every function here returns an `Estimate` or takes some. Values are plain
floats (numpy arrays of shape (n,), or a row for each seed); clusters and seeds are labels of any kind. Random numbers
come from a `numpy.random.Generator` that the caller gives. This is the one door to `intervals` and `clustered`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from dpo.results.clustered import (
    clustered_change,
    clustered_mean,
    clustered_share,
    clustered_slope,
    paired_pairs,
    subtract,
)
from dpo.results.estimate import Estimate
from dpo.results.intervals import EQUAL, Array, codes_of, finite, mean, none, spread, t_estimate, t_quantile, wilson

__all__ = [
    "EQUAL",
    "Estimate",
    "bootstrap",
    "clustered_change",
    "clustered_mean",
    "clustered_share",
    "clustered_slope",
    "difference",
    "holm",
    "mean",
    "none",
    "paired",
    "paired_pairs",
    "subtract",
    "t_quantile",
    "unpaired",
    "wilson",
]


def bootstrap(
    values: Iterable[float],
    generator: np.random.Generator,
    clusters: Sequence[Hashable] | None = None,
    statistic: Callable[[Array], float] = lambda x: float(x.mean()),
    draws: int = 10_000,
    level: float = 0.95,
    of: str = "runs",
) -> Estimate:
    """Percentile bootstrap (Efron and Tibshirani 1993, chapter 13); whole clusters are drawn where they are given
    (Davison and Hinkley 1997, section 3.8). Too narrow for fewer than about 20 draws of independent units: for a
    handful of seeds use `mean`.
    """
    x = finite(values)
    groups = [np.flatnonzero(codes) for codes in one_hot(clusters)] if clusters is not None else None
    units = len(x) if groups is None else len(groups)
    value = statistic(x)
    if units < 2:
        return none(value, len(x), of, f"one {'cluster' if groups else of.removesuffix('s')}, no interval", level)
    drawn = generator.integers(units, size=(draws, units))
    sampled = [statistic(x[row] if groups is None else x[np.concatenate([groups[i] for i in row])]) for row in drawn]
    low, high = np.quantile(sampled, [(1 - level) / 2, (1 + level) / 2])
    name = "bootstrap" if groups is None else f"bootstrap over {units} clusters"
    return Estimate(value, float(low), float(high), len(x), name, level, of)


def one_hot(labels: Sequence[Hashable]) -> Iterable[NDArray[np.bool_]]:
    """A mask for each different label, in order of appearance."""
    codes = codes_of(labels)
    return (codes == code for code in range(int(codes.max()) + 1))


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b of two independent estimates, from their own intervals (MOVER: Zou and Donner 2008, Statistics in Medicine
    27). Of two Wilson intervals it is Newcombe's hybrid score interval (1998, Statistics in Medicine 17, method 10).
    The p-value is the normal one at the standard error that the end next to 0 stands for.
    """
    value, n = a.value - b.value, min(a.n, b.n)
    if a.interval is None or b.interval is None:
        return none(value, n, a.of, a.missing or b.missing, a.level)
    low = value - math.hypot(a.value - a.interval[0], b.interval[1] - b.value)
    high = value + math.hypot(a.interval[1] - a.value, b.value - b.interval[0])
    method = "Newcombe" if a.method == b.method == "Wilson" else "MOVER"
    reach = value - low if value > 0 else high - value
    sizes = abs(value) * float(ndtri((1 + a.level) / 2)) / reach if reach else math.inf
    p = 2 * float(ndtr(-sizes)) if value else 1.0
    return Estimate(value, low, high, n, method, a.level, a.of, p=p)


def unpaired(a: Iterable[float], b: Iterable[float], level: float = 0.95, of: str = "runs") -> Estimate:
    """Mean of a minus mean of b, of independent runs: Welch's interval (Welch 1947, Biometrika 34)."""
    x, y = finite(a), finite(b)
    value, n = float(x.mean() - y.mean()), min(len(x), len(y))
    if n < 2:
        return none(value, n, of, "one run on a side, no interval", level)
    parts = spread(x) ** 2 / len(x), spread(y) ** 2 / len(y)
    if sum(parts) == 0:
        return none(value, n, of, EQUAL, level)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(x) - 1) + parts[1] ** 2 / (len(y) - 1))
    return t_estimate(value, math.sqrt(sum(parts)), freedom, n, of, "Welch t", level)


def paired(a: Mapping[Any, float], b: Mapping[Any, float], level: float = 0.95, of: str = "seeds") -> Estimate | None:
    """Mean over the keys that both have (seeds, or pair ids) of a - b, with Student's interval; None where they share
    none. Differences that are rounding count as 0.
    """
    keys = [key for key in a if key in b]
    if not keys:
        return None
    estimate = mean([subtract(a[key], b[key]) for key in keys], level, of)
    return replace(estimate, method="paired t") if estimate.interval else estimate


def holm(estimates: Sequence[Estimate], level: float = 0.95) -> list[Estimate]:
    """The same estimates as one family: p-values adjusted after Holm (1979, Scand. J. Statistics 6).

    Intervals stay those of each comparison by itself; `shown` asks both. Estimates without a p-value (no interval)
    are not tested and do not count.
    """
    tested = sorted((i for i, e in enumerate(estimates) if e.p is not None), key=lambda i: estimates[i].p or 0.0)
    adjusted: dict[int, float] = {}
    highest = 0.0
    for rank, i in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * (estimates[i].p or 0.0)))
        adjusted[i] = highest
    return [replace(e, adjusted=adjusted.get(i), family=max(1, len(tested))) for i, e in enumerate(estimates)]
