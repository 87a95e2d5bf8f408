"""Noise Contrastive Alignment on pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from dpo.losses.base import PAIRWISE, Loss, Ratios


@dataclass(frozen=True)
class NcaPair(Loss):
    """softplus(-beta c) + 0.5 softplus(beta c) + 0.5 softplus(beta r).

    Chen et al. 2024 (arXiv:2402.05369), the pair form of NCA: absolute rewards, so that the chosen answer's
    own likelihood is held up. beta: 0.01 to 1, usually 0.1.
    """

    takes: ClassVar[frozenset[str]] = PAIRWISE

    def formula(self, x: Ratios, beta: float) -> Tensor:
        c_B, r_B = beta * x.c_B, beta * x.r_B
        return F.softplus(-c_B) + 0.5 * F.softplus(c_B) + 0.5 * F.softplus(r_B)

    def start(self, beta: float) -> float | None:
        return 2 * math.log(2)
