"""Attention along token trees: `reading` lets a model of transformers attend so, on a CPU or a GPU.

Shapes: X = N x H rows of queries, Y = N x K rows of keys, N tokens, H query heads, K key heads; in a group L = B x K,
G = H / K, T places, t of them in a block of queries, s keys that the block may see, D head width.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpo.tree import Plan, Plans, Tree

BLOCK = 128
"""Queries at a time of a long tree; a block meets only the keys up to its end."""
NAME = "dpo_token_tree"


class TreeAttention(torch.autograd.Function):
    """`attended` as one operation of a graph."""

    @staticmethod
    def forward(ctx: Any, query_XD: Tensor, key_YD: Tensor, value_YD: Tensor, plans: Plans, *how: Any) -> Tensor:
        out_XD, saved = attended(query_XD, key_YD, value_YD, plans, *how)
        ctx.plans, ctx.how = plans, how
        ctx.save_for_backward(*saved)
        return out_XD

    @staticmethod
    def backward(ctx: Any, grad_XD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grads = attended_backward(grad_XD, ctx.saved_tensors, ctx.plans, *ctx.how)
        return *grads, None, *(None for _ in ctx.how)


def attended(
    query_XD: Tensor, key_YD: Tensor, value_YD: Tensor, plans: Plans, scale: float, cap: float | None
) -> tuple[Tensor, list[Tensor | None]]:
    """softmax(q k^T scale + bias) v over packed rows, and what its backward needs.

    query_XD holds H rows a token, key_YD and value_YD hold K rows: heads that share a key are rows of one product.
    The probabilities of short trees are kept; those that would take more room than q, k and v are computed again.
    """
    saved: list[Tensor | None] = []
    outs = []
    for plan in plans.groups:
        q, k, v = gathered(plan, query_XD, key_YD, value_YD)
        q.mul_(scale)
        parts = []
        for rows, seen in blocks(q.shape[2]):
            p, _ = probabilities(q[:, :, rows], k[:, :seen], plan, rows, cap)
            parts.append((p.flatten(1, 2) @ v[:, :seen]).view(*p.shape[:-1], -1))
        outs.append(parts[0] if len(parts) == 1 else torch.cat(parts, 2))
        saved += [q, k, v, p if len(parts) == 1 and cap is None and p.shape[-1] <= 3 * q.shape[-1] else None]
    return plans.packed_queries(outs), saved


def attended_backward(
    grad_XD: Tensor, saved: Sequence[Any], plans: Plans, scale: float, cap: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `attended` by queries, keys and values."""
    by_query, by_key, by_value = [], [], []
    for number, plan in enumerate(plans.groups):
        q, k, v, kept = saved[4 * number : 4 * number + 4]
        g = grad_XD.index_select(0, plan.queries).index_fill_(0, plan.pads, 0)  # rows past an end are nobody's
        g = g.view(q.shape)
        dq: list[Tensor] = []
        dk, dv = k.new_empty(0), v.new_empty(0)
        for rows, seen in reversed(list(blocks(q.shape[2]))):  # the last block sees every key
            q_b, g_b = q[:, :, rows].flatten(1, 2), g[:, :, rows].flatten(1, 2)
            p, damp = (kept, None) if kept is not None else probabilities(q[:, :, rows], k[:, :seen], plan, rows, cap)
            by_p = (g_b @ v[:, :seen].transpose(1, 2)).view(p.shape)
            ds = torch._softmax_backward_data(by_p, p, -1, p.dtype)
            ds = (ds if damp is None else ds.mul_(damp)).flatten(1, 2)
            dq.insert(0, (ds @ k[:, :seen]).mul_(scale).view(*p.shape[:-1], -1))
            across, back = p.flatten(1, 2).transpose(1, 2), ds.transpose(1, 2)
            if len(dq) == 1:
                dk, dv = back @ q_b, across @ g_b
            else:
                dk[:, :seen].baddbmm_(back, q_b)
                dv[:, :seen].baddbmm_(across, g_b)
        by_query.append(dq[0] if len(dq) == 1 else torch.cat(dq, 2))
        by_key.append(dk)
        by_value.append(dv)
    return plans.packed_queries(by_query), plans.packed_keys(by_key), plans.packed_keys(by_value)


