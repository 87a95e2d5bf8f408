"""A reward model of ours as the judge: the directory that `dpo reward` made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from dpo.data.judges.base import Ask, Judge, Question, Recall, Verdict, by_score
from dpo.data.pair import Pair
from dpo.errors import UsageError
from dpo.provenance import checkpoint_hash
from dpo.records import RunDir


@dataclass(frozen=True)
class Reward(Judge):
    """The answer's reward under the finished reward model in the directory `path`."""

    path: str | None

    free: ClassVar[frozenset[str]] = Judge.free | {"path"}

    @property
    def directory(self) -> RunDir:
        """The reward model's, checked."""
        if self.path is None:
            raise UsageError("judge.path is not set: give it as judge.path=<the directory that dpo reward printed>")
        run = RunDir(Path(self.path).expanduser())
        if run.status()["state"] != "done" or run.kind != "reward":
            raise UsageError(f"judge.path={self.path}: no finished reward model here; dpo reward makes one")
        return run

    def facts(self) -> dict[str, Any]:
        """Its weights, wherever they lie."""
        return {"reward": checkpoint_hash(self.directory)}

    def open(self, device: torch.device) -> Ask:
        from dpo.reward import rewards

        score = rewards(self.directory, device)

        def ask(questions: Sequence[Question], recall: Recall) -> list[Verdict]:
            pairs = [pair for question in questions for pair in two_by_two(question)]
            scores = {pair.id: both for pair, both in zip(pairs, score(pairs), strict=True)}
            return [by_score(q, [scores[f"{q.id}#{i // 2}"][i % 2] for i in range(len(q.answers))]) for q in questions]

        return ask


def two_by_two(question: Question) -> list[Pair]:
    """The answers as sides of pairs, which is how batches are laid out; an odd last one is on both sides."""
    texts = [answer.text for answer in question.answers]
    return [
        Pair(f"{question.id}#{i // 2}", question.prompt, texts[i], texts[min(i + 1, len(texts) - 1)], "judge")
        for i in range(0, len(texts), 2)
    ]
