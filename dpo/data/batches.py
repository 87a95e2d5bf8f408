"""Token pairs laid out for a model, grouped so that little of a batch is padding, in a seeded order.

Shapes: B pairs, R = 2B rows, T tokens of a row, C completion tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo.data.tokens import TokenPair

PADDING = 0.05
"""Largest share of padding among the places that a model reads of a batch's rows."""
WHOLE = 1024
"""Places up to which a batch is read whole: a further forward of so few tokens takes longer than their padding."""


@dataclass(frozen=True)
class PairBatch:
    """B pairs as R = 2B right-padded rows: row i is pair i with its chosen answer, row B + i with its rejected.

    ids_RT        token ids, `pad_id` past a row's end
    mask_RT       True on real tokens
    completion_RT True on completion tokens (EOS included)
    length_R      completion tokens of a row
    pair_B        each pair's position in the list the batch was made from
    """

    ids_RT: Tensor
    mask_RT: Tensor
    completion_RT: Tensor
    length_R: Tensor
    pair_B: Tensor

    def to(self, device: torch.device) -> PairBatch:
        """The same batch on another device (pair_B stays: it only indexes lists)."""
        return replace(
            self,
            ids_RT=self.ids_RT.to(device),
            mask_RT=self.mask_RT.to(device),
            completion_RT=self.completion_RT.to(device),
            length_R=self.length_R.to(device),
        )

    def predicts_RT(self) -> Tensor:
        """True where the next token is a completion token."""
        return F.pad(self.completion_RT[:, 1:], (0, 1))

    def groups(self) -> list[list[int]]:
        """Rows to read together, so that little is padding: see `rectangles`."""
        return rectangles(self.mask_RT.sum(1).tolist())

    def only(self, rows: list[int]) -> PairBatch:
        """Some of the rows, in this order and cut to their longest; pair_B stays the whole batch's."""
        if rows == list(range(len(self.ids_RT))):
            return self
        index = torch.tensor(rows, device=self.ids_RT.device)
        width = int(self.mask_RT[index].sum(1).max())
        ids_RT, mask_RT, completion_RT = (x[index, :width] for x in (self.ids_RT, self.mask_RT, self.completion_RT))
        return replace(self, ids_RT=ids_RT, mask_RT=mask_RT, completion_RT=completion_RT, length_R=self.length_R[index])

    def tokens_of(self, rows: Sequence[int]) -> Tensor:
        """Where the completion tokens of these rows are among those of the whole batch."""
        lengths, ends = self.length_R.tolist(), self.length_R.cumsum(0).tolist()
        places = [torch.arange(ends[r] - lengths[r], ends[r]) for r in rows]
        return torch.cat(places).to(self.ids_RT.device)

    def widths(self, groups: Sequence[list[int]]) -> Tensor:
        """How many places each row takes, padding included: tokens of the longest row of its group, shape (R,)."""
        length_R = self.mask_RT.sum(1).cpu()
        widths_R = torch.empty_like(length_R)
        for rows in groups:
            widths_R[rows] = length_R[rows].max()
        return widths_R


def collate(pairs: Sequence[TokenPair], indices: Sequence[int], pad_id: int) -> PairBatch:
    """Lay out pairs[i] for i in indices as padded rows."""
    sides = [(pairs[i].prompt_ids, pairs[i].chosen_ids) for i in indices]
    sides += [(pairs[i].prompt_ids, pairs[i].rejected_ids) for i in indices]
    start_R1, end_R1 = torch.tensor([(len(p), len(p) + len(a)) for p, a in sides]).t()[:, :, None]
    width = int(end_R1.max())
    padding = (pad_id,) * width
    ids_RT = torch.tensor([(*p, *a, *padding[len(p) + len(a) :]) for p, a in sides])
    place_T = torch.arange(width)
    mask_RT = place_T < end_R1
    completion_RT = mask_RT & (place_T >= start_R1)
    return PairBatch(ids_RT, mask_RT, completion_RT, (end_R1 - start_R1)[:, 0], torch.tensor(list(indices)))


def micro_batches(pairs: Sequence[TokenPair], indices: Sequence[int], token_budget: int) -> list[list[int]]:
    """Split `indices` into groups of similar length whose padded rows hold at most `token_budget` tokens.

    A pair longer than the budget is a group of its own. The grouping changes speed and memory, and
    results by no more than rounding.
    """
    by_length = sorted(indices, key=lambda i: (row_length(pairs[i]), i))
    groups: list[list[int]] = []
    for i in by_length:
        if groups and 2 * (len(groups[-1]) + 1) * row_length(pairs[i]) <= token_budget:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def rectangles(length_R: Sequence[int]) -> list[list[int]]:
    """Rows of these lengths in groups of similar ones, few of them, whose padding is at most PADDING of all places.

    Up to WHOLE places the rows stay together, in their order; else they are cut where that saves most, until enough
    is saved.
    """
    rows = sorted(range(len(length_R)), key=lambda r: length_R[r])
    sorted_R = [length_R[r] for r in rows]
    places, tokens = len(rows) * sorted_R[-1], sum(sorted_R)
    if places <= WHOLE or tokens >= (1 - PADDING) * places:
        return [list(range(len(rows)))]
    ends = [0, len(rows)]
    while tokens < (1 - PADDING) * places:
        saved, cut = max(
            ((i - start) * (sorted_R[end - 1] - sorted_R[i - 1]), i)
            for start, end in pairwise(ends)
            for i in range(start + 1, end)
        )
        places -= saved
        ends = sorted([*ends, cut])
    return [rows[start:end] for start, end in pairwise(ends)]


def back(groups: Sequence[Sequence[int]]) -> Tensor:
    """Where each row is among the rows of all groups, one group after the other."""
    return torch.tensor([row for group in groups for row in group]).argsort()


def in_order(parts: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> Tensor:
    """(..., R, C) in the batch's order from a part (..., r, c) for each group of its rows; zero past a part's c."""
    width = max(part.shape[-1] for part in parts)
    padded = [F.pad(part, (0, width - part.shape[-1])) for part in parts]
    return torch.cat(padded, -2).index_select(-2, back(groups).to(parts[0].device))


def row_length(pair: TokenPair) -> int:
    """Tokens of the pair's longer row."""
    return len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))


def step_indices(n_pairs: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Pairs of optimizer step `step` (from 1): consecutive slices of one seeded permutation per epoch.

    The last slice of an epoch may be smaller. A function of its arguments alone, so a resumed run
    meets the same batches.
    """
    per_epoch = -(-n_pairs // batch_size)
    epoch, slot = divmod(step - 1, per_epoch)
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = torch.randperm(n_pairs, generator=generator).tolist()
    return order[slot * batch_size : (slot + 1) * batch_size]
