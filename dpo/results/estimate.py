"""An estimate and its interval, which never part."""

from __future__ import annotations

import math
from dataclasses import dataclass

NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, in the number's own unit.

    low, high  ends of the `level` interval, None where there is none (`missing` says why)
    n, of      how many of what it stands on: runs, pairs, samples
    method     how the interval was made, such as "t" (Student), "cluster t", "Wilson"
    p          two-sided p-value against 0, where the method has one
    adjusted   p after Holm's correction within a family of `family` comparisons
    """

    value: float
    low: float | None
    high: float | None
    n: int
    method: str
    level: float = 0.95
    of: str = "runs"
    missing: str = ""
    p: float | None = None
    adjusted: float | None = None
    family: int = 1

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high), or None."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def shown(self) -> bool:
        """For a difference or a slope: whether it is told apart from 0, by its interval and within its family."""
        if self.interval is None or not (self.interval[0] > 0 or self.interval[1] < 0):
            return False
        return self.adjusted is None or self.adjusted < 1 - self.level

    @property
    def verdict(self) -> str:
        """ "" where a difference is shown, else "no difference shown", with the reason where the interval is not it."""
        if self.shown:
            return ""
        if self.interval is None:
            return f"{NO_DIFFERENCE} ({self.missing})"
        if self.interval[0] > 0 or self.interval[1] < 0:
            return f"{NO_DIFFERENCE} (after Holm's correction over {self.family} comparisons)"
        return NO_DIFFERENCE

    @property
    def footing(self) -> str:
        """What it stands on, such as "n=3 runs, t"."""
        unit = self.of[:-1] if self.n == 1 and self.of.endswith("s") else self.of
        return f"n={self.n} {unit}, {self.method}" if self.interval else f"n={self.n} {unit}; {self.missing}"

    def text(self, signed: bool = False) -> str:
        """The value and its interval, without n: "0.92 [0.88, 0.96]"."""
        digits = decimals(self.value, *(self.interval or ()))
        sign = "+" if signed else ""
        value = number(self.value, digits, sign)
        if self.interval is None:
            return value
        return f"{value} [{number(self.interval[0], digits, sign)}, {number(self.interval[1], digits, sign)}]"

    def __str__(self) -> str:
        return f"{self.text()} ({self.footing})"


def decimals(value: float, *ends: float) -> int:
    """Digits behind the point that show the interval's half-width to two figures, or the value to three."""
    size = abs(ends[1] - ends[0]) / 2 if len(ends) == 2 and ends[1] > ends[0] else abs(value) / 10
    if not math.isfinite(size) or size == 0:
        return 2
    return min(8, max(0, 1 - math.floor(math.log10(size))))


def number(value: float, digits: int, sign: str = "") -> str:
    """A number for people; a typographic minus is not used, so that it can be read back."""
    if value and (abs(value) >= 1e6 or (abs(value) < 1e-6 and digits >= 8)):
        return f"{value:{sign}.2e}"
    text = f"{value:{sign}.{digits}f}"
    return text.replace("-", sign, 1) if text.startswith("-") and float(text) == 0 else text
