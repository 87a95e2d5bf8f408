"""HH-RLHF (Bai et al. 2022, arXiv:2204.05862): two transcripts of one dialogue that part at the last answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from dpo.data.pair import Message
from dpo.data.published import Draft, Published, column

ANSWER = "\n\nAssistant:"
TURN = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class HhRlhf(Published):
    """Rows with columns chosen and rejected, each a whole transcript of turns "\\n\\nHuman:" and "\\n\\nAssistant:".

    The prompt is everything up to and including the last "\\n\\nAssistant:". Rows are dropped, and counted, where
    the prompts of the two sides differ (prompt_differs), where a side has no assistant turn (no_answer_turn), and
    where an answer is empty (empty_chosen, empty_rejected).

    form  "transcript" keeps prompt and answer as the published strings; "messages" makes chat messages of the turns
    """

    form: Literal["transcript", "messages"]

    def hub_options(self) -> dict[str, Any]:
        return {} if self.subset is None else {"data_dir": self.subset}

    def draft(self, row: dict[str, Any], where: str) -> Draft:
        faults = []
        (prompt, mark, chosen), (other, other_mark, rejected) = (
            column(row, name, where).rpartition(ANSWER) for name in ("chosen", "rejected")
        )
        if not (mark and other_mark):
            faults.append("no_answer_turn")
        if prompt != other:
            faults.append("prompt_differs")
        if self.form == "messages":
            history, odd = messages(prompt)
            faults += ["odd_turns"] * odd
            return Draft(history, chosen.strip(), rejected.strip(), tuple(faults))
        return Draft(prompt + mark, chosen, rejected, tuple(faults))


def messages(transcript: str) -> tuple[list[Message], bool]:
    """The turns of a transcript, and whether they are odd: text before the first, or a role twice in a row."""
    opening, *rest = TURN.split(transcript)
    turns = [{"role": ROLES[role], "content": text.strip()} for role, text in zip(rest[::2], rest[1::2], strict=True)]
    roles = [turn["role"] for turn in turns]
    return turns, bool(opening.strip()) or roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]
