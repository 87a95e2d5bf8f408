"""What every interval is made of: finite values, rounding, Student's t and Wilson's score interval."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit

from dpo.results.estimate import Estimate

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
    array = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("an estimate of values that are not all finite; leave those out and say so")
    return array


def spread(values: Array) -> float:
    """Standard deviation with n - 1; 0 where the values differ by rounding alone."""
    deviation = float(values.std(ddof=1)) if values.size > 1 else 0.0
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


def codes_of(labels: Sequence[Hashable]) -> NDArray[np.int64]:
    """0, 1, ... for each different label, in order of appearance."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels], dtype=np.int64)


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
