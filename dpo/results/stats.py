"""Estimates with their intervals: over seeds, paired, clustered by prompt, of shares, and for families of comparisons.

An estimate and its interval never part: every function here returns an `Estimate` or takes some. Values are plain
floats (numpy arrays of shape (n,)); clusters and seeds are labels of any kind. Random numbers come from a
`numpy.random.Generator` that the caller gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from dpo.results.estimate import Estimate

__all__ = [
    "Estimate",
    "bootstrap",
    "clustered_change",
    "clustered_mean",
    "clustered_share",
    "clustered_slope",
    "difference",
    "holm",
    "mean",
    "paired",
    "paired_pairs",
    "unpaired",
    "wilson",
]

Array = NDArray[np.float64]
EQUAL = "all equal, no interval"
ROUNDING = 1e-12
"""Relative size below which the difference of two float64 numbers is rounding."""


def none(value: float, n: int, of: str, why: str, level: float = 0.95) -> Estimate:
    """A value that has no interval, and why."""
    return Estimate(value, None, None, n, "none", level, of, why)


def t_quantile(freedom: float, level: float = 0.95) -> float:
    """The two-sided quantile of Student's t: half an interval is this many standard errors."""
    return float(stdtrit(freedom, (1 + level) / 2))


def t_estimate(value: float, error: float, freedom: float, n: int, of: str, method: str, level: float) -> Estimate:
    """value +- t(freedom) error, and the p-value of value / error."""
    half = t_quantile(freedom, level) * error
    p = (0.0 if value else 1.0) if error == 0 else 2 * float(stdtr(freedom, -abs(value / error)))
    return Estimate(value, value - half, value + half, n, method, level, of, p=p)


