"""What a per-pair table says of its pairs beside their numbers, and whether two tables are of the same pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NAMES = ("id", "prompt", "text")
"""Columns that are no numbers: the pair's id, hashes of its prompt and of all its text (prompt and both answers)."""
CONTENT = ("id", "text", "prompt", "chosen_tokens", "rejected_tokens")
"""Columns that cannot differ between two evaluations of the same pairs; older tables have no `text`."""


def other_pair(a: Mapping[str, Sequence[Any]], b: Mapping[str, Sequence[Any]]) -> str | None:
    """The id of the first pair that two per-pair tables do not both hold, at its place and with its text; else None."""
    for column in CONTENT:
        if column in a and column in b and list(a[column]) != list(b[column]):
            places = zip(a["id"], a[column], b[column], strict=False)
            return str(next((name for name, x, y in places if x != y), "one that only one of them has"))
    return None
