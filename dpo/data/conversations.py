"""Sets of whole conversations in chat messages whose last turn differs: Tulu-style mixtures and UltraFeedback."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from dpo.data.published import Draft, Published, conversation, last_turns, score
from dpo.ranges import Range


@dataclass(frozen=True)
class Conversations(Published):
    """Rows with columns chosen and rejected, each a list of {"role", "content"} messages, system turns included.

    The prompt is every turn but the last. Rows are dropped, and counted, where the histories differ
    (prompt_differs), the last turn is not the assistant's (not_assistant) or is empty (empty_chosen,
    empty_rejected), or nothing comes before it (empty_prompt).
    """

    def draft(self, row: dict[str, Any], where: str) -> Draft:
        made = last_turns(conversation(row, "chosen", where), conversation(row, "rejected", where))
        return made.with_tools(row, where)


@dataclass(frozen=True)
class UltraFeedback(Conversations):
    """UltraFeedback binarized (Cui et al. 2023, arXiv:2310.01377; Tunstall et al. 2023, arXiv:2310.16944).

    As `Conversations`, with columns score_chosen and score_rejected: rows whose scores differ by less than
    `min_gap` are dropped, and counted as gap_too_small.
    """

    min_gap: Annotated[float, Range(0, 1e12)]

    def draft(self, row: dict[str, Any], where: str) -> Draft:
        made = super().draft(row, where)
        if self.min_gap == 0:
            return made
        scores = [score(row, name, where) for name in ("score_chosen", "score_rejected")]
        return replace(made, faults=(*made.faults, "gap_too_small")) if scores[0] - scores[1] < self.min_gap else made
