"""What is in a preference set, counted before a step is trained, and what of it deserves a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpo.build import nearest
from dpo.data.duplicates import near_duplicates
from dpo.data.pair import Pair, Split, characters, overlap, plain_text, text_key
from dpo.data.probe import probe, share_interval
from dpo.data.templates import common
from dpo.data.tokens import TokenPair
from dpo.errors import UsageError
from dpo.ranges import Share

VERSION = 3  # raise it when a count below changes its meaning, so that no cache serves the old one

SHORT = 8
"""Characters from which a prompt is looked for in its answers."""

SHARES = {
    "dropped": "{:.1%} of the rows read were left out",
    "prompt_too_long": "{:.1%} of the pairs are left out: their prompt leaves no room for an answer",
    "truncated_chosen": "{:.1%} of the chosen answers are cut at train.max_length",
    "truncated_rejected": "{:.1%} of the rejected answers are cut at train.max_length",
    "truncation_gap": "the two sides' cut shares differ by {:.1%}: a length confound",
    "boundary_merges": "{:.1%} of the pairs have a token that spans prompt and answer",
    "identical": "{:.1%} of the pairs have two equal answers, as texts or as the tokens that are left of them",
    "prompt_in_answer": "{:.1%} of the pairs repeat their prompt inside an answer, which would be trained as answer",
    "contradictory": "{:.1%} of the pairs stand in the set both ways round",
    "duplicate_exact": "{:.1%} of the rows repeat another word for word",
    "duplicate_near": "{:.1%} of the pairs nearly repeat another",
    "overlap": "{:.1%} of the evaluation prompts also occur in training",
    "length_imbalance": "how often the longer answer wins is at least {:.1%} away from one half",
    "tells": "a bag of words alone finds the chosen answer in at least {:.1%}",
}
"""What can be limited, and how it reads."""


@dataclass(frozen=True)
class Audit:
    """Limits by name of a share (see SHARES): above them the audit notes, warns or stops."""

    note: dict[str, Share]
    warn: dict[str, Share]
    stop: dict[str, Share]

    def __post_init__(self) -> None:
        for level, limits in (("note", self.note), ("warn", self.warn), ("stop", self.stop)):
            for name in limits:
                if name not in SHARES:
                    raise UsageError(f"unknown key audit.{level}.{name}{nearest(name, list(SHARES))}")
        if "overlap" in self.stop:
            raise UsageError("audit.stop.overlap: overlapping prompts may never stop a run; use audit.warn.overlap")

    def findings(self, shares: dict[str, float]) -> list[dict[str, Any]]:
        """The shares above a limit, each at its gravest level: {"level", "name", "share", "limit", "text"}."""
        found = []
        for name, share in shares.items():
            for level, limits in (("stop", self.stop), ("warn", self.warn), ("note", self.note)):
                limit = limits.get(name)
                if limit is not None and share > limit:
                    text = f"{SHARES[name].format(share)} ({name})"
                    found.append({"level": level, "name": name, "share": share, "limit": limit, "text": text})
                    break
        order = ("stop", "warn", "note")
        return sorted(found, key=lambda f: order.index(f["level"]))


def report(
    whole: Split,
    split: Split,
    train: Sequence[TokenPair],
    evaluation: Sequence[TokenPair],
    counts: tuple[dict[str, int], dict[str, int]],
) -> dict[str, Any]:
    """The audit of a split as it was read (`whole`), as it is used (`split`, without prompts too long), and its tokens.

    `counts` are those of `tokens.tokenise` for the two parts. At the top are counts over both parts, of texts over
    all pairs read, of tokens over those used; train and evaluation hold their own; limits apply to the shares.
    """
    pairs = [*whole.train, *whole.evaluation]
    n = len(pairs)
    total = Counter(counts[0]) + Counter(counts[1])
    read = {"rows": n, "dropped": 0, "prompt_differs": 0, "empty_chosen": 0, "empty_rejected": 0} | whole.counts
    longer = [characters(p.chosen) - characters(p.rejected) for p in pairs]
    copies = repetitions(whole.train) + repetitions(whole.evaluation)
    facts = read | {
        "pairs": n,
        "prompt_too_long": total["prompt_too_long"],
        "used": len(train) + len(evaluation),
        "chosen_longer_characters": sum(d > 0 for d in longer) / n,
        "chosen_longer_characters_pairs": sum(d > 0 for d in longer),
        "chosen_characters_mean": sum(characters(p.chosen) for p in pairs) / n,
        "rejected_characters_mean": sum(characters(p.rejected) for p in pairs) / n,
        "identical": identical(pairs, [*train, *evaluation]),
        "prompt_in_answer": sum(map(repeats_prompt, pairs)),
        "contradictory": contradictions(whole.train) + contradictions(whole.evaluation),
        "duplicate_exact": copies + read.get("duplicate_rows", 0),
        "duplicate_near": near_duplicates(train) + near_duplicates(evaluation),
        "overlap": overlap(whole),
        "perturbed": len({change["id"] for change in whole.changes}),
    }
    names = ("boundary_merges", "truncated_chosen", "truncated_rejected", "eos_lost")
    facts |= {name: total[name] for name in names}
    parts = {"train": lengths(train, counts[0]), "evaluation": lengths(evaluation, counts[1])}
    tells = probe(split.train)
    return facts | {"shares": shares_of(facts, parts, tells, len(whole.evaluation))} | parts | {"probe": tells}


def shares_of(facts: dict[str, Any], parts: dict[str, Any], tells: dict[str, Any], n_eval: int) -> dict[str, float]:
    """The shares that limits apply to, by the names of SHARES."""
    n, used = facts["pairs"], facts["used"]
    of = {"dropped": facts["rows"], "duplicate_exact": facts["rows"], "overlap": n_eval, "duplicate_near": used}
    of |= dict.fromkeys(("prompt_too_long", "identical", "prompt_in_answer", "contradictory"), n)
    of |= dict.fromkeys(("truncated_chosen", "truncated_rejected", "boundary_merges"), used)
    low, high = parts["train"]["longer_wins_interval"]
    return {name: facts[name] / max(whole, 1) for name, whole in of.items()} | {
        "truncation_gap": abs(facts["truncated_chosen"] - facts["truncated_rejected"]) / used,
        "length_imbalance": max(0.0, low - 0.5, 0.5 - high),
        "tells": tells["words"]["interval"][0],
    }


def identical(pairs: Sequence[Pair], token_pairs: Sequence[TokenPair]) -> int:
    """Pairs with equal answers: equal texts, or equal tokens where a template trims or a cut removes the difference."""
    same = {p.id for p in token_pairs if p.chosen_ids == p.rejected_ids}
    return sum(p.chosen == p.rejected or p.id in same for p in pairs)


def repeats_prompt(pair: Pair) -> bool:
    """Whether an answer begins with the prompt, or both begin alike with a text that the prompt is in (a rendering).

    Of a prompt in messages the last user's turn counts; one of a few characters may well be said again by chance.
    """
    asked = pair.prompt
    if isinstance(asked, list):
        asked = next((m.get("content") or "" for m in reversed(asked) if m["role"] == "user"), "")
    asked = asked.strip()
    chosen, rejected = plain_text(pair.chosen), plain_text(pair.rejected)
    alike = common(chosen, rejected) if chosen != rejected else ""
    return len(asked) >= SHORT and (
        any(side.lstrip().startswith(asked) for side in (chosen, rejected)) or asked in alike
    )


def repetitions(pairs: Sequence[Pair]) -> int:
    """Pairs that repeat the texts of an earlier one under another id."""
    return len(pairs) - len({text_key([p.prompt, p.chosen, p.rejected]) for p in pairs})  # type: ignore[list-item]


def contradictions(pairs: Sequence[Pair]) -> int:
    """Pairs that occur in the list with their answers both ways round (equal answers do not count)."""
    keys = Counter((text_key(p.prompt), text_key(p.chosen), text_key(p.rejected)) for p in pairs)
    return sum(count for (prompt, a, b), count in keys.items() if a != b and (prompt, b, a) in keys)


def lengths(pairs: Sequence[TokenPair], counts: dict[str, int]) -> dict[str, Any]:
    """Counts and token lengths of one split: means, quantiles and histograms of both sides and of their difference."""
    prompt, chosen, rejected = (
        np.array([len(ids) for ids in side])
        for side in zip(*((p.prompt_ids, p.chosen_ids, p.rejected_ids) for p in pairs), strict=True)
    )
    hits = (chosen > rejected) + 0.5 * (chosen == rejected)
    top = int(np.quantile(np.concatenate([chosen, rejected]), 0.99)) + 1
    return counts | {
        "prompt_tokens_mean": float(prompt.mean()),
        "chosen_tokens_mean": float(chosen.mean()),
        "rejected_tokens_mean": float(rejected.mean()),
        "chosen_tokens_max": int(chosen.max()),
        "rejected_tokens_max": int(rejected.max()),
        "longer_wins": float(hits.mean()),
        "longer_wins_interval": share_interval(hits.tolist(), [tuple(p.prompt_ids) for p in pairs]),
        "prompt_tokens": distribution(prompt, 0, int(prompt.max()) + 1),
        "chosen_tokens": distribution(chosen, 0, top),
        "rejected_tokens": distribution(rejected, 0, top),
        "difference_tokens": distribution(chosen - rejected, -top, top),
    }


def distribution(values: Any, low: int, high: int, bins: int = 24) -> dict[str, Any]:
    """Quantiles, and a histogram of `bins` equal bins from low to high; values beyond count in the outer bins."""
    counts, edges = np.histogram(np.clip(values, low, high), bins=bins, range=(low, max(high, low + 1)))
    quantiles = {f"p{q}": float(np.quantile(values, q / 100)) for q in (5, 25, 50, 75, 95)}
    return quantiles | {"edges": [float(edge) for edge in edges], "histogram": [int(count) for count in counts]}
