"""The rule "the shorter (or the longer) answer is better": a judge biased on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dpo.data.judges.base import Question, ScoringJudge


@dataclass(frozen=True)
class Length(ScoringJudge):
    """The number of `unit` in the answer, or minus that number where the shorter one `wins`."""

    wins: Literal["shorter", "longer"]
    unit: Literal["characters", "words"]

    def score(self, question: Question, answer: str) -> float:
        size = len(answer) if self.unit == "characters" else len(answer.split())
        return float(size if self.wins == "longer" else -size)