def finite(values: Iterable[float]) -> Array:
    """The values as an array; a NaN or an infinity raises ValueError: leave such runs out by name, not silently."""
    array = np.asarray(list(values), dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("an estimate of values that are not all finite; leave those out and say so")
    return array


def spread(values: Array) -> float:
    """Standard deviation with n - 1; 0 where the values differ by rounding alone."""
    deviation = float(values.std(ddof=1))
    return 0.0 if deviation <= ROUNDING * float(np.abs(values).max()) else deviation


def mean(values: Iterable[float], level: float = 0.95, of: str = "runs") -> Estimate:
    """Mean of independent values with Student's interval (Student 1908, Biometrika 6).

    One value has none, and neither have equal ones: a spread of 0 does not say how far another would lie.
    """
    x = finite(values)
    if len(x) == 0:
        raise ValueError("an estimate needs at least one value")
    if len(x) == 1:
        return none(float(x[0]), 1, of, f"one {of.removesuffix('s')}, no interval", level)
    if not spread(x):
        return none(float(x[0]), len(x), of, EQUAL, level)
    return t_estimate(float(x.mean()), spread(x) / math.sqrt(len(x)), len(x) - 1, len(x), of, "t", level)


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


def codes_of(labels: Sequence[Hashable]) -> NDArray[np.int64]:
    """0, 1, ... for each different label, in order of appearance."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels], dtype=np.int64)


def cluster_sums(values: Array, codes: NDArray[np.int64]) -> Array:
    """The sum of the values of each cluster, shape (G,)."""
    return np.bincount(codes, weights=values).astype(np.float64)


def clustered_mean(
    values: Iterable[float], clusters: Sequence[Hashable], of: str = "pairs", level: float = 0.95
) -> Estimate:
    """Mean of values that share clusters (pairs of one prompt), cluster-robust: Liang and Zeger 1986, with the factor
    G / (G - 1) and t of G - 1 degrees (Cameron and Miller 2015, J. Human Resources 50). With clusters of one: `mean`.
    """
    x, codes = finite(values), codes_of(clusters)
    count = int(codes.max()) + 1
    if count < 2:
        why = f"one {of.removesuffix('s')}, no interval" if len(x) == 1 else f"all {of} share one prompt, no interval"
        return none(float(x.mean()), len(x), of, why, level)
    if not spread(x):
        return none(float(x[0]), len(x), of, EQUAL, level)
    sums = cluster_sums(x - x.mean(), codes)
    error = math.sqrt(count / (count - 1) * float(np.square(sums).sum())) / len(x)
    method = "t" if count == len(x) else f"cluster t over {count} prompts"
    return t_estimate(float(x.mean()), error, count - 1, len(x), of, method, level)


def clustered_change(
    values: Iterable[float], clusters: Sequence[Hashable], of: str = "pairs", level: float = 0.95
) -> Estimate:
    """`clustered_mean` of values from -1 to 1 (changes of shares). Where all are equal, (1 + value) / 2 is taken for a
    share and has the interval of `clustered_share`: every answer turned round is evidence, and none turned is some.
    """
    x = finite(values)
    e = clustered_mean(x, clusters, of, level)
    if e.missing != EQUAL:
        return e
    share = clustered_share((1 + x) / 2, clusters, of, level)
    assert share.low is not None and share.high is not None
    return replace(share, value=e.value, low=2 * share.low - 1, high=2 * share.high - 1)


def clustered_slope(
    x: Iterable[float], y: Iterable[float], clusters: Sequence[Hashable], of: str = "pairs", level: float = 0.95
) -> Estimate | None:
    """Least-squares slope of y on x with a cluster-robust interval (the CR1 sandwich of Cameron and Miller 2015, t of
    G - 1 degrees). It allows for unequal variances too, so it is not the classical interval even for clusters of one.
    None for fewer than three points or where x does not vary.
    """
    a, b, codes = finite(x), finite(y), codes_of(clusters)
    n, count = len(a), int(codes.max()) + 1 if len(a) else 0
    if n < 3 or spread(a) == 0:
        return None
    a, b = a - a.mean(), b - b.mean()
    squares = float(a @ a)
    slope = float(a @ b) / squares
    if count < 2:
        return none(slope, n, of, f"all {of} share one prompt, no interval", level)
    residual = b - slope * a
    if np.abs(residual).max() <= ROUNDING * max(float(np.abs(b).max()), ROUNDING):
        residual = np.zeros_like(residual)
    meat = float(np.square(cluster_sums(a * residual, codes)).sum()) * count / (count - 1) * (n - 1) / (n - 2)
    method = "cluster t" if count == n else f"cluster t over {count} prompts"
    return t_estimate(slope, math.sqrt(meat) / squares, count - 1, n, of, method, level)


def wilson(successes: float, n: float, of: str = "samples", level: float = 0.95) -> Estimate:
    """A share with Wilson's score interval (Wilson 1927, JASA 22); a tie counts one half."""
    if n <= 0:
        raise ValueError("a share needs at least one trial")
    low, high = score_ends(successes / n, n, level)
    return Estimate(successes / n, low, high, round(n), "Wilson", level, of)


def score_ends(share: float, n: float, level: float) -> tuple[float, float]:
    """Ends of Wilson's interval for a share of n, which may be an effective number."""
    z = float(ndtri((1 + level) / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def clustered_share(
    hits: Iterable[float], clusters: Sequence[Hashable], of: str = "pairs", level: float = 0.95
) -> Estimate:
    """A share of items that share clusters: Wilson's interval at the effective number of items n / deff, with t in
    place of z (Korn and Graubard 1998, Survey Methodology 24; Dean and Pagano 2015). Where every item says the same,
    the number of clusters is the effective number; for clusters of one it is `wilson`.
    """
    x, codes = finite(hits), codes_of(clusters)
    n, count, share = len(x), int(codes.max()) + 1, float(finite(hits).mean())
    if count == n:
        return replace(wilson(float(x.sum()), n, of, level), of=of)
    variance = count / max(count - 1, 1) * float(np.square(cluster_sums(x - share, codes)).sum()) / n**2
    effective = share * (1 - share) / variance if variance and 0 < share < 1 else float(count)
    effective = min(float(n), max(effective, 1.0))
    if count > 1:
        effective *= (float(ndtri((1 + level) / 2)) / t_quantile(count - 1, level)) ** 2
    low, high = score_ends(share, effective, level)
    return Estimate(share, low, high, n, f"Wilson, {count} prompts", level, of)


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


def subtract(a: float, b: float) -> float:
    """a - b, and 0 where that is rounding."""
    return 0.0 if abs(a - b) <= ROUNDING * max(abs(a), abs(b)) else a - b


def paired_pairs(
    a: Mapping[Any, Mapping[Any, float]],
    b: Mapping[Any, Mapping[Any, float]],
    prompts: Mapping[Any, Hashable] | None = None,
    level: float = 0.95,
) -> Estimate | None:
    """a - b of values by seed and then by pair id, over the seeds and pair ids that both have; None where none are.

    With two seeds or more the mean difference of each seed is one value, and the interval is Student's over seeds: what
    other seeds would give on these pairs. With one seed it is over pairs, clustered by prompt: what this run would
    give on other pairs.
    """
    by_seed = {}
    for seed in a:
        ids = [key for key in a[seed] if key in b.get(seed, {})]
        if ids:
            by_seed[seed] = {key: subtract(a[seed][key], b[seed][key]) for key in ids}
    if len(by_seed) == 1:
        (differences,) = by_seed.values()
        labels = [prompts[key] if prompts else key for key in differences]
        return clustered_mean(differences.values(), labels, level=level)
    if not by_seed:
        return None
    estimate = mean([sum(d.values()) / len(d) for d in by_seed.values()], level, "seeds")
    return replace(estimate, method="paired t")


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
