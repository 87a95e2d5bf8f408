"""How much of a preference is length: the baseline, accuracy by length class, the slope, a balanced subset.

Shapes: B pairs. Lengths are completion tokens, EOS included; the length difference is chosen minus rejected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from torch import Tensor

from dpo.metrics import FP32_TIE, PairRows, margins, wins
from dpo.results.stats import clustered_slope


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
    slope = slope_interval(difference_B, margins(rows), rows.prompts)
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


def slope_interval(x_B: Tensor, y_B: Tensor, prompts: Sequence[str] = ()) -> tuple[float, float, float] | None:
    """(slope, low, high) of ordinary least squares of y on x, clustered by prompt (`stats.clustered_slope`).

    None for fewer than three points, where x does not vary, or where there is no interval.
    """
    e = clustered_slope(x_B.tolist(), y_B.tolist(), prompts or range(len(x_B)))
    return None if e is None or e.interval is None else (e.value, *e.interval)
