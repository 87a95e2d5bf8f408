"""What is read off the logits of completion tokens: log-probs, and facts of whole distributions.

Shapes: N completion tokens, V vocabulary, R rows, C completion tokens of a row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo.data.batches import PairBatch


def token_logps(logits_NV: Tensor, batch: PairBatch) -> Tensor:
    """logp_RC of a batch's completion tokens under the logits that predict them."""
    logp_N = -F.cross_entropy(logits_NV.float(), batch.ids_RT[batch.completion_RT], reduction="none")
    return pad_rows(logp_N, batch.length_R)


@torch.no_grad()
def log_collision(logits_NV: Tensor) -> Tensor:
    """log sum_v p(v)^2, shape (N,): how likely two draws from each distribution are the same token, in nats."""
    logits_NV = logits_NV.float()
    return (2 * logits_NV).logsumexp(-1) - 2 * logits_NV.logsumexp(-1)


def kl_from(reference_NV: Tensor, logits_NV: Tensor) -> Tensor:
    """KL(reference || policy) of each distribution in nats, shape (N,), with the policy's graph.

    Where one model pads its vocabulary further than the other, both are cut to the shorter one.
    """
    width = min(reference_NV.shape[-1], logits_NV.shape[-1])
    reference_NV = reference_NV[:, :width].float().log_softmax(-1)
    return (reference_NV.exp() * (reference_NV - logits_NV[:, :width].float().log_softmax(-1))).sum(-1)


@torch.no_grad()
def entropy_and_top(logits_NV: Tensor, ids_N: Tensor, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """(entropy_N in nats, top_N): 1 where the token is the argmax; `chunk` positions at a time bound the memory."""
    entropies, tops = [], []
    for logits_nV, ids_n in zip(logits_NV.split(chunk), ids_N.split(chunk), strict=True):
        logp_nV = logits_nV.float().log_softmax(-1)
        p_nV = logp_nV.exp()
        entropies.append(-torch.xlogy(p_nV, p_nV).sum(-1))  # 0 where p underflows, unlike p * log p
        tops.append((logp_nV.argmax(-1) == ids_n).float())
    return torch.cat(entropies), torch.cat(tops)


def pad_rows(flat_N: Tensor, length_R: Tensor) -> Tensor:
    """Rows of the given lengths, laid end to end in `flat_N`, as a zero-padded (R, C) tensor."""
    width = int(length_R.max())
    mask_RC = torch.arange(width, device=flat_N.device) < length_R[:, None]
    return flat_N.new_zeros(mask_RC.shape).masked_scatter(mask_RC, flat_N)
