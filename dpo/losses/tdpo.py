"""Token-level DPO."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from dpo.errors import UsageError
from dpo.losses.base import Loss, Ratios
from dpo.ranges import Strength


@dataclass(frozen=True)
class Tdpo(Loss):
    """softplus(-(z - alpha beta (D_r - stopgrad D_c))), z = beta (c - r), D = sum over tokens of KL(ref || policy).

    Zeng et al. 2024 (arXiv:2404.11999), its TDPO2: an answer may not win margin by leaving the reference
    token by token. D is over the whole vocabulary, so the reference runs in every step and nothing is stored.
    alpha at least 0 (0 is DPO), usually 0.5; larger holds the rejected side's KL back more. beta: usually 0.1.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"reference", "token_kl"})
    takes: ClassVar[frozenset[str]] = frozenset({"wpo", "sft_weight"})

    alpha: Strength

    def check(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise UsageError(f"loss.alpha={self.alpha}: must be finite and at least 0")

    def formula(self, x: Ratios, beta: float) -> Tensor:
        chosen_B, rejected_B = x.policy.chosen_kl_B, x.policy.rejected_kl_B
        assert chosen_B is not None and rejected_B is not None, 'asked for by "token_kl"'
        return F.softplus(-(beta * x.d_B - self.alpha * beta * (rejected_B - chosen_B.detach())))

    def start(self, beta: float) -> float | None:
        return math.log(2)
