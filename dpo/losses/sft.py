"""Imitation of the chosen answers: the baseline arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dpo.logps import PairLogps
from dpo.losses.base import Loss, Ratios, nll


@dataclass(frozen=True)
class Sft(Loss):
    """Minus the mean log-prob over all chosen tokens of the optimizer batch; the rejected answers are not learnt from.

    No beta, and no reference in the loss: the reference at hand serves the logged rewards alone, which are plain
    log-ratios, so that the arm can be compared with the others.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"reference", "token_mean"})
    reduction: ClassVar[str] = "mean"
    uses_beta: ClassVar[bool] = False

    def formula(self, x: Ratios, beta: float) -> Tensor:
        return nll(x.policy)

    def at_reference(self, beta: float, reference: PairLogps | None = None) -> float | None:
        return None if reference is None else float(nll(reference).mean())
