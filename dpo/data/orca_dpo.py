"""Orca DPO pairs (Intel): a system turn, a question, and two answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpo.data.published import Draft, Published, column


@dataclass(frozen=True)
class OrcaDpo(Published):
    """Rows with the text columns system (may be empty), question, chosen and rejected.

    The prompt is the system turn, where there is one, and the question as the user's. Rows with an empty question
    or answer are dropped, and counted as empty_prompt, empty_chosen, empty_rejected.
    """

    def draft(self, row: dict[str, Any], where: str) -> Draft:
        system, question, chosen, rejected = (
            column(row, name, where) for name in ("system", "question", "chosen", "rejected")
        )
        turns = [{"role": "system", "content": system}] if system.strip() else []
        faults = () if question.strip() or not turns else ("empty_prompt",)
        return Draft([*turns, {"role": "user", "content": question}], chosen, rejected, faults)
