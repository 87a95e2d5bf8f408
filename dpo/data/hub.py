"""Any set with named columns: a hub id, or a file or folder of your own whose columns have other names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpo.data.published import Draft, Published, column, conversation, last_turns


@dataclass(frozen=True)
class Hub(Published):
    """Columns are named by `prompt`, `chosen` and `rejected`; each holds text or chat messages.

    With `prompt` null, chosen and rejected are whole conversations in messages, and all turns but the last are the
    prompt. Rows with an empty side are dropped, and counted as empty_prompt, empty_chosen, empty_rejected; so are
    conversations with differing histories (prompt_differs) or a last turn by somebody else (not_assistant).
    """

    prompt: str | None
    chosen: str
    rejected: str

    def draft(self, row: dict[str, Any], where: str) -> Draft:
        if self.prompt is None:
            return last_turns(conversation(row, self.chosen, where), conversation(row, self.rejected, where))
        prompt, chosen, rejected = (
            conversation(row, name, where) if isinstance(row.get(name), list) else column(row, name, where, (str, list))
            for name in (self.prompt, self.chosen, self.rejected)
        )
        return Draft(prompt, chosen, rejected)
