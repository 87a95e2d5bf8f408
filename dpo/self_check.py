"""What a run is about to trust, looked at before anything is trained: a model's log-probs of a few pairs of its own.

The definition is one text alone, through the model's own forward, no matter how it is slow. Held against it: the same
texts among others, as the run reads them (rows or token trees); and what stands before the first token in which two
answers differ, which must not know the answer.

Shapes: T tokens of a text, C tokens of an answer, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo.data.batches import collate, row_length
from dpo.data.tokens import TokenPair
from dpo.errors import UsageError
from dpo.head_look import bare
from dpo.logps import Scorer
from dpo.models.causal import at_rest, own_code, reads_ahead
from dpo.rotary import OwnLengths
from dpo.tree import layout_of

ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 2**-4}
"""Largest mean difference of log-probs per token, in nats and relative to their mean size above 1, that is rounding.

In float32 a hundred times what families show (1e-5), in bf16 sixteen of its own steps (noise of one to four: the
depth of a model and experts that are chosen otherwise). A text that is read as another one is off by tenths of nats.
"""

SHORT = 8
"""Tokens that are read of each part of a pair: three short reads, whatever the data's lengths are."""
MANY = 256
"""Pairs that the one to look at is chosen among."""


@dataclass(frozen=True)
class Checked:
    """How a model is read, a note for people where that is not what was asked for, and what was found."""

    layout: str
    note: str | None
    figures: dict[str, Any]

    def line(self) -> str:
        """The figures as one line."""
        f = self.figures
        parts = [f"texts read together are those read alone within {f['alone_together']:.1g} nats a token"]
        if self.layout == "shared_prompt":
            parts.append(f"token trees are rows within {f['tree_plain']:.1g}")
        elif f["tree_plain"] is not None:
            parts.append(f"token trees are {f['tree_plain']:.1g} off and not used")
        if f["causal"] is not None:
            parts.append(f"no token knows what follows ({f['causal']:.1g})")
        limit = f"of {f['positions']} positions" if f["positions"] else "and no end of positions"
        parts.append(f"texts up to {f['longest']} tokens {limit}, ids up to {f['largest_id']} of {f['embeddings']}")
        return f"self-check: {'; '.join(parts)} ({f['seconds']:.2g} s)"


def self_check(model: Any, pairs: Sequence[TokenPair], pad_id: int, wanted: str, precision: str, where: str) -> Checked:
    """How the model is to be read, and that its numbers are then its own; raises UsageError where they are not.

    `wanted` is train.layout. Trees that differ from rows are left for rows, with a note. Random numbers, modes and
    weights stay as they are; `where` names the model to people.
    """
    begin = time.perf_counter()
    layout, note = layout_of(model.config, wanted)
    few, device = some_pairs(model, pairs), next(model.parameters()).device
    looked, last = few[-1], len(few) - 1
    batch = collate(few, range(len(few)), pad_id).to(device)
    low = precision == "bf16" or next(model.parameters()).dtype == torch.bfloat16
    rounding = ROUNDING[torch.bfloat16 if low else torch.float32]
    with at_rest(model), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        answers = [looked.chosen_ids, looked.rejected_ids]
        whole = [alone(model, (*looked.prompt_ids, *answer)) for answer in answers]
        expected = torch.cat([picked(logp_TV, answer) for logp_TV, answer in zip(whole, answers, strict=True)])
        if not bool(expected.isfinite().all()):
            raise UsageError(f"{where}: gives log-probs that are not finite, for {len(expected)} tokens of the data")
        allowed = rounding * max(1.0, float(expected.abs().mean()))

        def off(layout: str) -> float:
            logp_RC = Scorer(model, layout)(batch)
            rows = (logp_RC[last, : len(answers[0])], logp_RC[len(few) + last, : len(answers[1])])
            return apart(torch.cat(rows), expected)

        tree = None
        if layout == "shared_prompt":
            tree = tree_off(off)
            if not tree <= allowed:
                layout = "padded"
                note = (
                    f"train.layout={wanted}: {where} reads token trees otherwise than rows ({tree:.2g} nats a token "
                    "apart): its own code attends in a way of its own; its pairs are read as padded rows"
                )
        together = tree if tree is not None and layout == "shared_prompt" else off(layout)
        if not together <= allowed:
            raise UsageError(
                f"{where}: {type(bare(model)).__name__} gives a text other log-probs among other texts than alone "
                f"({together:.2g} nats a token apart, rounding is up to {allowed:.2g}), so a pair's numbers would "
                "depend on its batch; give a model whose rows do not see one another"
            )
        causal = ahead(model, looked, whole)
    if causal is not None and not causal <= rounding:
        raise UsageError(reads_ahead(bare(model), where))
    seconds = time.perf_counter() - begin
    found = {"alone_together": together, "tree_plain": tree, "causal": causal, "pairs": len(few), "seconds": seconds}
    return Checked(layout, note, found)


