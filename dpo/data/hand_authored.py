"""Triples written one by one: each pair differs in one behaviour, not in length, fluency or surface form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dpo.data.files import read_pairs
from dpo.data.json_over_prose import PROMPT
from dpo.data.pair import Pair, Source, Split, hold_out
from dpo.ranges import HeldOut

FILE = Path(__file__).with_name("hand_authored.jsonl")


@dataclass(frozen=True)
class HandAuthored(Source):
    """At least 120 triples over at least eight behaviours, in the instruction format of the embedded models."""

    eval_share: HeldOut

    def load(self) -> Split:
        pairs = [
            Pair(p.id, PROMPT.format(instruction=p.prompt), p.chosen, p.rejected, "hand_authored")
            for p in read_pairs(FILE)
        ]
        train, evaluation = hold_out(pairs, self.eval_share)
        return Split(train, evaluation, [pair.prompt for pair in evaluation])
