"""Anchored Preference Optimization: two losses that say which way the chosen answer's likelihood should go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dpo.losses.base import PAIRWISE, Loss, Ratios


@dataclass(frozen=True)
class ApoZero(Loss):
    """1 - sigmoid(beta c) + sigmoid(beta r): chosen up, rejected down.

    D'Oosterlinck et al. 2024 (arXiv:2408.06266), equation 7; for chosen answers better than the model's own.
    beta: 0.01 to 1, usually 0.1.
    """

    takes: ClassVar[frozenset[str]] = PAIRWISE

    def formula(self, x: Ratios, beta: float) -> Tensor:
        return torch.sigmoid(-beta * x.c_B) + torch.sigmoid(beta * x.r_B)

    def start(self, beta: float) -> float | None:
        return 1.0


@dataclass(frozen=True)
class ApoDown(Loss):
    """sigmoid(beta c) + 1 - sigmoid(beta (c - r)): both down, the rejected one further.

    D'Oosterlinck et al. 2024 (arXiv:2408.06266), equation 8; for chosen answers worse than the model's own.
    At the reference the gradient on c is 0. beta: 0.01 to 1, usually 0.1.
    """

    takes: ClassVar[frozenset[str]] = PAIRWISE

    def formula(self, x: Ratios, beta: float) -> Tensor:
        return torch.sigmoid(beta * x.c_B) + torch.sigmoid(-beta * x.d_B)

    def start(self, beta: float) -> float | None:
        return 1.0