def tree_off(off: Any) -> float:
    """How far trees are off; without end where the model's own code cannot be given a tree at all."""
    try:
        return float(off("shared_prompt"))
    except Exception:  # code of its own: whatever it says, rows are what it was made for
        return float("inf")


def some_pairs(model: Any, pairs: Sequence[TokenPair]) -> list[TokenPair]:
    """The pair to look at, behind another one that it is read with; both cut, so that the look costs little.

    It is the shortest whose answers part before an end and are more than a token or two, so that both have a place in
    a tree. The other is another pair at half of its length, or the longest pair as it is where a model's code or
    positions are such that its numbers may depend on the length of a text.
    """
    by_length = sorted((beginning(p, SHORT) for p in pairs[:MANY]), key=row_length)
    first = max(by_length, key=lambda p: min(3, len(p.chosen_ids), len(p.rejected_ids)) * (parting(p) < shorter(p)))
    if not own_code(model) or OwnLengths.of(model) is not None:
        others = [max(pairs, key=row_length)]
    else:
        others = [beginning(p, SHORT // 2) for p in by_length if p is not first]
    return [*others[:1], first]


def beginning(pair: TokenPair, most: int) -> TokenPair:
    """The pair of the first tokens, at most `most`, of the prompt and of both answers."""
    return TokenPair(pair.id, pair.prompt_ids[:most], pair.chosen_ids[:most], pair.rejected_ids[:most])


def shorter(pair: TokenPair) -> int:
    """Tokens of the pair's shorter answer."""
    return min(len(pair.chosen_ids), len(pair.rejected_ids))


def parting(pair: TokenPair) -> int:
    """How many tokens both answers of a pair begin with alike."""
    both = zip(pair.chosen_ids, pair.rejected_ids, strict=False)
    return next((i for i, (a, b) in enumerate(both) if a != b), shorter(pair))


def alone(model: Any, ids: Sequence[int]) -> Tensor:
    """log p of every token of the vocabulary behind each token of a text that nobody else is read with, (T, V)."""
    lengths = OwnLengths.of(model)
    if lengths is not None:
        lengths.forget()
    ids_1T = torch.tensor([list(ids)], device=next(model.parameters()).device)
    out = model(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T, dtype=torch.bool), use_cache=False)
    return F.log_softmax(out.logits[0].float(), -1)


def picked(logp_TV: Tensor, answer: Sequence[int]) -> Tensor:
    """The log-probs of the text's last tokens, the answer's, shape (C,)."""
    ids_C = torch.tensor(list(answer), device=logp_TV.device)
    return logp_TV[-len(answer) - 1 : -1].gather(1, ids_C[:, None])[:, 0]


def apart(a: Tensor, b: Tensor) -> float:
    """Mean absolute difference; not a number where either is not, which no limit allows."""
    return float((a - b).abs().mean())


def ahead(model: Any, pair: TokenPair, whole: list[Tensor]) -> float | None:
    """How far the two texts of a pair are apart before they part, in the worst place; None where they never do.

    Two texts of unlike length are cut to one where positions depend on it.
    """
    same = parting(pair)
    if same == shorter(pair):
        return None
    if OwnLengths.of(model) is not None and len(pair.chosen_ids) != len(pair.rejected_ids):
        cut = (pair.chosen_ids[: shorter(pair)], pair.rejected_ids[: shorter(pair)])
        whole = [alone(model, (*pair.prompt_ids, *answer)) for answer in cut]
    before = len(pair.prompt_ids) + same
    first_TV, second_TV = (logp_TV[:before].clamp_min(-1e4) for logp_TV in whole)
    return float((first_TV - second_TV).abs().mean(1).max())
