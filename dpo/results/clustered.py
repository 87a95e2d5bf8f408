"""Means, shares and slopes over pairs, which share prompts, of one run or of several seeds on the same pairs.

Values have shape (J,), or (S, J) with a row for each seed. With several seeds the interval is for other seeds and other
prompts at once (`crossed`); with one it is over prompts alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from dpo.results.crossed import Parts, design, parts
from dpo.results.estimate import Estimate
from dpo.results.intervals import (
    EQUAL,
    ROUNDING,
    Array,
    codes_of,
    finite,
    none,
    score_ends,
    spread,
    t_quantile,
    wilson,
)

Values = Iterable[float] | Array
FEW = 5
"""Prompts with the rarer outcome below which their own variance says too little of a share."""


def rows(values: Values) -> Array:
    """Values as (S, J); those of one run are one row."""
    return np.atleast_2d(finite(values))


def plural(count: int, word: str) -> str:
    """1 seed, 2 seeds."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def footing(start: str, joint: str, seeds: int, prompts: int, pairs: int, agree: bool) -> str:
    """A method in words, with what varies behind it: "t over 3 seeds and 40 prompts"; clusters of one go unsaid."""
    one = seeds == 1 or agree
    varied = [] if one else [plural(seeds, "seed")]
    if prompts > 1 and not (one and prompts == pairs):
        varied.append(plural(prompts, "prompt"))
    said = start + (joint + " and ".join(varied) if varied else "")
    return f"{said}, the same for {seeds} seeds" if seeds > 1 and agree else said


def missing(values: Array, prompts: int, of: str) -> str:
    """Why the mean of these values has no interval; "" where it has one."""
    if values.size == 1:
        return f"one {of.removesuffix('s')}, no interval"
    if len(values) == 1 and prompts < 2:
        return f"all {of} share one prompt, no interval"
    return "" if spread(values) else EQUAL


def estimate(values: Array, found: Parts, prompts: int, of: str, level: float) -> Estimate:
    """The interval and p-value of the parts; none where neither seeds nor pairs differ."""
    value, half, (seeds, pairs) = float(found.value), float(found.half(level)), values.shape
    if half == 0:
        return none(value, pairs, of, EQUAL, level)
    agree = not (found.seeds or found.cells)
    name = "t" if prompts == pairs or not agree else "cluster t"
    method = footing(name, " over ", seeds, prompts, pairs, agree)
    return Estimate(value, value - half, value + half, pairs, method, level, of, p=float(found.p()))


def clustered_mean(values: Values, clusters: Sequence[Hashable], of: str = "pairs", level: float = 0.95) -> Estimate:
    """Mean of values of pairs that share clusters (prompts). Of one run: cluster-robust (CR2) with Bell and McCaffrey's
    degrees of freedom, Student's for clusters of one. Of several seeds: over seeds and prompts at once.
    """
    y, codes = rows(values), codes_of(clusters)
    prompts = int(codes.max()) + 1
    if why := missing(y, prompts, of):
        return none(float(y.mean()) if spread(y) else float(y[0, 0]), y.shape[1], of, why, level)
    return estimate(y, parts(y, design(codes)), prompts, of, level)


def clustered_change(values: Values, clusters: Sequence[Hashable], of: str = "pairs", level: float = 0.95) -> Estimate:
    """`clustered_mean` of values from -1 to 1 (changes of shares). Where all are equal, (1 + value) / 2 is taken for a
    share and has the interval of `clustered_share`: every answer turned round is evidence, and none turned is some.
    """
    y = rows(values)
    e = clustered_mean(y, clusters, of, level)
    if e.missing != EQUAL or spread(y):
        return e
    share = clustered_share((1 + y) / 2, clusters, of, level)
    assert share.low is not None and share.high is not None
    return replace(share, value=e.value, low=2 * share.low - 1, high=2 * share.high - 1)


