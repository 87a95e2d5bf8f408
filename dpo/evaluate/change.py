"""Margins before and after on the same pairs, with the interval of their paired change: small effects made visible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Z = 1.959964


def margin_change(before: dict[str, list[float]], after: dict[str, list[float]]) -> dict[str, Any]:
    """Mean reward margins of two evaluations of the same pairs (columns of a per-pair table), and of their change.

    {"before", "after", "change", "interval", "n", "shown"}: the interval is Student's for the mean of the paired
    differences, at 95 %, over evaluation pairs and not over seeds (None for one pair); `shown` is whether it leaves
    out 0.
    """
    if before["id"] != after["id"]:
        raise ValueError("the two evaluations hold different pairs")
    margins = [
        [c - r for c, r in zip(table["chosen_reward"], table["rejected_reward"], strict=True)]
        for table in (before, after)
    ]
    n = len(margins[0])
    first, last = (sum(values) / n for values in margins)
    interval = paired_interval([b - a for a, b in zip(*margins, strict=True)])
    shown = interval is not None and (interval[0] > 0 or interval[1] < 0)
    return {"before": first, "after": last, "change": last - first, "interval": interval, "n": n, "shown": shown}


def sentence(change: dict[str, Any]) -> str:
    """The change in words; no claim where the interval holds 0."""
    text = f"margin on the same {change['n']} pairs: {change['before']:+.4f} to {change['after']:+.4f}"
    if change["interval"] is None:
        return f"{text}; one pair gives no interval"
    low, high = change["interval"]
    verdict = "" if change["shown"] else "; no difference shown"
    return f"{text}, change {change['change']:+.4f} (95 % interval {low:+.4f} to {high:+.4f}){verdict}"


def paired_interval(differences: Sequence[float]) -> list[float] | None:
    """95 % interval of the mean (Student 1908); None for fewer than two differences."""
    n = len(differences)
    if n < 2:
        return None
    mean = sum(differences) / n
    error = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    return [mean - t_quantile(n - 1) * error, mean + t_quantile(n - 1) * error]


def t_quantile(degrees: int) -> float:
    """The 0.975 quantile of Student's t: exact for 1 and 2 degrees, else Cornish and Fisher's expansion (to 1 %)."""
    if degrees <= 2:
        return (12.706205, 4.302653)[degrees - 1]
    z, v = Z, float(degrees)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
