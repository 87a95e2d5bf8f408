"""Simple Preference Optimization: no reference, a margin on per-token means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from dpo.errors import UsageError
from dpo.losses.base import Loss, Ratios, smoothed
from dpo.ranges import Range


@dataclass(frozen=True)
class Simpo(Loss):
    """softplus(-(beta (lc/n_c - lr/n_r) - gamma)), lc and lr the policy's own log-probs.

    Meng et al. 2024 (arXiv:2405.14734). Rewards are its own score, beta lc/n_c and beta lr/n_r.
    gamma is the paper's target margin itself, not gamma/beta: at least 0, usually a quarter to a half of beta;
    larger asks for a wider margin. beta: 2 to 10, usually 2.
    """

    reads: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[frozenset[str]] = frozenset({"label_smoothing", "wpo", "sft_weight"})
    reduction: ClassVar[str] = "mean"

    gamma: Annotated[float, Range(-1e6, 1e6)]

    def check(self) -> None:
        if not 0 <= self.gamma < math.inf:
            raise UsageError(f"loss.gamma={self.gamma}: must be finite and at least 0")

    def formula(self, x: Ratios, beta: float) -> Tensor:
        return smoothed(beta * x.mean_gap_B - self.gamma, self.label_smoothing)

    def rewards(self, x: Ratios, beta: float) -> tuple[Tensor, Tensor]:
        return beta * x.c_B / x.policy.chosen_len_B, beta * x.r_B / x.policy.rejected_len_B

    def start(self, beta: float) -> float | None:
        return None
