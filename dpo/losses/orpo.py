"""Odds Ratio Preference Optimization: no reference, imitation and an odds ratio in one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dpo.errors import UsageError
from dpo.losses.base import Loss, Ratios, nll
from dpo.ranges import Weight

CERTAIN = -1e-6
"""Mean log-probs are held below this, where the odds would be infinite."""


@dataclass(frozen=True)
class Orpo(Loss):
    """NLL(chosen) + lambda softplus(-(log odds_c - log odds_r)), odds = p / (1 - p), log p = mean log-prob of a token.

    Hong et al. 2024 (arXiv:2403.07691). NLL is minus the mean log-prob over all chosen tokens of
    the optimizer batch. No beta: lambda weighs the odds ratio, above 0, 0.05 to 1, usually 0.1; larger cares
    more for the preference than for imitation. Rewards are its own score, lambda times the mean log-probs.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"token_mean"})
    reduction: ClassVar[str] = "mean"
    uses_beta: ClassVar[bool] = False

    lambda_: Weight

    def check(self) -> None:
        if not 0 < self.lambda_ < math.inf:
            raise UsageError(f"loss.lambda_={self.lambda_}: must be finite and above 0")

    def formula(self, x: Ratios, beta: float) -> Tensor:
        odds_B = log_odds(x.c_B / x.policy.chosen_len_B) - log_odds(x.r_B / x.policy.rejected_len_B)
        return nll(x.policy) + self.lambda_ * F.softplus(-odds_B)

    def rewards(self, x: Ratios, beta: float) -> tuple[Tensor, Tensor]:
        return self.lambda_ * x.c_B / x.policy.chosen_len_B, self.lambda_ * x.r_B / x.policy.rejected_len_B

    def start(self, beta: float) -> float | None:
        return None


def log_odds(logp_B: Tensor) -> Tensor:
    """log p - log(1 - p) from log p, shape (B,), without leaving the log domain."""
    logp_B = logp_B.clamp(max=CERTAIN)
    return logp_B - torch.where(logp_B > -math.log(2), (-torch.expm1(logp_B)).log(), torch.log1p(-logp_B.exp()))
