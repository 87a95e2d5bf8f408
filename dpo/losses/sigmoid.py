"""The loss of Direct Preference Optimization, its label-smoothed form, and its length-normalised form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from dpo.losses.base import MARGIN, Loss, Ratios, smoothed
from dpo.ranges import Range


@dataclass(frozen=True)
class Sigmoid(Loss):
    """(1 - e) softplus(-z) + e softplus(z), z = beta (c - r), e = label_smoothing.

    e = 0 is DPO, equation 7 of Rafailov et al. 2023 (arXiv:2305.18290); e > 0 is its conservative form
    for labels that are wrong with probability e (Mitchell 2023, "A note on DPO with noisy preferences").
    beta: how strongly the policy is held to the reference; 0.01 to 1, usually 0.1.
    """

    takes: ClassVar[frozenset[str]] = MARGIN | {"label_smoothing"}

    label_smoothing: Annotated[float, Range(0, 0.5, below=True)] = 0.0

    def formula(self, x: Ratios, beta: float) -> Tensor:
        return smoothed(beta * x.d_B, self.label_smoothing)

    def start(self, beta: float) -> float | None:
        return math.log(2)


@dataclass(frozen=True)
class SigmoidNorm(Loss):
    """DPO on per-token means: softplus(-z), z = beta (c/n_c - r/n_r), with label smoothing as in DPO.

    The length-normalised DPO of Lambert et al. 2024 (Tulu 3, arXiv:2411.15124). beta acts on
    nats per token, so that it is larger than DPO's: 2 to 10, usually 2.
    """

    reduction: ClassVar[str] = "mean"
    takes: ClassVar[frozenset[str]] = MARGIN - {"ld_alpha"} | {"label_smoothing"}

    def formula(self, x: Ratios, beta: float) -> Tensor:
        return smoothed(beta * x.mean_gap_B, self.label_smoothing)

    def start(self, beta: float) -> float | None:
        return math.log(2)
