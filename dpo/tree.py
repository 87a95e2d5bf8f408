"""Pairs as token trees: every prompt once with both answers behind it, all pairs end to end without padding.

Shapes: B pairs, N tokens of all trees, M completion tokens, T tokens of the longest tree of a group, H query heads,
K key heads, G = H / K, D head width, L = B x K.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpo.data.batches import PairBatch
from dpo.rotary import by_length

FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3"),
    *("gemma", "gemma2", "gemma3_text", "gpt_neox", "gpt2"),
)
"""model_type of the architectures whose numbers a test holds equal to the padded layout's."""
SCORES = 1 << 20
"""Scores (pairs x heads x T x T) computed at a time: 4 MiB in float32, which stay in a CPU's cache."""


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
        self._made: dict[Any, Any] = {}

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, made for the first layer that asks."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def plan(self, heads: int, keys: int, window: int | None, dtype: torch.dtype) -> Plans:
        """How the attention of this many heads is computed group by group."""
        return self.once(  # type: ignore[no-any-return]
            (heads, keys, window, dtype),
            lambda: Plans.of([Plan.of(g, heads, keys, window, dtype) for g in self.groups]),
        )

    def block_mask(self, window: int | None) -> Any:
        """The same for FlexAttention on a GPU."""
        from torch.nn.attention.flex_attention import create_block_mask

        branch_N, pair_N, position_N = self.branch_N, self.pair_N, self.position_N

        def sees(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            own = (pair_N[q] == pair_N[k]) & (q >= k) & ((branch_N[k] == 0) | (branch_N[k] == branch_N[q]))
            return own if window is None else own & (position_N[q] - position_N[k] < window)

        def made() -> Any:
            return create_block_mask(sees, None, None, self.size, self.size, device=branch_N.device)

        return self.once(("flex", window), made)


@dataclass(frozen=True)
class Plan:
    """A group for a number of heads.

    queries    rows of the (N x H, D) queries, ordered (pair, key head, head of it, place)
    keys       rows of the (N x K, D) keys and values, ordered (pair, key head, place)
    pads       the query rows that are no tokens; pad_keys the same of the keys
    bias_B11TT 0 or -inf
    """

    queries: Tensor
    keys: Tensor
    pads: Tensor
    pad_keys: Tensor
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
        queries, key_rows, pads = queries.flatten(), key_rows.flatten(), (~real).nonzero()[:, 0]
        pad_keys = (~real_BT[:, None].expand(pairs, keys, width)).flatten().nonzero()[:, 0]
        bias = torch.zeros(pairs, width, width, dtype=dtype, device=device)
        bias.masked_fill_(group.hidden(window), -torch.inf)
        return Plan(
            queries,
            key_rows,
            pads,
            pad_keys,
            bias[:, None, None],
        )


@dataclass(frozen=True)
class Plans:
    """All groups of a tree; back_* are where each row of the packed tensors stands in theirs, laid end to end."""

    groups: list[Plan]
    back_queries: Tensor
    back_keys: Tensor

    @staticmethod
    def of(groups: list[Plan]) -> Plans:
        queries = inverse([(p.queries, p.pads) for p in groups])
        return Plans(groups, queries, inverse([(p.keys, p.pad_keys) for p in groups]))

    def packed_queries(self, parts: list[Tensor]) -> Tensor:
        """Rows in the order of the packed queries."""
        return end_to_end(parts).index_select(0, self.back_queries)

    def packed_keys(self, parts: list[Tensor]) -> Tensor:
        """Rows in the order of the packed keys."""
        return end_to_end(parts).index_select(0, self.back_keys)


def inverse(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Where each packed row stands among the groups' rows; (rows, which of them are padding) per group."""
    rows = torch.cat([rows for rows, _ in parts])
    real, start = torch.ones_like(rows, dtype=torch.bool), 0
    for part, pads in parts:
        real[start + pads] = False
        start += len(part)
    places = real.nonzero()[:, 0]
    return torch.empty_like(places).index_copy_(0, rows[places], places)


def end_to_end(parts: list[Tensor]) -> Tensor:
    """The rows of all groups, one after the other."""
    flat = [part.view(-1, part.shape[-1]) for part in parts]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


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


def sizes(batch: PairBatch) -> list[int]:
    """How many tokens of the packed row each pair takes, in the order of the pairs: all but its answers' last ones."""
    totals, answers = batch.mask_RT.sum(1), batch.length_R
    pairs = len(batch.pair_B)
    return (totals[:pairs] + answers[pairs:] - 2).tolist()


def as_trees(batch: PairBatch) -> TreeBatch:
    """Pack a padded batch; the completion tokens keep the order they have in it.

    The last token of an answer is predicted and predicts nothing, so no tree holds it.
    """
    device, pairs = batch.ids_RT.device, len(batch.pair_B)
    answers = batch.length_R.tolist()
    totals = batch.mask_RT.sum(1).tolist()
    ids: list[Tensor] = []
    predicts: list[list[int]] = [[], []]
    index, position, branch, owner = [], [], [], []
    start = 0
    for i, size in enumerate(sizes(batch)):
        first, second = answers[i], answers[pairs + i]
        prompt = totals[i] - first
        if prompt < 1:
            raise ValueError("a pair without a prompt token has nothing that predicts its first answer token")
        ids += [batch.ids_RT[i, : totals[i] - 1], batch.ids_RT[pairs + i, prompt : prompt + second - 1]]
        last = start + prompt - 1
        predicts[0] += range(last, last + first)
        predicts[1] += [last, *range(last + first, last + first + second - 1)]
        index.append((start, size))
        position += [*range(prompt + first - 1), *range(prompt, prompt + second - 1)]
        branch += [0] * prompt + [1] * (first - 1) + [2] * (second - 1)
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
    if by_length(config) is not None:
        return "its rotary frequencies depend on the length of a text"
    if getattr(config, "use_bidirectional_attention", False):
        return "its attention is bidirectional"
    return None
