"""Contrastive Preference Optimization: no reference, a margin of summed log-probs and imitation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dpo.losses.base import Loss, Ratios, smoothed


@dataclass(frozen=True)
class Cpo(Loss):
    """softplus(-beta (lc - lr)) + sft_weight NLL(chosen), lc and lr the policy's own log-probs.

    Xu et al. 2024 (arXiv:2401.08417), with sft_weight 1. NLL is minus the mean log-prob over all
    chosen tokens of the optimizer batch. Rewards are its own score, beta lc and beta lr. beta: 0.01 to 1, usually 0.1.
    """

    reads: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[frozenset[str]] = frozenset({"label_smoothing", "sft_weight"})

    def formula(self, x: Ratios, beta: float) -> Tensor:
        return smoothed(beta * x.d_B, self.label_smoothing)

    def start(self, beta: float) -> float | None:
        return None
