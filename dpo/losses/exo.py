"""Efficient Exact Optimization on pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo.errors import UsageError
from dpo.losses.base import MARGIN, Loss, Ratios


@dataclass(frozen=True)
class ExoPair(Loss):
    """q (ln q - ln(1 - e)) + (1 - q) (ln(1 - q) - ln e), q = sigmoid(z), z = beta (c - r), e = label_smoothing.

    Ji et al. 2024 (arXiv:2402.00856), equation 16 for two answers: KL from the policy's to the smoothed
    label's distribution, the reverse of DPO's direction. e above 0 and below 0.5, usually 1e-3; a smaller e
    punishes doubt more. beta: 0.01 to 1, usually 0.1.
    """

    takes: ClassVar[frozenset[str]] = MARGIN | {"label_smoothing"}

    def check(self) -> None:
        if self.label_smoothing == 0:
            raise UsageError("loss.label_smoothing=0: exo_pair takes its logarithm; give 0.001, or at least above 0")

    def formula(self, x: Ratios, beta: float) -> Tensor:
        z_B, e = beta * x.d_B, self.label_smoothing
        right_B = torch.sigmoid(z_B) * (F.logsigmoid(z_B) - math.log1p(-e))
        return right_B + torch.sigmoid(-z_B) * (F.logsigmoid(-z_B) - math.log(e))

    def start(self, beta: float) -> float | None:
        e = self.label_smoothing
        return -math.log(2) - 0.5 * math.log(e * (1 - e))
