"""How much of a preference is length: the baseline, accuracy by length class, the slope, a balanced subset.

Shapes: B pairs. Lengths are completion tokens, EOS included; the length difference is chosen minus rejected.
"""

from __future__ import annotations

import functools
import math
from collections import deque

from torch import Tensor

from dpo.metrics import FP32_TIE, PairRows, margins, wins


def scalars(rows: PairRows, tie: float = FP32_TIE) -> dict[str, float]:
    """The length/ metrics of docs/metrics.md, without their eval/ prefix; what cannot be computed is absent."""
    difference_B = rows.values["chosen_tokens"] - rows.values["rejected_tokens"]
    win_B = wins(rows, tie)
    classes = {
        "chosen_longer": difference_B > 0,
        "equal": difference_B == 0,
        "chosen_shorter": difference_B < 0,
        "balanced": balanced(difference_B),
    }
    values = {"longer_wins": float((0.5 + 0.5 * difference_B.sign()).mean())}
    values |= {f"accuracy_{name}": float(win_B[held_B].mean()) for name, held_B in classes.items() if held_B.any()}
    values["pairs_balanced"] = float(classes["balanced"].sum())
    slope = slope_interval(difference_B, margins(rows))
    if slope is not None:
        values |= dict(zip(("slope", "slope_low", "slope_high"), slope, strict=True))
    return {f"length/{name}": value for name, value in values.items()}


def balanced(difference_B: Tensor, slack: float = 0.1) -> Tensor:
    """True for the pairs of a subset on which the longer answer wins exactly half of the time.

    Each pair with the longer answer chosen is matched with one whose shorter answer is chosen and whose
    difference has the same size, to within `slack` of the larger size or one token. Both kinds are gone
    through from small to large, so the matching is one of the largest there are. Pairs of equal length
    are kept; the unmatched are left out.
    """
    size_B, held_B = difference_B.abs(), difference_B == 0
    longer, shorter = (
        deque(sorted(side_B.nonzero().flatten().tolist(), key=lambda i: float(size_B[i])))
        for side_B in (difference_B > 0, difference_B < 0)
    )
    while longer and shorter:
        a, b = float(size_B[longer[0]]), float(size_B[shorter[0]])
        if abs(a - b) <= max(1.0, slack * max(a, b)):
            held_B[longer.popleft()] = held_B[shorter.popleft()] = True
        else:
            (longer if a < b else shorter).popleft()
    return held_B


def slope_interval(x_B: Tensor, y_B: Tensor) -> tuple[float, float, float] | None:
    """(slope, low, high) of ordinary least squares of y on x, with the classical 95 % t interval.

    None for fewer than three points or where x does not vary.
    """
    n, x_B, y_B = len(x_B), x_B - x_B.mean(), y_B - y_B.mean()
    spread = float(x_B.square().sum())
    if n < 3 or spread == 0:
        return None
    slope = float((x_B * y_B).sum()) / spread
    residual = float((y_B - slope * x_B).square().sum())
    half = t_quantile(n - 2) * math.sqrt(residual / (n - 2) / spread)
    return slope, slope - half, slope + half


@functools.cache
def t_quantile(freedom: int, probability: float = 0.975) -> float:
    """The quantile of Student's t with a whole number of degrees of freedom, by bisection of its exact
    distribution function (Abramowitz and Stegun, 26.7.3 and 26.7.4); above 1,000 degrees that of 1,000."""
    low, high = 0.0, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_below(middle, min(freedom, 1000)) < probability else (low, middle)
    return low


def t_below(t: float, freedom: int) -> float:
    """P(T <= t) of Student's t for t >= 0."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= k / (k + 1) * math.cos(angle) ** 2
    within = math.sin(angle) * total
    return 0.5 + 0.5 * (2 / math.pi * (angle + within) if odd else within)
