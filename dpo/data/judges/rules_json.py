"""The rule "parses as JSON"."""

from __future__ import annotations

import json
from dataclasses import dataclass

from dpo.data.judges.base import Question, ScoringJudge


@dataclass(frozen=True)
class RulesJson(ScoringJudge):
    """1 for an answer that is a JSON object as a whole, with exactly `keys` (in any order) where they are given."""

    keys: list[str] | None

    def score(self, question: Question, answer: str) -> float:
        try:
            value = json.loads(answer)
        except (ValueError, RecursionError):
            return 0.0
        return float(isinstance(value, dict) and (self.keys is None or set(value) == set(self.keys)))
