"""Hinge loss on the DPO margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dpo.losses.base import MARGIN, Loss, Ratios


@dataclass(frozen=True)
class Hinge(Loss):
    """max(0, 1 - z), z = beta (c - r): SLiC's calibration loss (Zhao et al. 2023, arXiv:2305.10425) on log-ratios.

    The normalised form of Liu et al. 2023 (RSO, arXiv:2309.06657), where 1/beta is the margin in
    nats past which a pair is left alone. 0.01 to 1, usually 0.1.
    """

    takes: ClassVar[frozenset[str]] = MARGIN

    def formula(self, x: Ratios, beta: float) -> Tensor:
        return torch.relu(1 - beta * x.d_B)

    def start(self, beta: float) -> float | None:
        return 1.0
