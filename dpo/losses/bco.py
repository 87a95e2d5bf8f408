"""Binary Classifier Optimization on pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from dpo.losses.base import PAIRWISE, Loss, Ratios


@dataclass(frozen=True)
class BcoPair(Loss):
    """softplus(-(beta c - s)) + softplus(beta r - s): chosen answers above the shift s, rejected ones below.

    Jung et al. 2024 (arXiv:2404.04656). With running_mean s is the mean of all rewards beta * c and
    beta * r of the steps before this one, kept in the checkpoint and frozen in evaluation; without it s = 0.
    beta: 0.01 to 1, usually 0.1.
    """

    takes: ClassVar[frozenset[str]] = PAIRWISE

    running_mean: bool

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | ({"reward_mean"} if self.running_mean else frozenset())

    def formula(self, x: Ratios, beta: float) -> Tensor:
        mean = x.policy.reward_mean if self.running_mean else None
        s = 0.0 if mean is None else mean
        return F.softplus(-(beta * x.c_B - s)) + F.softplus(beta * x.r_B - s)

    def start(self, beta: float) -> float | None:
        return 2 * math.log(2)
