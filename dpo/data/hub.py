"""Any set with named columns: a hub id, or a file or folder of your own whose columns have other names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dpo.data.messages import one_turn
from dpo.data.published import Draft, Published, column, conversation, last_turns, other_speakers


@dataclass(frozen=True)
class Hub(Published):
    """Columns are named by `prompt`, `chosen` and `rejected`; each holds text or chat messages.

    With `prompt` null, chosen and rejected are whole conversations in messages, and all turns but the last are the
    prompt; likewise where they are whole conversations that repeat the prompt. A column `tools` goes to the chat
    template. Rows with an empty side are dropped, and counted as empty_prompt, empty_chosen, empty_rejected; so are
    conversations with differing histories (prompt_differs), answers of several turns (many_turns), and a last turn by
    somebody else (not_assistant).
    """

    prompt: str | None
    chosen: str
    rejected: str

    def draft(self, row: dict[str, Any], where: str) -> Draft:
        if self.prompt is None:
            made = last_turns(conversation(row, self.chosen, where), conversation(row, self.rejected, where))
            return made.with_tools(row, where)
        prompt, chosen, rejected = (
            conversation(row, name, where) if isinstance(row.get(name), list) else column(row, name, where, (str, list))
            for name in (self.prompt, self.chosen, self.rejected)
        )
        apart = one_turn(prompt, chosen, rejected)
        if apart is None:
            return Draft(prompt, chosen, rejected, ("many_turns",))
        return Draft(*apart, tuple(other_speakers(*apart[1:]))).with_tools(row, where)
