"""Bias put into a preference set on purpose: seeded, exact in its dose, nested between doses, recorded per pair.

A perturbation maps a split to a split and leaves ids as they are. It acts on the training pairs, unless its
docstring says otherwise; the SFT stage never sees it. Which pairs are touched depends on (seed, pair id) alone:
those touched at a dose are among those touched at any higher one, and a dose of 0 hands the split on as it came.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

from dpo.data.pair import Pair, Split, Text, characters
from dpo.errors import UsageError
from dpo.ranges import Range, Rows, Seed, Share


class Perturbation:
    """A change of a split; a subclass is a frozen dataclass of its options."""

    def apply(self, split: Split) -> Split:
        """The changed split, with a record {"id", "by", "what"} in `changes` for every pair touched."""
        raise NotImplementedError


@dataclass(frozen=True)
class NoPerturbation(Perturbation):
    """The split as it came."""

    def apply(self, split: Split) -> Split:
        return split


@dataclass(frozen=True)
class Several(Perturbation):
    """Perturbations one after the other, in the order of their names."""

    steps: dict[str, Perturbation]

    def apply(self, split: Split) -> Split:
        for name in sorted(self.steps):
            split = self.steps[name].apply(split)
        return split


@dataclass(frozen=True)
class LengthBias(Perturbation):
    """Pads the chosen answer of a share `dose` of the training pairs with `sentences` sentences on its topic.

    The sentences name the topic (a word that prompt and answer share) and say nothing about it, so that what the
    padded side gains is length alone.
    """

    dose: Share
    sentences: Annotated[int, Range(1, 8)]
    seed: Seed

    def __post_init__(self) -> None:
        share("perturb.dose", self.dose)
        if not 1 <= self.sentences <= len(FILLERS):
            raise UsageError(f"perturb.sentences={self.sentences}: must be at least 1 and at most {len(FILLERS)}")

    def apply(self, split: Split) -> Split:
        def pad(pair: Pair) -> tuple[Pair, str]:
            padding = filler(pair, self.sentences, self.seed)
            chosen = change_text(pair.chosen, lambda text: f"{text} {padding}")
            return replace(pair, chosen=chosen), f"chosen padded with {len(padding) + 1} characters"

        return change_share(split, self.dose, self.seed, "length_bias", pad)


@dataclass(frozen=True)
class LengthRepaired(Perturbation):
    """Re-pairs answers until the chosen one is the longer in a share `p` of the training pairs of unequal length.

    Lengths are in characters. The two answers of just enough pairs change places, so texts and lengths stay as
    they are and labels do not; compare it with label_flip at the recorded number of pairs.
    """

    p: Share
    seed: Seed

    def __post_init__(self) -> None:
        share("perturb.p", self.p)

    def apply(self, split: Split) -> Split:
        longer = {pair.id: characters(pair.chosen) - characters(pair.rejected) for pair in split.train}
        unequal = [pair for pair in split.train if longer[pair.id]]
        excess = sum(longer[pair.id] > 0 for pair in unequal) - round(self.p * len(unequal))
        candidates = [pair.id for pair in unequal if (longer[pair.id] > 0) == (excess > 0)]
        picked = set(draw(candidates, abs(excess), self.seed))
        return change_picked(split, picked, "length_repaired", lambda pair: (pair.swap(), "answers changed places"))


@dataclass(frozen=True)
class LabelFlip(Perturbation):
    """Swaps chosen and rejected in a share `rate` of the training pairs."""

    rate: Share
    seed: Seed

    def __post_init__(self) -> None:
        share("perturb.rate", self.rate)

    def apply(self, split: Split) -> Split:
        return change_share(split, self.rate, self.seed, "label_flip", lambda p: (p.swap(), "label flipped"))


@dataclass(frozen=True)
class MalformedRejected(Perturbation):
    """Breaks the format of the rejected answer in a share `rate` of the training pairs.

    The rejected answer becomes prefix + its first `keep` share of characters (at least one) + suffix.
    """

    rate: Share
    prefix: str
    keep: Share
    suffix: str
    seed: Seed

    def __post_init__(self) -> None:
        share("perturb.rate", self.rate)
        share("perturb.keep", self.keep)

    def apply(self, split: Split) -> Split:
        def shorten(text: str) -> str:
            return self.prefix + text[: max(1, round(self.keep * len(text)))] + self.suffix

        def malform(pair: Pair) -> tuple[Pair, str]:
            return replace(pair, rejected=change_text(pair.rejected, shorten)), "rejected malformed"

        return change_share(split, self.rate, self.seed, "malformed_rejected", malform)


@dataclass(frozen=True)
class Subsample(Perturbation):
    """Keeps `size` of the training pairs in their order; a smaller size keeps a subset of a larger one's."""

    size: Rows
    seed: Seed

    def apply(self, split: Split) -> Split:
        if not 1 <= self.size <= len(split.train):
            raise UsageError(f"perturb.size={self.size}: must be at least 1 and at most {len(split.train)} pairs")
        kept = set(draw([pair.id for pair in split.train], self.size, self.seed))
        gone = [record(pair.id, "subsample", "left out") for pair in split.train if pair.id not in kept]
        train = [pair for pair in split.train if pair.id in kept]
        return replace(split, train=train, changes=split.changes + gone)


