"""Surface tells: what a small linear probe can say about the label from the surface of the answers alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpo.data.pair import Pair, Text, text_key
from dpo.data.perturb import draw
from dpo.results.stats import clustered_share

PAIRS, FEATURES, FOLDS, RIDGE = 2000, 4000, 5, 1.0
"""Most pairs and features looked at, folds of the cross-validation, and the weight of the penalty."""


def probe(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Cross-validated accuracy of two probes of which answer is the chosen one, and the strongest single tells.

    words   presence of each word and sign; format  first and last sign, casing, lists, digits, JSON, first word
    Each is a ridge regression on the difference of the two answers' binary features (at most 4,000, each in at
    least two pairs), scaled to unit length. Pairs with the same prompt are in the same of five folds; a score of
    0 counts one half. At most 2,000 pairs, drawn by the hash of their id.
    """
    kept = set(draw([pair.id for pair in pairs], PAIRS, 0))
    sample = [pair for pair in pairs if pair.id in kept]
    prompts = [text_key(p.prompt) for p in sample]
    fold_N = np.array([int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16) % FOLDS for prompt in prompts])
    found: dict[str, Any] = {"n": len(sample)}
    tells: list[dict[str, Any]] = []
    for name, features in (("words", word_features), ("format", format_features)):
        both = [(features(plain(p.chosen)), features(plain(p.rejected))) for p in sample]
        hits = cross_validated(both, fold_N)
        accuracy = float(hits.mean()) if len(hits) else 0.5
        found[name] = {"accuracy": accuracy, "interval": share_interval(hits.tolist(), prompts)}
        tells += single_tells(both)
    low, high = found["words"]["interval"]
    found["sentence"] = (
        f"a bag of words alone predicts the label in {found['words']['accuracy']:.0%} of held-out pairs "
        f"({low:.0%} to {high:.0%}, n = {len(sample)}), the format alone in {found['format']['accuracy']:.0%}"
    )
    return found | {"tells": sorted(tells, key=lambda t: -abs(t["chosen_only"] - t["rejected_only"]))[:8]}


def plain(answer: Text) -> str:
    """The text of an answer."""
    return answer if isinstance(answer, str) else "\n".join(message.get("content") or "" for message in answer)


def word_features(text: str) -> set[str]:
    """Words in lower case and single signs."""
    return {f"word {word!r}" for word in re.findall(r"\w+|[^\w\s]", text.lower())}


def format_features(text: str) -> set[str]:
    """What the text looks like, whatever it says."""
    text = text.strip()
    first = re.match(r"\w+", text.lower())
    facts = {
        f"first word {first[0] if first else ''!r}": True,
        f"first sign {kind(text[:1])}": True,
        f"last sign {kind(text[-1:])}": True,
        "line break": "\n" in text,
        "empty line": "\n\n" in text,
        "list": re.search(r"^\s*([-*•]|\d+[.)])\s", text, re.M) is not None,
        "heading": re.search(r"^#+\s", text, re.M) is not None,
        "bold": "**" in text,
        "code fence": "```" in text,
        "digit": re.search(r"\d", text) is not None,
        "question": "?" in text,
        "exclamation": "!" in text,
        "all lower case": text == text.lower(),
        "JSON": is_json(text),
    }
    return {name for name, holds in facts.items() if holds}


def kind(sign: str) -> str:
    """A letter's case, "digit", or the sign itself."""
    if sign.isalpha():
        return "upper-case letter" if sign.isupper() else "lower-case letter"
    return "digit" if sign.isdigit() else repr(sign)


def is_json(text: str) -> bool:
    """Whether the whole text is a JSON object or array."""
    try:
        return text[:1] in "{[" and isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


Sides = Sequence[tuple[set[str], set[str]]]


def cross_validated(both: Sides, fold_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 for each pair whose chosen answer a probe trained on the other folds scores higher; a tie counts one half."""
    x_NF = differences(both)
    kernel_NN = x_NF @ x_NF.T
    score_N = np.zeros(len(both))
    for fold in range(FOLDS):
        train, test = fold_N != fold, fold_N == fold
        if train.any() and test.any():
            inner = kernel_NN[np.ix_(train, train)] + RIDGE * np.eye(int(train.sum()))
            score_N[test] = kernel_NN[np.ix_(test, train)] @ np.linalg.solve(inner, np.ones(len(inner)))
    score_N[np.abs(score_N) < 1e-9] = 0.0
    return (score_N > 0) + 0.5 * (score_N == 0)


def differences(both: Sides) -> NDArray[np.float64]:
    """(pairs, features): chosen minus rejected, of unit length; features that occur in at least two pairs."""
    frequency = Counter(feature for chosen, rejected in both for feature in chosen ^ rejected)
    common = sorted(frequency.items(), key=lambda item: (-item[1], item[0]))[:FEATURES]
    column = {feature: i for i, (feature, count) in enumerate(common) if count > 1}
    x_NF = np.zeros((len(both), max(len(column), 1)))
    for row, (chosen, rejected) in enumerate(both):
        for side, sign in ((chosen - rejected, 1.0), (rejected - chosen, -1.0)):
            x_NF[row, [column[feature] for feature in side if feature in column]] = sign
    norm_N = np.linalg.norm(x_NF, axis=1, keepdims=True)
    return x_NF / np.where(norm_N > 0, norm_N, 1.0)


def single_tells(both: Sides) -> list[dict[str, Any]]:
    """Features that one side has and the other has not in a share of the pairs that differs by at least 0.2."""
    chosen_only = Counter(feature for chosen, rejected in both for feature in chosen - rejected)
    rejected_only = Counter(feature for chosen, rejected in both for feature in rejected - chosen)
    rows: list[dict[str, Any]] = [
        {"feature": f, "chosen_only": chosen_only[f] / len(both), "rejected_only": rejected_only[f] / len(both)}
        for f in sorted({*chosen_only, *rejected_only})
    ]
    return [row for row in rows if abs(row["chosen_only"] - row["rejected_only"]) >= 0.2]


def share_interval(hits: Sequence[float], prompts: Sequence[Hashable]) -> list[float]:
    """95 % interval of a share of pairs, clustered by prompt (`stats.clustered_share`); [0, 1] where there are none."""
    if not len(hits):
        return [0.0, 1.0]
    e = clustered_share(hits, prompts)
    assert e.low is not None and e.high is not None
    return [e.low, e.high]
