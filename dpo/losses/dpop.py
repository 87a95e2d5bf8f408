"""DPO-Positive."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo.errors import UsageError
from dpo.losses.base import PAIRWISE, Loss, Ratios
from dpo.ranges import Strength


@dataclass(frozen=True)
class Dpop(Loss):
    """softplus(-beta (c - r - lambda max(0, -c))).

    Pal et al. 2024 (arXiv:2402.13228): a chosen answer less likely than under the reference costs
    margin, so that its likelihood does not fall. lambda above 0, 5 to 500 in the paper, usually 50; larger
    guards harder. beta: 0.01 to 1, usually 0.1.
    """

    takes: ClassVar[frozenset[str]] = PAIRWISE

    lambda_: Strength

    def check(self) -> None:
        if not 0 <= self.lambda_ < math.inf:
            raise UsageError(f"loss.lambda_={self.lambda_}: must be finite and at least 0")

    def formula(self, x: Ratios, beta: float) -> Tensor:
        return F.softplus(-beta * (x.d_B - self.lambda_ * torch.relu(-x.c_B)))

    def start(self, beta: float) -> float | None:
        return math.log(2)
