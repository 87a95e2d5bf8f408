"""DPO that is unbiased under flipped labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from dpo.losses.base import MARGIN, Loss, Ratios


@dataclass(frozen=True)
class Robust(Loss):
    """[(1 - e) softplus(-z) - e softplus(z)] / (1 - 2e), z = beta (c - r), e = label_smoothing.

    Chowdhury et al. 2024 (arXiv:2403.00409): its mean over labels that are flipped with
    probability e is the DPO loss of the true labels. Unbounded below for e > 0. e from 0 (DPO) to below
    0.5, usually 0.1; a larger e corrects for more flips. beta as in DPO.
    """

    takes: ClassVar[frozenset[str]] = MARGIN | {"label_smoothing"}

    def formula(self, x: Ratios, beta: float) -> Tensor:
        z_B, e = beta * x.d_B, self.label_smoothing
        return ((1 - e) * F.softplus(-z_B) - e * F.softplus(z_B)) / (1 - 2 * e)

    def start(self, beta: float) -> float | None:
        return math.log(2)