def gathered(plan: Plan, query_XD: Tensor, key_YD: Tensor, value_YD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q (L, G, T, D), k and v (L, T, D) of a group."""
    width = plan.bias_B11TT.shape[-1]
    k, v = (x.index_select(0, plan.keys).view(-1, width, x.shape[-1]) for x in (key_YD, value_YD))
    return query_XD.index_select(0, plan.queries).view(len(k), -1, width, query_XD.shape[-1]), k, v


def blocks(width: int) -> Iterator[tuple[slice, int]]:
    """Slices of queries and how many keys, counted from the first, they may see."""
    step = width if width <= 2 * BLOCK else -(-width // -(-width // BLOCK))
    for start in range(0, width, step):
        end = min(start + step, width)
        yield slice(start, end), end


def probabilities(
    q_LGtD: Tensor, k_LsD: Tensor, plan: Plan, rows: slice, cap: float | None
) -> tuple[Tensor, Tensor | None]:
    """softmax of a block of scaled queries' scores, shape (L, G, t, s), and the derivative of a soft cap on them."""
    scores = q_LGtD.flatten(1, 2) @ k_LsD.transpose(1, 2)
    damp = None
    if cap is not None:
        scores = scores.div_(cap).tanh_()
        damp = (1 - scores**2).view(*q_LGtD.shape[:3], -1)
        scores = scores.mul_(cap)
    bias = plan.bias_B11TT[..., rows, : k_LsD.shape[1]]
    scores = scores.view(len(bias), -1, q_LGtD.shape[1], *bias.shape[-2:])
    return scores.add_(bias).flatten(0, 1).softmax(-1), damp


@dataclass(frozen=True)
class Reading:
    """The tree being read.

    flex    whether FlexAttention reads it, as on a GPU, and not the products of this file
    capped  whether attention caps its scores (transformers does so in its eager form only)
    kept_M  the rows whose last hidden state is wanted; a last block that can (`dpo.block`) goes on with these alone
    """

    tree: Tree
    flex: bool
    capped: bool
    kept_M: Tensor | None


ACTIVE: ContextVar[Reading | None] = ContextVar("tree", default=None)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface over the active tree: (1, H, N, D) in, (1, N, H, D) out."""
    active = ACTIVE.get()
    assert active is not None and dropout == 0.0, "a token tree is read outside of `reading`, or with dropout"
    tree, cap = active.tree, softcap if active.capped else None
    heads, size, width = query.shape[1:]
    scale = width**-0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary positions may have widened them
    if active.flex:
        mask = tree.block_mask(sliding_window)
        out = flex()(query, key, value, soft_cap(cap), block_mask=mask, scale=scale, enable_gqa=True)
        return out.transpose(1, 2), None
    q, k, v = (x.transpose(1, 2).reshape(-1, width) for x in (query, key, value))
    plans = tree.plan(heads, key.shape[1], sliding_window, value.dtype)
    return TreeAttention.apply(q, k, v, plans, scale, cap).view(1, size, heads, width), None


@functools.cache
def soft_cap(cap: float | None) -> Any:
    """The soft cap as FlexAttention's change of a score; one function per cap, so that it is compiled once."""
    return None if cap is None else lambda score, *_: cap * torch.tanh(score / cap)


def takes_flex(device: torch.device) -> bool:
    """Whether FlexAttention is the fast way on this device: not on a CPU."""
    return device.type != "cpu"


@functools.cache
def flex() -> Any:
    """FlexAttention compiled once; lengths vary from batch to batch."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@contextmanager
def reading(tree: Tree, config: Any, kept_M: Tensor | None = None) -> Iterator[None]:
    """Within it the model of this config attends along the tree; `kept_M` as in `Reading`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    before = config._attn_implementation
    token = ACTIVE.set(Reading(tree, takes_flex(tree.branch_N.device), before == "eager", kept_M))
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        ACTIVE.reset(token)
