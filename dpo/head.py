"""Log-probs of completion tokens straight from hidden states: logits of a few positions at a time, never all.

Shapes: N completion tokens, n of them in a chunk, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dpo.distributions import entropy_and_top, log_collision
from dpo.kernels import asked_dtype

CHUNK_BYTES = 1 << 25
"""float32 logits of one chunk: 32 MiB, so that memory does not grow with vocabulary times length."""
KEEP_BYTES = 1 << 27
"""Where the head itself is trained, up to this much of the probabilities is kept for the backward; the rest is
computed again there."""


class HeadLogps(torch.autograd.Function):
    """(logp_N, facts_KN) of ids_N under the logits hidden_ND @ weight_VD.T + bias_V, soft-capped where `cap` is given.

    facts_KN: for "wpo" log sum_v p(v)^2, for "token_facts" the entropy and whether the token is the argmax, in
    that order and without graph. A token's gradient is its upstream scalar times d logp / d hidden, so the latter
    is computed while the chunk's logits are there and nothing of the vocabulary's size is kept. A trained head
    needs sum_n g_n (onehot - p)_n h_n as well, which does not factor: it keeps KEEP_BYTES of p, or computes p again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        ids_N: Tensor,
        cap: float | None,
        wants: tuple[str, ...],
    ) -> tuple[Tensor, Tensor]:
        trains_head = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        slopes = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] and not trains_head else None
        logp_N = torch.empty(len(ids_N), dtype=torch.float32, device=hidden_ND.device)
        rows = ("wpo" in wants) + 2 * ("token_facts" in wants)
        facts_KN = torch.empty(rows, len(ids_N), dtype=torch.float32, device=hidden_ND.device)
        kept: dict[int, Tensor] = {}  # by a chunk's first position: a short last chunk may fit where others did not
        room = KEEP_BYTES
        for part in chunks(hidden_ND, weight_VD):
            z_nV = capped(project(hidden_ND[part], weight_VD, bias_V), cap)
            shift_n1 = z_nV.amax(-1, keepdim=True)
            if rows:
                logits_nV = z_nV.clone()
            top_n = z_nV.gather(1, ids_N[part, None])
            damp_nV = None if cap is None else 1 - (z_nV / cap) ** 2
            p_nV = z_nV.sub_(shift_n1).exp_()
            total_n1 = p_nV.sum(-1, keepdim=True)
            logp_N[part] = (top_n - shift_n1 - total_n1.log())[:, 0]
            if rows:
                facts_KN[:, part] = token_facts(logits_nV, ids_N[part], wants)
            if slopes is not None:
                slopes[part] = slope(p_nV.div_(total_n1), ids_N[part], damp_nV).to(weight_VD.dtype) @ weight_VD
            elif trains_head and p_nV.nbytes <= room:
                kept[part.start] = slope(p_nV.div_(total_n1), ids_N[part], damp_nV)
                room -= p_nV.nbytes
        ctx.cap, ctx.trains_head, ctx.kept = cap, trains_head, kept
        ctx.save_for_backward(slopes, *((hidden_ND, weight_VD, bias_V, ids_N) if trains_head else ()))
        ctx.mark_non_differentiable(facts_KN)
        return logp_N, facts_KN

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if not ctx.trains_head:
            (slopes_ND,) = ctx.saved_tensors
            return slopes_ND * grad_N[:, None].to(slopes_ND.dtype), None, None, None, None, None
        _slopes, hidden_ND, weight_VD, bias_V, ids_N = ctx.saved_tensors
        by_hidden = torch.empty_like(hidden_ND)
        by_weight = None if len(hidden_ND) else torch.zeros_like(weight_VD)
        by_bias = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
        for part in chunks(hidden_ND, weight_VD):
            d_nV = ctx.kept.pop(part.start, None)
            if d_nV is None:
                z_nV = capped(project(hidden_ND[part], weight_VD, bias_V), ctx.cap)
                damp_nV = None if ctx.cap is None else 1 - (z_nV / ctx.cap) ** 2
                d_nV = slope(z_nV.softmax(-1), ids_N[part], damp_nV)
            d_nV = d_nV.mul_(grad_N[part, None])
            if by_bias is not None:
                by_bias += d_nV.sum(0)
            d_nV = d_nV.to(weight_VD.dtype)
            by_hidden[part] = d_nV @ weight_VD
            if by_weight is None:
                by_weight = d_nV.t() @ hidden_ND[part]
            else:
                by_weight.addmm_(d_nV.t(), hidden_ND[part])
        return by_hidden, by_weight, None if by_bias is None else by_bias.to(bias_V.dtype), None, None, None


def head_logps(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    ids_N: Tensor,
    cap: float | None = None,
    wants: tuple[str, ...] = (),
) -> tuple[Tensor, Tensor]:
    """`HeadLogps` in the dtype that autocast would give the head."""
    operands = as_autocast(hidden_ND, weight_VD, bias_V)
    with torch.autocast(hidden_ND.device.type, enabled=False):
        return HeadLogps.apply(*operands, ids_N, cap, wants)


def as_autocast(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """A linear layer's operands in the dtype that autocast would give it here."""
    dtype = asked_dtype(weight_VD)
    return hidden_ND.to(dtype), weight_VD.to(dtype), None if bias_V is None else bias_V.to(dtype)


def chunks(hidden_ND: Tensor, weight_VD: Tensor) -> Iterator[slice]:
    """Slices of positions whose float32 logits take at most CHUNK_BYTES."""
    size = max(1, CHUNK_BYTES // (4 * len(weight_VD)))
    parts = -(-len(hidden_ND) // size)
    size = -(-len(hidden_ND) // max(1, parts))  # of one size, so that none is a sliver
    for start in range(0, len(hidden_ND), max(1, size)):
        yield slice(start, min(start + size, len(hidden_ND)))


def project(hidden_nD: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    """Logits in float32, of a product in the weights' dtype."""
    return torch.nn.functional.linear(hidden_nD, weight_VD, bias_V).float()


def capped(z_nV: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(z / cap), in place; z itself without a cap."""
    return z_nV if cap is None else z_nV.div_(cap).tanh_().mul_(cap)


def slope(p_nV: Tensor, ids_n: Tensor, damp_nV: Tensor | None) -> Tensor:
    """d logp(ids) / d logits = onehot - p, in place of p; `damp` is a soft-cap's own derivative."""
    d_nV = p_nV.neg_()
    d_nV[torch.arange(len(ids_n), device=ids_n.device), ids_n] += 1
    return d_nV if damp_nV is None else d_nV.mul_(damp_nV)


def token_facts(logits_nV: Tensor, ids_n: Tensor, wants: tuple[str, ...]) -> Tensor:
    """Rows of `HeadLogps`' facts for one chunk."""
    rows = [log_collision(logits_nV)] if "wpo" in wants else []
    if "token_facts" in wants:
        rows += entropy_and_top(logits_nV, ids_n)
    return torch.stack(rows)
