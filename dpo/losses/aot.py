"""Alignment via Optimal Transport: margins compared as distributions over the whole batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dpo.losses.base import Loss, Ratios, smoothed


@dataclass(frozen=True)
class Aot(Loss):
    """(1 - e) softplus(-beta u) + e softplus(beta u), u = sort(lc - lr) - sort(ref_c - ref_r), e = label_smoothing.

    Melnyk et al. 2024 (arXiv:2406.05882), the paired form: the policy's margins are to dominate the
    reference's, quantile by quantile. Sorts over the whole optimizer batch (in evaluation the whole set); a
    pair's own loss is that of the quantile its policy margin is at. beta: 0.01 to 1, usually 0.1.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"label_smoothing"})
    whole_batch: ClassVar[bool] = True

    def formula(self, x: Ratios, beta: float) -> Tensor:
        ours_B = x.policy.chosen_B - x.policy.rejected_B
        theirs_B = x.reference.chosen_B - x.reference.rejected_B
        return by_quantile(ours_B, theirs_B, beta, self.label_smoothing)

    def start(self, beta: float) -> float | None:
        return math.log(2)


@dataclass(frozen=True)
class AotUnpaired(Loss):
    """The same with u = sort(c) - sort(r): chosen log-ratios are to dominate rejected ones, whoever their partner.

    Melnyk et al. 2024 (arXiv:2406.05882), the unpaired form. A pair's own loss is that of the quantile its
    c is at. beta: 0.01 to 1, usually 0.1.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"label_smoothing"})
    whole_batch: ClassVar[bool] = True

    def formula(self, x: Ratios, beta: float) -> Tensor:
        return by_quantile(x.c_B, x.r_B, beta, self.label_smoothing)

    def start(self, beta: float) -> float | None:
        return math.log(2)


def by_quantile(upper_B: Tensor, lower_B: Tensor, beta: float, e: float) -> Tensor:
    """The smoothed logistic loss of each quantile's difference, at the place of `upper_B`'s element there."""
    sorted_B, order_B = upper_B.sort(stable=True)
    loss_B = smoothed(beta * (sorted_B - lower_B.sort().values), e)
    return torch.zeros_like(loss_B).scatter(0, order_B, loss_B)
