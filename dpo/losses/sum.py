"""Weighted sums of losses."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from dpo.errors import UsageError
from dpo.logps import PairLogps
from dpo.losses.base import Loss, LossOut
from dpo.ranges import Weight


@dataclass(frozen=True)
class Component:
    """One term of a sum: a loss and its weight, above 0."""

    weight: Weight
    loss: Loss

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise UsageError(f"loss.components: weight {self.weight} must be finite and above 0")


@dataclass(frozen=True)
class Sum(Loss):
    """sum_k weight_k loss_k, all at one beta, such as MPO (Wang et al. 2024, arXiv:2411.10442: DPO, BCO and NLL).

    Its facts follow from its components', and modifiers are theirs alone. Rewards are those of the first
    component that reads the reference, else of the first.
    """

    components: list[Component]

    def check(self) -> None:
        if not self.components:
            raise UsageError("loss.components=[]: a sum needs at least one component")
        losses = [c.loss for c in self.components]
        facts = {
            "reduction": losses[0].reduction if len({loss.reduction for loss in losses}) == 1 else "mixed",
            "uses_beta": any(loss.uses_beta for loss in losses),
            "beta_above_zero": any(loss.beta_above_zero for loss in losses),
            "whole_batch": any(loss.whole_batch for loss in losses),
        }
        for name, value in facts.items():
            object.__setattr__(self, name, value)  # facts of this instance, in place of its class's

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(c.loss.needs for c in self.components))

    def __call__(self, policy: PairLogps, reference: PairLogps, beta: float) -> LossOut:
        outs = [c.loss(policy, reference, beta) for c in self.components]
        loss_B: Tensor = sum(c.weight * out.loss_B for c, out in zip(self.components, outs, strict=True))  # type: ignore[assignment]
        rewards = next((out for out in outs if not out.own_score), outs[0])
        return LossOut(loss_B, rewards.chosen_reward_B, rewards.rejected_reward_B, rewards.own_score)

    def at_reference(self, beta: float, reference: PairLogps | None = None) -> float | None:
        starts = [c.loss.at_reference(beta, reference) for c in self.components]
        known = [c.weight * start for c, start in zip(self.components, starts, strict=True) if start is not None]
        return sum(known) if len(known) == len(starts) else None
