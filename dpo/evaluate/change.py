"""Margins before and after on the same pairs, with the interval of their paired change: small effects made visible."""

from __future__ import annotations

from typing import Any

from dpo.pair_tables import other_pair
from dpo.results.stats import clustered_mean


def margin_change(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> dict[str, Any]:
    """Mean reward margins of two evaluations of the same pairs (columns of a per-pair table), and of their change.

    {"before", "after", "change", "interval", "n", "shown"}: the interval is that of `stats.clustered_mean` for the mean
    of the paired differences, at 95 %, over evaluation pairs and their prompts and not over seeds (None where there is
    none: one pair, one prompt, equal changes); `shown` is whether it leaves out 0.
    """
    if pair := other_pair(before, after):
        raise ValueError(f"the two evaluations hold different pairs: {pair}")
    margins = [
        [c - r for c, r in zip(table["chosen_reward"], table["rejected_reward"], strict=True)]
        for table in (before, after)
    ]
    n = len(margins[0])
    first, last = (sum(values) / n for values in margins)
    e = clustered_mean([b - a for a, b in zip(*margins, strict=True)], after.get("prompt", after["id"]))
    interval = None if e.interval is None else list(e.interval)
    return {"before": first, "after": last, "change": last - first, "interval": interval, "n": n, "shown": e.shown}


def sentence(change: dict[str, Any]) -> str:
    """The change in words; no claim where the interval holds 0."""
    text = f"margin on the same {change['n']} pairs: {change['before']:+.4f} to {change['after']:+.4f}"
    if change["interval"] is None:
        return f"{text}; no interval from one pair, one prompt, or equal changes"
    low, high = change["interval"]
    verdict = "" if change["shown"] else "; no difference shown"
    return f"{text}, change {change['change']:+.4f} (95 % interval {low:+.4f} to {high:+.4f}){verdict}"
