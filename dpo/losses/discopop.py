"""The loss that was found by having a language model write losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo.errors import UsageError
from dpo.losses.base import MARGIN, Loss, Ratios
from dpo.ranges import Range


@dataclass(frozen=True)
class Discopop(Loss):
    """(1 - m) softplus(-z) + m exp(-z), m = sigmoid(z / tau), z = beta (c - r).

    The log-ratio modulated loss of Lu et al. 2024 (arXiv:2406.08414), equation 5. Not monotone: near 0 its
    gradient lowers the margin. tau above 0 and at most 1 (above it the second term is unbounded), usually 0.05;
    a smaller tau switches from logistic to exponential more sharply. beta: 0.01 to 1, usually 0.1.
    """

    takes: ClassVar[frozenset[str]] = MARGIN

    tau: Annotated[float, Range(0.0001, 1)]

    def check(self) -> None:
        if not 0 < self.tau <= 1:
            raise UsageError(f"loss.tau={self.tau}: must be above 0 and at most 1")

    def formula(self, x: Ratios, beta: float) -> Tensor:
        z_B = beta * x.d_B
        logistic_B = torch.sigmoid(-z_B / self.tau) * F.softplus(-z_B)
        # m exp(-z) as one exponential: at z = -100 m is 0 and exp(-z) infinite
        return logistic_B + (F.logsigmoid(z_B / self.tau) - z_B).exp()

    def start(self, beta: float) -> float | None:
        return 0.5 * math.log(2) + 0.5
