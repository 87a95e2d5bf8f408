"""Kahneman-Tversky Optimization on pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dpo.losses.base import Loss, Ratios


@dataclass(frozen=True)
class KtoPair(Loss):
    """Mean over both sides of 1 - sigmoid(beta (c - KL)) and 1 - sigmoid(beta (KL - r)).

    Ethayarajh et al. 2024 (arXiv:2402.01306), with both answers of a pair as one example each and
    equal weights. KL = max(0, mean log-ratio of mismatched answers over the whole batch), without gradient; a
    mismatch is a pair's prompt with both answers of its successor in the data. beta: 0.01 to 1, usually 0.1.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"reference", "mismatched"})
    whole_batch: ClassVar[bool] = True

    def formula(self, x: Ratios, beta: float) -> Tensor:
        ours_B, theirs_B = x.policy.mismatched_B, x.reference.mismatched_B
        assert ours_B is not None and theirs_B is not None, 'asked for by "mismatched"'
        kl = (ours_B - theirs_B).mean().clamp(min=0).detach()
        return (torch.sigmoid(-beta * (x.c_B - kl)) + torch.sigmoid(-beta * (kl - x.r_B))) / 2

    def start(self, beta: float) -> float | None:
        return 0.5
