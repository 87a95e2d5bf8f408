"""The rule "is the known answer"."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from dpo.data.judges.base import Question, ScoringJudge


@dataclass(frozen=True)
class Exact(ScoringJudge):
    """1 for an answer equal to a chosen answer of the data set on the same prompt, white space at its ends aside.

    With `field` both are read as JSON objects, and only this key's values are compared.
    """

    field: str | None
    ignore_case: bool

    def score(self, question: Question, answer: str) -> float:
        known = [self.value(reference) for reference in question.references]
        value = self.value(answer)
        return float(value is not None and value in known)

    def value(self, text: str) -> Any:
        """What is compared; None for an answer without it."""
        if self.ignore_case:
            text = text.casefold()
        if self.field is None:
            return text.strip()
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            return None
        key = self.field.casefold() if self.ignore_case else self.field
        return json.dumps(parsed[key], sort_keys=True) if isinstance(parsed, dict) and key in parsed else None
