"""Length-regularised DPO."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from dpo.errors import UsageError
from dpo.logps import PairLogps
from dpo.losses.base import PAIRWISE, Loss, Ratios, nll
from dpo.ranges import Range


@dataclass(frozen=True)
class Rdpo(Loss):
    """softplus(-(z + alpha (n_c - n_r))), z = beta (c - r).

    Park et al. 2024 (arXiv:2403.19159): the optimum of reward - alpha |y| under a KL penalty has
    r = beta log(pi/ref) + alpha |y| + const, so a longer chosen answer is already explained in part by its
    length, and pulls less. alpha in nats per token, at least 0 (0 is DPO), usually 0.005 to 0.05; larger weakens
    the pull of longer answers more. beta: 0.01 to 1, usually 0.1.
    """

    takes: ClassVar[frozenset[str]] = PAIRWISE

    alpha: Annotated[float, Range(-1e6, 1e6)]

    def check(self) -> None:
        if not 0 <= self.alpha < math.inf:
            raise UsageError(f"loss.alpha={self.alpha}: must be finite and at least 0")

    def formula(self, x: Ratios, beta: float) -> Tensor:
        longer_B = x.policy.chosen_len_B - x.policy.rejected_len_B
        return F.softplus(-(beta * x.d_B + self.alpha * longer_B))

    def at_reference(self, beta: float, reference: PairLogps | None = None) -> float | None:
        if reference is None or self.wpo:
            return None
        longer_B = reference.chosen_len_B - reference.rejected_len_B
        start = float(F.softplus(-self.alpha * longer_B.double()).mean())
        return start + self.sft_weight * float(nll(reference).mean())
