"""What a judge is: it is asked about answers to one prompt and says which is better. It knows no file of ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch

from dpo.data.pair import Text
from dpo.ranges import Batch, Range, Rows, Seed, Temperature, Tokens


@dataclass(frozen=True)
class Given:
    """One sampled answer: its number among its prompt's samples, the seed it was drawn with, its text."""

    sample: int
    seed: int
    text: str
    ended: bool


@dataclass(frozen=True)
class Question:
    """A prompt and at least two different answers to it, none of them blank.

    references  the chosen answers that the prompt has in the data set it was taken from
    """

    id: str
    prompt: Text
    references: tuple[str, ...]
    answers: tuple[Given, ...]


@dataclass(frozen=True)
class Verdict:
    """Sample numbers of the better and the worse answer, or None for both and why; `detail` is what was said."""

    id: str
    outcome: Literal["pair", "tie", "disagreement", "no_verdict"]
    chosen: int | None = None
    rejected: int | None = None
    detail: dict[str, Any] = field(default_factory=dict)


class JudgeError(Exception):
    """A judge that cannot go on: one line for people. What it said so far is kept."""


Recall = Callable[[str, Callable[[], str]], str]
"""recall(key, ask) is the reply that was kept under `key`, else that of ask(), kept before it is handed on."""

Ask = Callable[[Sequence[Question], Recall], list[Verdict]]
"""One verdict for each question, in order."""


@dataclass(frozen=True)
class Judge:
    """Who judges, and what is judged: how many answers, how sampled, by which policy.

    samples         answers for each prompt, at least 2
    temperature     of their sampling, above 0
    max_new_tokens  most tokens of an answer
    prompts         how many prompts of the data set are asked; None asks all
    seed            decides which prompts and, with prompt and sample number, every answer
    batch_size      answers drawn together: speed and memory only
    run             a finished run whose policy answers; None is the configuration's own start
    from_start      whether `dpo train` begins with judged samples of the start, not with the data set's own pairs
    append          whether a further round keeps the earlier rounds' pairs
    """

    samples: Annotated[int, Range(2, 10_000)]
    temperature: Temperature
    max_new_tokens: Tokens
    prompts: Rows | None
    seed: Seed
    batch_size: Batch
    run: str | None
    from_start: bool
    append: bool

    free: ClassVar[frozenset[str]] = frozenset({"batch_size", "run", "from_start", "append"})
    """Settings that decide no answer and no verdict by themselves; the policy counts by its weights, not its path."""
    two_at_a_time: ClassVar[bool] = False
    """Whether a question holds two answers; else all different ones of a prompt."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise UsageError for settings of a judge's own that cannot be meant."""

    def facts(self) -> dict[str, Any]:
        """What else decides its verdicts: the contents behind the paths among its settings."""
        return {}

    def open(self, device: torch.device) -> Ask:
        """The judge ready to be asked; raises UsageError for whatever of it is missing."""
        raise NotImplementedError

    @property
    def no_verdict_limit(self) -> float:
        """Largest share of questions without a verdict before the judge is given up."""
        return 1.0


class ScoringJudge(Judge):
    """A judge that gives each answer by itself a number: the highest is chosen, the lowest rejected."""

    def score(self, question: Question, answer: str) -> float:
        """Higher is better."""
        raise NotImplementedError

    def open(self, device: torch.device) -> Ask:
        return lambda questions, recall: [
            by_score(q, [float(self.score(q, answer.text)) for answer in q.answers]) for q in questions
        ]


def by_score(question: Question, scores: Sequence[float]) -> Verdict:
    """Best against worst, the earliest sample of equals; a tie where all scores are equal.

    No verdict where a score is not finite: nothing can be said of its order.
    """
    if not all(map(math.isfinite, scores)):
        return Verdict(question.id, "no_verdict", detail={"scores": {str(a.sample): None for a in question.answers}})
    best = max(range(len(scores)), key=lambda i: (scores[i], -i))
    worst = min(range(len(scores)), key=lambda i: (scores[i], i))
    detail = {"scores": {str(a.sample): s for a, s in zip(question.answers, scores, strict=True)}}
    if scores[best] == scores[worst]:
        return Verdict(question.id, "tie", detail=detail)
    chosen, rejected = question.answers[best].sample, question.answers[worst].sample
    return Verdict(question.id, "pair", chosen, rejected, detail)
