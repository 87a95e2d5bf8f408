"""Self-Play Preference Optimization with hard labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dpo.losses.base import PAIRWISE, Loss, Ratios


@dataclass(frozen=True)
class SppoHard(Loss):
    """(c - 1/(2 beta))^2 + (r + 1/(2 beta))^2.

    Wu et al. 2024 (arXiv:2405.00675), equation 4.7 with eta = 1/beta and win probabilities 1 and 0. The target
    of each log-ratio is 1/(2 beta) nats; usually beta = 1e-3, 1e-4 to 1e-1 on a log axis.
    """

    takes: ClassVar[frozenset[str]] = PAIRWISE
    beta_above_zero: ClassVar[bool] = True

    def formula(self, x: Ratios, beta: float) -> Tensor:
        return (x.c_B - 1 / (2 * beta)) ** 2 + (x.r_B + 1 / (2 * beta)) ** 2

    def start(self, beta: float) -> float | None:
        return 1 / (2 * beta**2)
