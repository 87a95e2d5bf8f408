"""The evaluation pairs under policy and reference: a row per pair, the same for any batching."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dpo.data.batches import collate, micro_batches
from dpo.data.tokens import TokenPair
from dpo.logps import PairLogps, score
from dpo.losses.base import Loss
from dpo.measure import batch_facts, measure
from dpo.metrics import FP32_TIE, PairRows
from dpo.reference import StoredLogps


@torch.no_grad()
def evaluate_pairs(
    scorer: nn.Module,
    pairs: Sequence[TokenPair],
    reference: StoredLogps,
    loss: Loss,
    beta: float,
    pad_id: int,
    token_budget: int,
    precision: str,
    reward_mean: float = 0.0,
) -> PairRows:
    """Rows of all pairs in their order, under the scorer's model as it stands (put it in evaluation mode first).

    A loss that acts on the whole batch acts on all the pairs at once; `reward_mean` is the training's, frozen.
    """
    device = next(scorer.parameters()).device
    needs = loss.needs | {"token_facts"}
    facts = batch_facts(pairs, range(len(pairs)), loss.needs, reward_mean, device)
    parts = []
    for group in micro_batches(pairs, range(len(pairs)), token_budget):
        batch = collate(pairs, group, pad_id).to(device)
        ours, theirs = measure(scorer, batch, reference, needs, facts, pad_id, precision)
        # in float64 the loss can be repeated from the stored rows alone (dpo.posthoc)
        parts.append((batch.pair_B, ours.double(), theirs.double()))
    if loss.whole_batch:
        pair_B, policies, references = zip(*parts, strict=True)
        parts = [(torch.cat(pair_B), PairLogps.concat(policies), PairLogps.concat(references))]
    return PairRows.concat([PairRows.of(i_B, loss(ours, theirs, beta), ours, theirs) for i_B, ours, theirs in parts])


@torch.no_grad()
def noise_floor(
    scorer: nn.Module,
    pairs: Sequence[TokenPair],
    pad_id: int,
    token_budget: int,
    precision: str,
    start: PairRows | None,
) -> float:
    """The relative size below which a log-prob difference is rounding: what `metrics.wins` calls a tie.

    1e-6 in fp32. In bf16 it is measured: twice the largest relative difference between up to 16 pairs
    scored one by one and together, and the largest log-ratio over its scale in `start`, the rows of a policy
    that is its own reference; at most bf16's own resolution, 2^-8.
    """
    if precision == "fp32":
        return FP32_TIE
    device = next(scorer.parameters()).device
    few = list(range(min(16, len(pairs))))
    floor = FP32_TIE
    with torch.autocast(device.type, torch.bfloat16):
        groups = micro_batches(pairs, few, token_budget)
        together = [score(scorer, collate(pairs, group, pad_id).to(device)) for group in groups]
        alone = [score(scorer, collate(pairs, [i], pad_id).to(device)) for group in groups for i in group]
    for side in ("chosen_B", "rejected_B"):
        a = torch.cat([getattr(x, side) for x in together]).double()
        b = torch.cat([getattr(x, side) for x in alone]).double()
        floor = max(floor, 2 * float(((a - b).abs() / a.abs().clamp_min(1e-9)).max()))
    if start is not None:
        v = start.values
        for side in ("chosen", "rejected"):
            ours_B, theirs_B = v[f"{side}_logp"], v[f"{side}_ref_logp"]
            floor = max(floor, float(((ours_B - theirs_B).abs() / (ours_B.abs() + theirs_B.abs())).max()))
    return min(floor, 2**-8)
