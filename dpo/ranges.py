"""Which values a setting can mean: ranges that stand beside the fields and are checked at the door (`build.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both allowed; `above` and `below` leave that end out. Never NaN, and infinite only by name.

    The upper end of a size or a count is where a value can only be a slip: it would end in a crash, or never.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        low, high = (f"{end:,}" if isinstance(end, int) else f"{end:g}" for end in (self.low, self.high))
        return f"{'above' if self.above else 'at least'} {low} and {'below' if self.below else 'at most'} {high}"


ANY = Range(-(2**63), 2**63 - 1)
"""A number without a range of its own: finite, and no larger than what a tensor's integers hold."""

Seed = Annotated[int, Range(0, 2**32 - 1)]
"""What every generator of random numbers takes."""
Share = Annotated[float, Range(0, 1)]
Part = Annotated[float, Range(0, 1, below=True)]
"""A share that leaves something: a dropout, a momentum, a warm-up."""
HeldOut = Annotated[float, Range(0, 1, above=True, below=True)]
"""A share that leaves something on both sides."""
Rate = Annotated[float, Range(0, 1e38, above=True)]
"""A learning rate; large ones may diverge, which is a run's outcome and not a slip."""
StartRate = Annotated[float, Range(0, 10, above=True)]
"""A learning rate of what many runs start from: a diverged one would lie in the cache."""
Strength = Annotated[float, Range(0, 1e6)]
"""A weight of a term: 0 switches it off."""
Weight = Annotated[float, Range(0, 1e6, above=True)]
Epochs = Annotated[int, Range(1, 10_000)]
Steps = Annotated[int, Range(0, 10_000_000)]
Batch = Annotated[int, Range(1, 65_536)]
Tokens = Annotated[int, Range(1, 131_072)]
"""Length of a text in tokens; the longest contexts of models."""
Answers = Annotated[int, Range(0, 65_536)]
Rows = Annotated[int, Range(1, 1_000_000_000)]
Temperature = Annotated[float, Range(0.001, 1000)]
Seconds = Annotated[float, Range(0, 86_400, above=True)]
Rank = Annotated[int, Range(1, 8192)]
