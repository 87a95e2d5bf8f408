"""Pairs as token trees: every prompt once with both answers behind it, all pairs end to end without padding.

Shapes: B pairs, N tokens of all trees, M completion tokens, T tokens of the longest tree of a group, H query heads,
K key heads, G = H / K, D head width, L = B x K.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpo.data.batches import PairBatch

FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3"),
    *("gemma", "gemma2", "gemma3_text", "gpt_neox", "gpt2"),
)
"""model_type of the architectures whose numbers a test holds equal to the padded layout's."""
SCORES = 1 << 20
"""Scores (pairs x heads x T x T) computed at a time: 4 MiB in float32, which stay in a CPU's cache."""
BLOCK = 128
"""Queries at a time of a long tree; a block meets only the keys up to its end."""
NAME = "dpo_token_tree"


@dataclass(frozen=True)
class Group:
    """Trees of similar length, padded to T where attention reads them (nothing else is padded).

    index_BT     each token's place in the packed row; past a tree's end the row's own first place
    branch_BT    0 on the prompt, 1 and 2 on the answers, -1 past the end
    position_BT  each token's place in its text
    """

    index_BT: Tensor
    branch_BT: Tensor
    position_BT: Tensor

    def hidden(self, window: int | None) -> Tensor:
        """(B, T, T): where the query of a row may not see the key of a column.

        A token sees itself and what stands before it in its own text: the prompt, and its own answer. A sliding
        `window` counts places of the text. Rows past a tree's end see everything and are read by nobody.
        """
        query_BT1, key_B1T = self.branch_BT[:, :, None], self.branch_BT[:, None, :]
        place = torch.arange(self.index_BT.shape[1], device=self.index_BT.device)
        sees = (place[:, None] >= place) & ((key_B1T == 0) | (key_B1T == query_BT1))
        if window is not None:
            sees &= self.position_BT[:, :, None] - self.position_BT[:, None, :] < window
        return ~(sees | (query_BT1 < 0))