def clustered_slope(
    x: Iterable[float], y: Values, clusters: Sequence[Hashable], of: str = "pairs", level: float = 0.95
) -> Estimate | None:
    """Least-squares slope of y, (J,) or (S, J), on x (J,), with the interval of `clustered_mean`. It allows for unequal
    variances too, so it is not the classical one even for clusters of one. None for fewer than three points or where x
    does not vary; no interval where y does not vary, or where one prompt alone decides the slope.
    """
    a, b, codes = finite(x), rows(y), codes_of(clusters)
    n, prompts = len(a), int(codes.max()) + 1 if len(a) else 0
    if n < 3 or spread(a) == 0:
        return None
    made = design(codes, a)
    found = parts(b, made)
    alone = "one prompt alone decides the slope, no interval" if made.lone and prompts > 1 else ""
    if why := missing(b, prompts, of) or alone:
        return none(0.0 if why == EQUAL else float(found.value), n, of, why, level)
    if float(found.half(level)) == 0:  # on one line to rounding
        return replace(
            none(float(found.value), n, of, "", level), low=float(found.value), high=float(found.value), p=0.0
        )
    return estimate(b, found, prompts, of, level)


def clustered_share(hits: Values, clusters: Sequence[Hashable], of: str = "pairs", level: float = 0.95) -> Estimate:
    """A share of pairs that share clusters: Wilson's interval at the effective number of pairs, with t in place of z
    (Korn and Graubard 1998, Survey Methodology 24; Dean and Pagano 2015), for several seeds with the variance of both.

    Where all say the same, the number of clusters is the effective number; for one run with clusters of one, or seeds
    that all say the same of each pair, it is `wilson`. Near 0 and 1 the few prompts with the rarer outcome say little
    of their own variance: below FEW of them the effective number is that of the pairs at most, whatever the seeds.
    """
    y, codes = rows(hits), codes_of(clusters)
    seeds, n = y.shape
    prompts, share = int(codes.max()) + 1, float(y.mean())
    agree = bool((np.abs(y - y[0]) <= ROUNDING).all())
    if agree:
        y = y[:1]
    method = footing("Wilson", ", ", seeds, prompts, n, agree)
    if agree and prompts == n:
        return replace(wilson(float(y.sum()), n, of, level), method=method)
    found, z, most = parts(y, design(codes)), float(ndtri((1 + level) / 2)), n
    if len(y) > 1 and min(np.unique(codes[(y != side).any(0)]).size for side in (0.0, 1.0)) >= FEW:
        most = y.size
    half = float(found.half(level))
    if half and 0 < share < 1:
        effective = share * (1 - share) * (z / half) ** 2
    else:
        effective = prompts * (z / t_quantile(max(prompts - 1, 1), level)) ** 2
    low, high = score_ends(share, min(most, effective), level)
    return Estimate(share, low, high, n, method, level, of)


def paired_pairs(
    a: Mapping[Any, Mapping[Any, float]],
    b: Mapping[Any, Mapping[Any, float]],
    prompts: Mapping[Any, Hashable] | None = None,
    level: float = 0.95,
) -> Estimate | None:
    """a - b of values by seed and then by pair id, over the seeds that both have and the pair ids that all of these
    have; None where none are. The interval is that of `clustered_mean`: over seeds and prompts, over prompts for one
    seed.
    """
    seeds = [seed for seed in a if set(a[seed]) & set(b.get(seed, {}))]
    ids = [key for key in (a[seeds[0]] if seeds else ()) if all(key in a[s] and key in b[s] for s in seeds)]
    if not ids:
        return None
    differences = np.array([[subtract(a[s][key], b[s][key]) for key in ids] for s in seeds])
    e = clustered_mean(differences, [prompts[key] if prompts else key for key in ids], level=level)
    return replace(e, method=f"paired {e.method}") if e.interval else e


def subtract(a: float, b: float) -> float:
    """a - b, and 0 where that is rounding."""
    return 0.0 if abs(a - b) <= ROUNDING * max(abs(a), abs(b)) else a - b
