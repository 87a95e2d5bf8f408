"""The rule "matches a regular expression"."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from dpo.data.judges.base import Ask, Question, ScoringJudge
from dpo.errors import UsageError


@dataclass(frozen=True)
class RulesRegex(ScoringJudge):
    """1 for an answer that `pattern` is found in (the `whole` answer must match where that is asked), else 0."""

    pattern: str | None
    whole: bool

    def check(self) -> None:
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise UsageError(f"judge.pattern={self.pattern}: not a regular expression ({error})") from error

    def open(self, device: torch.device) -> Ask:
        if self.pattern is None:
            raise UsageError("judge.pattern is not set: give it as judge.pattern='...', a regular expression")
        return super().open(device)

    def score(self, question: Question, answer: str) -> float:
        found = re.fullmatch if self.whole else re.search
        return float(found(self.pattern or "", answer) is not None)
