"""A preference pair, the split a source hands on, and what a source is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from dpo.errors import UsageError

Message = dict[str, Any]
Text = str | list[Message]
"""A string, or chat messages ({"role": ..., "content": ...})."""
TOOLS = "tools"
"""Key of a prompt's first message under which the definitions of its tools travel to the chat template."""


@dataclass(frozen=True)
class Pair:
    """One preference: the same prompt, a chosen and a rejected answer.

    `id` is stable across runs: given by the source, else `content_id` of the texts.
    """

    id: str
    prompt: Text
    chosen: Text
    rejected: Text
    source: str

    def __post_init__(self) -> None:
        """Chat answers make the prompt chat as well: a text prompt becomes a user message."""
        object.__setattr__(self, "prompt", asked(self.prompt, self.chosen, self.rejected))

    def swap(self) -> Pair:
        """The opposite preference, under the same id."""
        return replace(self, chosen=self.rejected, rejected=self.chosen)


@dataclass(frozen=True)
class Split:
    """What a source yields: pairs to train on, pairs to evaluate on, prompts to answer before and after.

    counts   what the source read and what it left out, by name (rows, dropped, prompt_differs, ...); for the audit
    changes  what perturbations did, one record per pair touched: {"id", "by", "what"}
    """

    train: list[Pair]
    evaluation: list[Pair]
    prompts: list[Text]
    counts: dict[str, int] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)

    def without(self, left_out: set[str]) -> Split:
        """The split without the pairs of these ids, and without their prompts."""
        if not left_out:
            return self
        gone = {text_key(p.prompt) for p in [*self.train, *self.evaluation] if p.id in left_out}
        train, evaluation = ([p for p in part if p.id not in left_out] for part in (self.train, self.evaluation))
        prompts = [prompt for prompt in self.prompts if text_key(prompt) not in gone]
        return replace(self, train=train, evaluation=evaluation, prompts=prompts)


class Source:
    """A data set. A subclass is a frozen dataclass of its options; `load` must depend on nothing else."""

    sampled: ClassVar[bool] = False
    """Whether its training pairs are a policy's own answers, judged."""

    @property
    def drops_long_prompts(self) -> bool:
        """Whether a pair whose prompt leaves no room for an answer is dropped and counted, or an error (False)."""
        return False

    def load(self) -> Split:
        """Read or generate the pairs; raises UsageError naming file and line for malformed rows."""
        raise NotImplementedError

    def origin(self) -> Source:
        """The set whose pairs the SFT stage learns and whose prompts are asked: itself, unless made from another."""
        return self

    def check(self, answers: list[str], train: list[Pair]) -> dict[str, float]:
        """Format checks of sampled answers: metric name -> share in [0, 1]; none by default."""
        return {}


def asked(prompt: Text, chosen: Text, rejected: Text) -> Text:
    """The prompt; as a user's message where it is text and an answer is chat messages."""
    chat = isinstance(chosen, list) or isinstance(rejected, list)
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) and chat else prompt


def text_key(text: Text) -> str:
    """A text as one string that is equal for equal texts only."""
    return json.dumps(text, sort_keys=True, ensure_ascii=False)


def plain_text(text: Text) -> str:
    """A text as one string: of messages their contents, a line each."""
    return text if isinstance(text, str) else "\n".join(message.get("content") or "" for message in text)


def characters(text: Text) -> int:
    """Length of a text in characters; of messages, the sum over their contents."""
    return len(text) if isinstance(text, str) else sum(len(message.get("content") or "") for message in text)


def content_id(prompt: Text, chosen: Text, rejected: Text) -> str:
    """Sixteen hex digits of the SHA-256 of the three texts."""
    text = json.dumps([prompt, chosen, rejected], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def hold_out(pairs: list[Pair], share: float) -> tuple[list[Pair], list[Pair]]:
    """(training, evaluation): `share` of the pairs by the hash of their id, the same whatever their order."""
    if not 0 < share < 1:
        raise UsageError(f"dataset.eval_share={share}: must be above 0 and below 1")

    def held(pair: Pair) -> bool:
        return int(hashlib.sha256(pair.id.encode()).hexdigest()[:8], 16) < share * 2**32

    return [p for p in pairs if not held(p)], [p for p in pairs if held(p)]


def distinct(pairs: Iterable[Pair], counts: dict[str, int]) -> list[Pair]:
    """The pairs without later repetitions (same id and texts), which are counted as duplicate_rows and dropped."""
    kept: dict[str, Pair] = {}
    total = 0
    for pair in pairs:
        total += 1
        known = kept.setdefault(pair.id, pair)
        if replace(known, source=pair.source) != pair:
            raise UsageError(f"{pair.source}: the pair id {pair.id!r} names two different pairs; ids must be unique")
    counts["duplicate_rows"] = counts.get("duplicate_rows", 0) + total - len(kept)
    counts["dropped"] = counts.get("dropped", 0) + total - len(kept)
    return list(kept.values())


def check_pairs(pairs: list[Pair], where: str) -> None:
    """Raise UsageError on no pairs at all, an empty answer or an id that occurs twice."""
    if not pairs:
        raise UsageError(
            f"{where}: no pairs to use; every split needs at least one: give more rows (dataset.path), or for the "
            "evaluation a larger dataset.eval_share or a file of its own (dataset.eval_path)"
        )
    seen: set[str] = set()
    for pair in pairs:
        if pair.id in seen:
            raise UsageError(f"{where}: the pair id {pair.id!r} occurs twice; ids must be unique within a split")
        seen.add(pair.id)
        for side in ("chosen", "rejected"):
            if not getattr(pair, side):
                raise UsageError(f"{where}: pair {pair.id!r} has an empty {side} answer; remove or mend the row")


def warn_overlap(split: Split) -> str | None:
    """A sentence when evaluation prompts also occur in training (a warning, never an error)."""
    if shared := overlap(split):
        return f"{shared} of {len(split.evaluation)} evaluation prompts also occur in training; accuracies may flatter"
    return None


def overlap(split: Split) -> int:
    """Evaluation pairs whose prompt also occurs in training."""
    train = {text_key(p.prompt) for p in split.train}
    return sum(text_key(p.prompt) in train for p in split.evaluation)
