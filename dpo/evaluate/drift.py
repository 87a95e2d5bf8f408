"""How far the policy has moved: KL(policy || reference), estimated on the policy's own samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dpo.data.batches import PairBatch, collate, micro_batches
from dpo.data.tokens import TokenPair
from dpo.evaluate.samples import Answer


@torch.no_grad()
def kl(
    policy: Callable[[PairBatch], Tensor],
    reference: Callable[[PairBatch], Tensor],
    answers: Sequence[Answer],
    pad_id: int,
    token_budget: int,
) -> dict[str, float]:
    """kl (nats per sequence), kl_per_token, kl_n: the mean of log pi - log pi_ref over `answers`.

    Unbiased where `answers` are samples of the policy at temperature 1 without any filter; answers cut at
    the length limit count up to there. Both callables return logp_RC of a batch.
    """
    # an answer stands on both sides of a pair; only the first side is read
    pairs = [TokenPair(str(i), a.prompt_ids, a.ids, a.ids[:1]) for i, a in enumerate(answers)]
    total, tokens = 0.0, 0
    for group in micro_batches(pairs, range(len(pairs)), token_budget):
        batch = collate(pairs, group, pad_id)
        difference_RC = (policy(batch).cpu() - reference(batch).cpu())[: len(group)]
        total += float(difference_RC.double().sum())
        tokens += int(batch.length_R[: len(group)].sum())
    return {"kl": total / len(answers), "kl_per_token": total / tokens, "kl_n": float(len(answers))}
