"""Twelve triples for a run of seconds: four capitals, four sums, four lists."""

from __future__ import annotations

from dataclasses import dataclass

from dpo.data.pair import Pair, Source, Split

PROMPT = "<|instruction|>{instruction}<|response|>"

TRIPLES = (
    ("capital", "Capital of France?", "Paris.", "Lyons."),
    ("capital", "Capital of Japan?", "Tokyo.", "Osaka."),
    ("capital", "Capital of Egypt?", "Cairo.", "Luxor."),
    ("capital", "Capital of Norway?", "Oslo.", "Rome."),
    ("arithmetic", "2 + 3?", "5", "6"),
    ("arithmetic", "7 - 4?", "3", "2"),
    ("arithmetic", "6 * 2?", "12", "10"),
    ("arithmetic", "9 / 3?", "3", "4"),
    ("list", "List two colours.", "- red\n- blue", "red and blue"),
    ("list", "List two animals.", "- cat\n- hen", "cat and hen"),
    ("list", "List two fruits.", "- fig\n- pear", "fig and pear"),
    ("list", "List two metals.", "- tin\n- zinc", "tin and zinc"),
)


@dataclass(frozen=True)
class Twelve(Source):
    """The capstone's set: evaluation is on the training triples, so it shows fitting and nothing else."""

    def load(self) -> Split:
        pairs = [
            Pair(f"{kind}-{number:02d}", PROMPT.format(instruction=instruction), chosen, rejected, "twelve")
            for number, (kind, instruction, chosen, rejected) in enumerate(TRIPLES)
        ]
        return Split(pairs, pairs, [pair.prompt for pair in pairs])