class Tree:
    """Who sees whom in a packed row, prepared once per batch and read by every layer."""

    def __init__(self, groups: list[Group], size: int, branch_N: Tensor, pair_N: Tensor, position_N: Tensor) -> None:
        self.groups = groups
        self.size = size
        self.branch_N, self.pair_N, self.position_N = branch_N, pair_N, position_N
        self._plans: dict[Any, Any] = {}

    def plan(self, heads: int, keys: int, window: int | None, dtype: torch.dtype) -> list[Plan]:
        """How the attention of this many heads is computed group by group."""
        known = (heads, keys, window, dtype)
        if known not in self._plans:
            self._plans[known] = [Plan.of(group, heads, keys, window, dtype) for group in self.groups]
        return self._plans[known]

    def block_mask(self, window: int | None) -> Any:
        """The same for FlexAttention on a GPU."""
        if ("flex", window) not in self._plans:
            from torch.nn.attention.flex_attention import create_block_mask

            branch_N, pair_N, position_N = self.branch_N, self.pair_N, self.position_N

            def sees(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
                own = (pair_N[q] == pair_N[k]) & (q >= k) & ((branch_N[k] == 0) | (branch_N[k] == branch_N[q]))
                return own if window is None else own & (position_N[q] - position_N[k] < window)

            mask = create_block_mask(sees, None, None, self.size, self.size, device=branch_N.device)
            self._plans["flex", window] = mask
        return self._plans["flex", window]


@dataclass(frozen=True)
class Plan:
    """A group for a number of heads.

    queries    rows of the (N x H, D) queries, ordered (pair, key head, head of it, place)
    keys       rows of the (N x K, D) keys and values, ordered (pair, key head, place)
    real_*     which of those rows are tokens; fills_* the same as rows of the packed tensors
    pads       the query rows that are no tokens
    bias_B11TT 0 or -inf
    """

    queries: Tensor
    keys: Tensor
    real_queries: Tensor
    real_keys: Tensor
    fills_queries: Tensor
    fills_keys: Tensor
    pads: Tensor
    bias_B11TT: Tensor

    @staticmethod
    def of(group: Group, heads: int, keys: int, window: int | None, dtype: torch.dtype) -> Plan:
        pairs, width = group.index_BT.shape
        device = group.index_BT.device
        head_KG = torch.arange(heads, device=device).view(keys, -1)
        queries = group.index_BT[:, None, None] * heads + head_KG[None, :, :, None]
        key_rows = group.index_BT[:, None] * keys + torch.arange(keys, device=device)[None, :, None]
        real_BT = group.branch_BT >= 0
        real = real_BT[:, None, None].expand(queries.shape).flatten()
        real_queries, pads = real.nonzero()[:, 0], (~real).nonzero()[:, 0]
        real_keys = real_BT[:, None].expand(key_rows.shape).flatten().nonzero()[:, 0]
        queries, key_rows = queries.flatten(), key_rows.flatten()
        bias = torch.zeros(pairs, width, width, dtype=dtype, device=device)
        bias.masked_fill_(group.hidden(window), -torch.inf)
        return Plan(
            queries,
            key_rows,
            real_queries,
            real_keys,
            queries[real_queries],
            key_rows[real_keys],
            pads,
            bias[:, None, None],
        )


@dataclass(frozen=True)
class TreeBatch:
    """The pairs of a PairBatch as trees.

    ids_1N, position_1N  the packed row
    predicts_M           where in the row each completion token is predicted: all chosen answers, then all rejected
    """

    ids_1N: Tensor
    position_1N: Tensor
    predicts_M: Tensor
    tree: Tree

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the model is called with; the mask only says that nothing is padding."""
        mask_1N = torch.ones_like(self.ids_1N, dtype=torch.bool)
        return {"input_ids": self.ids_1N, "position_ids": self.position_1N, "attention_mask": mask_1N}


def as_trees(batch: PairBatch) -> TreeBatch:
    """Pack a padded batch; the completion tokens keep the order they have in it."""
    device, pairs = batch.ids_RT.device, len(batch.pair_B)
    answers = batch.length_R.tolist()
    totals = batch.mask_RT.sum(1).tolist()
    ids, predicts, index = [], [[], []], []
    position, branch, owner = [], [], []
    start = 0
    for i in range(pairs):
        first, second = answers[i], answers[pairs + i]
        prompt = totals[i] - first
        if prompt < 1:
            raise ValueError("a pair without a prompt token has nothing that predicts its first answer token")
        ids += [batch.ids_RT[i, : totals[i]], batch.ids_RT[pairs + i, prompt : prompt + second]]
        size = prompt + first + second
        last = start + prompt - 1
        predicts[0] += range(last, last + first)
        predicts[1] += [last, *range(last + first + 1, last + first + second)]
        index.append((start, size))
        position += [*range(prompt + first), *range(prompt, prompt + second)]
        branch += [0] * prompt + [1] * first + [2] * second
        owner += [i] * size
        start += size
    flat = torch.tensor([position, branch, owner], device=device)
    position_N, branch_N, pair_N = flat
    groups = [group_of(stretch, branch_N, position_N) for stretch in grouped(index)]
    tree = Tree(groups, start, branch_N, pair_N, position_N)
    predicts_M = torch.tensor(predicts[0] + predicts[1], device=device)
    return TreeBatch(torch.cat(ids)[None], position_N[None], predicts_M, tree)


def grouped(stretches: list[tuple[int, int]], heads: int = 8) -> list[list[tuple[int, int]]]:
    """(start, size) of trees, sorted by size and cut where padding them to one size would cost more than it saves."""
    groups: list[list[tuple[int, int]]] = []
    for stretch in sorted(stretches, key=lambda s: s[1], reverse=True):
        if groups and (len(groups[-1]) + 1) * heads * groups[-1][0][1] ** 2 <= SCORES:
            groups[-1].append(stretch)
        else:
            groups.append([stretch])
    return groups


def group_of(stretches: list[tuple[int, int]], branch_N: Tensor, position_N: Tensor) -> Group:
    """The trees of these stretches of the packed row, padded to the longest."""
    device = branch_N.device
    start_B1, size_B1 = torch.tensor(stretches, device=device).t()[:, :, None]
    place_1T = torch.arange(max(size for _, size in stretches), device=device)[None]
    real_BT = place_1T < size_B1
    index_BT = torch.where(real_BT, start_B1 + place_1T, start_B1)
    return Group(index_BT, branch_N[index_BT].where(real_BT, -1), position_N[index_BT])


class TreeAttention(torch.autograd.Function):
    """softmax(q k^T scale + bias) v over packed rows; scores are computed again in the backward, never kept.

    query_XD holds H rows a token, key_YD and value_YD hold K rows: heads that share a key are rows of one product.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_XD: Tensor,
        key_YD: Tensor,
        value_YD: Tensor,
        plans: list[Plan],
        scale: float,
        cap: float | None,
    ) -> Tensor:
        out_XD = torch.empty_like(query_XD)
        saved = []
        for plan in plans:
            q, k, v = gathered(plan, query_XD, key_YD, value_YD)
            o = torch.empty_like(q)
            for rows, seen in blocks(q.shape[2]):
                p, _ = probabilities(q[:, :, rows], k[:, :seen], plan, rows, scale, cap)
                o[:, :, rows] = (p.flatten(1, 2) @ v[:, :seen]).view(o[:, :, rows].shape)
            out_XD[plan.fills_queries] = o.view(-1, o.shape[-1])[plan.real_queries]
            saved += [q, k, v]
        ctx.plans, ctx.scale, ctx.cap, ctx.shapes = plans, scale, cap, (query_XD.shape, key_YD.shape)
        ctx.save_for_backward(*saved)
        return out_XD

    @staticmethod
    def backward(ctx: Any, grad_XD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        by_query, by_key, by_value = (grad_XD.new_empty(ctx.shapes[i]) for i in (0, 1, 1))
        for number, plan in enumerate(ctx.plans):
            q, k, v = ctx.saved_tensors[3 * number : 3 * number + 3]
            g = grad_XD[plan.queries]
            g[plan.pads] = 0  # rows past a tree's end are nobody's
            g = g.view(q.shape)
            dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
            for rows, seen in blocks(q.shape[2]):
                q_b, g_b = q[:, :, rows].flatten(1, 2), g[:, :, rows].flatten(1, 2)
                p, damp = probabilities(q[:, :, rows], k[:, :seen], plan, rows, ctx.scale, ctx.cap)
                flat = p.flatten(1, 2)
                dv[:, :seen].baddbmm_(flat.transpose(1, 2), g_b)
                ds = torch._softmax_backward_data((g_b @ v[:, :seen].transpose(1, 2)).view(p.shape), p, -1, p.dtype)
                ds = (ds if damp is None else ds.mul_(damp)).flatten(1, 2)
                dq[:, :, rows] = (ds @ k[:, :seen]).mul_(ctx.scale).view(dq[:, :, rows].shape)
                dk[:, :seen].baddbmm_(ds.transpose(1, 2), q_b, alpha=ctx.scale)
            by_query[plan.fills_queries] = dq.view(-1, q.shape[-1])[plan.real_queries]
            by_key[plan.fills_keys] = dk.view(-1, k.shape[-1])[plan.real_keys]
            by_value[plan.fills_keys] = dv.view(-1, v.shape[-1])[plan.real_keys]
        return by_query, by_key, by_value, None, None, None


def gathered(plan: Plan, query_XD: Tensor, key_YD: Tensor, value_YD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q (L, G, T, D), k and v (L, T, D) of a group."""
    width = plan.bias_B11TT.shape[-1]
    k, v = (x[plan.keys].view(-1, width, x.shape[-1]) for x in (key_YD, value_YD))
    return query_XD[plan.queries].view(len(k), -1, width, query_XD.shape[-1]), k, v


def blocks(width: int) -> Iterator[tuple[slice, int]]:
    """Slices of queries and how many keys, counted from the first, they may see."""
    step = width if width <= 2 * BLOCK else -(-width // -(-width // BLOCK))
    for start in range(0, width, step):
        end = min(start + step, width)
        yield slice(start, end), end


def probabilities(
    q_LGtD: Tensor, k_LsD: Tensor, plan: Plan, rows: slice, scale: float, cap: float | None
) -> tuple[Tensor, Tensor | None]:
    """softmax of the scores of a block of queries, shape (L, G, t, s), and the derivative of a soft cap on them."""
    scores = (q_LGtD.flatten(1, 2) @ k_LsD.transpose(1, 2)).mul_(scale)
    damp = None
    if cap is not None:
        scores = scores.div_(cap).tanh_()
        damp = (1 - scores**2).view(*q_LGtD.shape[:3], -1)
        scores = scores.mul_(cap)
    bias = plan.bias_B11TT[..., rows, : k_LsD.shape[1]]
    scores = scores.view(len(bias), -1, q_LGtD.shape[1], *bias.shape[-2:])
    return scores.add_(bias).flatten(0, 1).softmax(-1), damp


ACTIVE: ContextVar[tuple[Tree, bool] | None] = ContextVar("tree", default=None)
"""The tree being read, and whether attention caps its scores (transformers does so in its eager form only)."""


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
    tree, capped = active
    cap = softcap if capped else None
    heads, size, width = query.shape[1:]
    scale = width**-0.5 if scaling is None else scaling
    if query.device.type != "cpu":
        mask = tree.block_mask(sliding_window)
        out = flex()(query, key, value, soft_cap(cap), block_mask=mask, scale=scale, enable_gqa=True)
        return out.transpose(1, 2), None
    dtype = value.dtype
    q, k, v = (x.transpose(1, 2).to(dtype).reshape(-1, width) for x in (query, key, value))
    plans = tree.plan(heads, key.shape[1], sliding_window, dtype)
    return TreeAttention.apply(q, k, v, plans, scale, cap).view(1, size, heads, width), None


@functools.cache
def soft_cap(cap: float | None) -> Any:
    """The soft cap as FlexAttention's change of a score; one function per cap, so that it is compiled once."""
    return None if cap is None else lambda score, *_: cap * torch.tanh(score / cap)


@functools.cache
def flex() -> Any:
    """FlexAttention compiled once; lengths vary from batch to batch."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@contextmanager
def reading(tree: Tree, config: Any) -> Iterator[None]:
    """Within it the model of this config attends along the tree."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    before = config._attn_implementation
    token = ACTIVE.set((tree, before == "eager"))
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        ACTIVE.reset(token)


def layout_of(config: Any, wanted: str) -> tuple[str, str | None]:
    """(the layout that a model with this config is read in, a note for people where it is not the one asked for)."""
    if wanted == "padded":
        return "padded", None
    why = refusal(config)
    if why is None:
        return "shared_prompt", None
    return "padded", f"train.layout={wanted}: {why}; its pairs are read as padded rows"


def refusal(config: Any) -> str | None:
    """Why a model with this config cannot be read as trees; None where it can."""
    if config.model_type not in FAMILIES:
        return f"model type {config.model_type} is not one of {', '.join(FAMILIES)}"
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"model.attention={config._attn_implementation} is not sdpa or eager"
    if getattr(config, "use_bidirectional_attention", False):
        return "its attention is bidirectional"
    return None
