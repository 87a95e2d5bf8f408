"""Identity Preference Optimization on per-token means, and on sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dpo.losses.base import MARGIN, Loss, Ratios


@dataclass(frozen=True)
class Ipo(Loss):
    """(c/n_c - r/n_r - 1/(2 beta))^2, with the log-ratios averaged over the tokens of each answer.

    Azar et al. 2023 (arXiv:2310.12036), equation 17; beta is the paper's tau, and the per-token mean is
    how its authors apply it to sequences. A larger beta asks for a smaller gap; 0.01 to 1, usually 0.1.
    """

    reduction: ClassVar[str] = "mean"
    takes: ClassVar[frozenset[str]] = MARGIN - {"ld_alpha"}
    beta_above_zero: ClassVar[bool] = True

    def formula(self, x: Ratios, beta: float) -> Tensor:
        return (x.mean_gap_B - 1 / (2 * beta)) ** 2

    def start(self, beta: float) -> float | None:
        return 1 / (4 * beta**2)


@dataclass(frozen=True)
class IpoSum(Loss):
    """(c - r - 1/(2 beta))^2 on summed log-ratios: equation 17 of arXiv:2310.12036 as it stands.

    Another scale than `Ipo`: never on one beta axis with it. The form (z - 1)^2, with z = b (c - r), that
    is also called IPO is b^2 times this loss at beta = b / 2. 0.01 to 1, usually 0.1.
    """

    takes: ClassVar[frozenset[str]] = MARGIN
    beta_above_zero: ClassVar[bool] = True

    def formula(self, x: Ratios, beta: float) -> Tensor:
        return (x.d_B - 1 / (2 * beta)) ** 2

    def start(self, beta: float) -> float | None:
        return 1 / (4 * beta**2)
