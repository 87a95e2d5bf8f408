"""What a loss reads of a batch: policy and reference log-probs, with every field that its needs name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dpo.data.batches import PairBatch, collate
from dpo.data.tokens import TokenPair
from dpo.distributions import token_logps
from dpo.logps import PairLogps, Scores, score
from dpo.reference import StoredLogps


def measure(
    scorer: Scores,
    batch: PairBatch,
    known: StoredLogps,
    needs: frozenset[str],
    facts: dict[str, Tensor],
    pad_id: int,
    precision: str,
) -> tuple[PairLogps, PairLogps]:
    """(policy, reference) of a batch; the policy has its graph when grad is on, and `facts` of the whole batch."""
    device = batch.ids_RT.device
    reference_NV = known.live.logits(batch) if known.live is not None else None
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        policy = score(scorer, batch, needs, reference_NV)
    if reference_NV is None:
        reference = known.logps(batch, needs)
    else:
        reference = PairLogps.from_tokens(token_logps(reference_NV, batch), batch.length_R, needs)
    if "mismatched" in needs:
        assert known.mismatched is not None, "the loss reads mismatched pairs"
        pairs, theirs = known.mismatched
        others = collate(pairs, batch.pair_B.tolist(), pad_id).to(device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            policy = replace(policy, mismatched_B=mean_of_sides(score(scorer, others)))
        reference = replace(reference, mismatched_B=mean_of_sides(theirs.logps(others)))
    return replace(policy, **facts) if facts else policy, reference


def mean_of_sides(logps: PairLogps) -> Tensor:
    """(chosen + rejected) / 2, shape (B,)."""
    return (logps.chosen_B + logps.rejected_B) / 2


def batch_facts(
    pairs: Sequence[TokenPair], indices: Sequence[int], needs: frozenset[str], reward_mean: float, device: torch.device
) -> dict[str, Tensor]:
    """The fields of PairLogps that belong to a whole batch, as 0-dim tensors, where `needs` asks for them."""
    facts = {}
    if "token_mean" in needs:
        tokens = sum(len(pairs[i].chosen_ids) for i in indices)
        facts["mean_chosen_len"] = torch.tensor(tokens / len(indices), device=device)
    if "reward_mean" in needs:
        facts["reward_mean"] = torch.tensor(reward_mean, device=device)
    return facts