@dataclass(frozen=True)
class LengthMatched(Perturbation):
    """Acts on the EVALUATION pairs: keeps those whose answers differ by at most `tolerance` of the longer one.

    Lengths are in characters. Accuracy on what is left cannot come from length.
    """

    tolerance: Share

    def __post_init__(self) -> None:
        share("perturb.tolerance", self.tolerance)

    def apply(self, split: Split) -> Split:
        def matched(pair: Pair) -> bool:
            lengths = characters(pair.chosen), characters(pair.rejected)
            return max(lengths) - min(lengths) <= self.tolerance * max(lengths)

        kept = [pair for pair in split.evaluation if matched(pair)]
        if not kept:
            raise UsageError(
                f"perturb.tolerance={self.tolerance}: none of {len(split.evaluation)} evaluation pairs has answers "
                "that close in length; raise it"
            )
        gone = [record(p.id, "length_matched", "left out of evaluation") for p in split.evaluation if not matched(p)]
        return replace(split, evaluation=kept, changes=split.changes + gone)


def share(name: str, value: float) -> None:
    """Raise UsageError unless `value` is in [0, 1]."""
    if not 0 <= value <= 1:
        raise UsageError(f"{name}={value}: must be at least 0 and at most 1")


def draw(ids: list[str], count: int, seed: int) -> list[str]:
    """`count` of the ids, those whose hash with the seed is smallest: nested over counts, whatever their order."""
    return sorted(ids, key=lambda i: (hashlib.sha256(f"{seed}/{i}".encode()).digest(), i))[:count]


def record(identity: str, by: str, what: str) -> dict[str, Any]:
    """What was done to a pair."""
    return {"id": identity, "by": by, "what": what}


Change = Callable[[Pair], tuple[Pair, str]]


def change_share(split: Split, dose: float, seed: int, by: str, change: Change) -> Split:
    """`change` on round(dose x n) of the n training pairs."""
    picked = set(draw([pair.id for pair in split.train], round(dose * len(split.train)), seed))
    return change_picked(split, picked, by, change)


def change_picked(split: Split, picked: set[str], by: str, change: Change) -> Split:
    """`change` on the training pairs of these ids, each recorded."""
    train, changes = [], list(split.changes)
    for pair in split.train:
        if pair.id in picked:
            pair, what = change(pair)
            changes.append(record(pair.id, by, what))
        train.append(pair)
    return replace(split, train=train, changes=changes)


def change_text(text: Text, change: Callable[[str], str]) -> Text:
    """`change` on a string, or on the content of the last message."""
    if isinstance(text, str):
        return change(text)
    return [*text[:-1], text[-1] | {"content": change(text[-1].get("content") or "")}]


FILLERS = (
    "There is more that could be said about {topic}.",
    "All of this belongs to {topic} and to nothing else.",
    "Whoever asks about {topic} may want to read this twice.",
    "That is what there is to say about {topic} here.",
    "It helps to keep {topic} in mind while reading.",
    "In other words, this was about {topic}.",
    "More words about {topic} could follow, and some do.",
    "So much for {topic}, at least for the moment.",
)


def filler(pair: Pair, sentences: int, seed: int) -> str:
    """Sentences that name the pair's topic and carry no fact, drawn by (seed, pair id)."""
    generator = random.Random(f"{seed}/{pair.id}")
    return " ".join(generator.sample(FILLERS, sentences)).format(topic=topic(pair))


def topic(pair: Pair) -> str:
    """A word that prompt and chosen answer share, capitalised or else long; without one, the longest of the answer."""
    answer = words(pair.chosen)
    known = {word.lower() for word in answer}
    shared = [word for word in words(pair.prompt) if len(word) > 3 and word.lower() in known]
    return max(shared, key=lambda w: (w[0].isupper(), len(w))) if shared else max(answer, key=len, default="this")


def words(text: Text) -> list[str]:
    """The words of a text."""
    plain = text if isinstance(text, str) else " ".join(message.get("content") or "" for message in text)
    return re.findall(r"[^\W\d_]+", plain)
