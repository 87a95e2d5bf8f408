"""Several sets as one: weighted, capped, seeded."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

from dpo.data.pair import Pair, Source, Split
from dpo.data.perturb import draw
from dpo.errors import UsageError
from dpo.ranges import Rows, Seed, Weight


@dataclass(frozen=True)
class Mixture(Source):
    """Pairs of each of `parts`, without repetition, in proportion to `weights` (1 where none is given).

    parts    data sets by name, each with the keys of its own yaml
    weights  share of a part relative to the others, above 0
    caps     most training pairs taken from a part, at least 1
    size     training pairs in all; null is the most that weights and caps allow without repeating a pair
    seed     decides which pairs are taken; those of a smaller size are among those of a larger one

    Ids are prefixed with the part's name. Evaluation pairs are mixed by the same weights, as many as there can be.
    """

    parts: dict[str, Source]
    weights: dict[str, Weight]
    caps: dict[str, Rows]
    size: Rows | None
    seed: Seed

    def __post_init__(self) -> None:
        for key, values in (("weights", self.weights), ("caps", self.caps)):
            for name in values:
                if name not in self.parts:
                    raise UsageError(f"dataset.{key}.{name}: no such part; the parts are {', '.join(self.parts)}")

    @property
    def drops_long_prompts(self) -> bool:
        return any(part.drops_long_prompts for part in self.parts.values())

    def origin(self) -> Source:
        return replace(self, parts={name: part.origin() for name, part in self.parts.items()})

    def load(self) -> Split:
        if not self.parts:
            raise UsageError("dataset.parts is empty: add one with +dataset@dataset.parts.NAME=OPTION")
        splits = {name: self.parts[name].load() for name in sorted(self.parts)}
        train = self.mix({name: split.train for name, split in splits.items()}, self.caps, self.size, "size")
        evaluation = self.mix({name: split.evaluation for name, split in splits.items()}, {}, None, "evaluation")
        counts: Counter[str] = Counter()
        for split in splits.values():
            counts.update(split.counts or {"rows": len(split.train) + len(split.evaluation)})
        counts["left_out_by_mixing"] = (
            sum(len(s.train) + len(s.evaluation) for s in splits.values()) - len(train) - len(evaluation)
        )
        prompts = [pair.prompt for pair in evaluation]
        return Split(train, evaluation, prompts, dict(counts))

    def mix(self, pairs: dict[str, list[Pair]], caps: dict[str, int], size: int | None, key: str) -> list[Pair]:
        """The taken pairs, parts in the order of their names, with prefixed ids."""
        weights = {name: self.weights.get(name, 1.0) for name in pairs}
        total = sum(weights.values())
        room = {name: min(len(pairs[name]), caps.get(name, len(pairs[name]))) for name in pairs}
        most = math.floor(min(room[name] * total / weights[name] for name in pairs) + 1e-9)
        if size is not None and size > most:
            raise UsageError(f"dataset.{key}={size}: weights and caps allow at most {most} pairs without repetition")
        counts = shares({name: weights[name] / total for name in pairs}, most if size is None else size)
        mixed: list[Pair] = []
        for name in pairs:
            taken = set(draw([pair.id for pair in pairs[name]], counts[name], self.seed))
            mixed += [replace(pair, id=f"{name}/{pair.id}") for pair in pairs[name] if pair.id in taken]
        return mixed


def shares(weights: dict[str, float], size: int) -> dict[str, int]:
    """Whole numbers in proportion to weights (which sum to 1), summing to `size`: largest remainders, names break ties.

    No count exceeds the exact share by 1 or more.
    """
    exact = {name: weight * size for name, weight in weights.items()}
    counts = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    for name in sorted(exact, key=lambda n: (counts[n] - exact[n], n))[: size - sum(counts.values())]:
        counts[name] += 1
    return counts
