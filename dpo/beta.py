"""Beta, the strength that holds the policy to its reference, as a function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from torch import Tensor

from dpo.errors import UsageError
from dpo.ranges import Part, Range, Strength

if TYPE_CHECKING:
    from dpo.losses.base import Loss

FLOOR = 1e-3
"""The smallest beta that a dynamic one takes."""


LEAST_DIVISOR = 1e-9
"""The smallest beta of a loss that divides by it: 1 / beta^2 still fits float32."""


class Beta:
    """A schedule. A subclass's constructor arguments are the keys of its yaml; `usual` is its value for the loss.

    reads_margins   True where a training step's beta depends on the batch's log-ratio differences
    """

    reads_margins: ClassVar[bool] = False

    def value(self, step: int, d_B: Tensor | None = None) -> float:
        """Beta at an optimizer step. In training d_B are the batch's detached log-ratio differences in nats."""
        raise NotImplementedError

    @property
    def given(self) -> tuple[float | None, ...]:
        """The numbers it was given, the first under the key beta.value."""
        raise NotImplementedError

    def over(self, steps: int) -> Beta:
        """The schedule of a run of `steps` optimizer steps."""
        return self

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a checkpoint."""

    def check(self, loss: Loss, name: str) -> None:
        """Raise UsageError where this beta does not suit the loss, called `name`."""
        if not loss.uses_beta:
            for value in self.given:
                if value is not None:
                    raise UsageError(f"beta.value={value:g}: {name} has no beta; use beta=fixed and leave it null")
            return
        if None in self.given:
            raise UsageError(f"beta.value=null: {name} needs a number")
        least = min(value for value in self.given if value is not None)
        if loss.beta_above_zero and least < LEAST_DIVISOR:
            rule = "must be above 0" if least == 0 else f"must be at least {LEAST_DIVISOR:g}"
            raise UsageError(f"beta.value={least}: {rule}, because {name} divides by it")
        if self.reads_margins and "reference" not in loss.needs:
            raise UsageError(
                f"beta={type(self).__name__.lower()}: reads log-ratios and {name} has none; use beta=fixed"
            )

    def remark(self, usual: float | None) -> str | None:
        """One line on an extreme beta, allowed and said; `usual` is the loss's own."""
        for value in self.given:
            if value == 0:
                return "beta.value=0: the reference has no say, and a loss of beta times log-ratios has no gradient"
            if value is not None and usual and not 1e-2 <= value / usual <= 1e2:
                return f"beta.value={value:g}: far from this loss's usual {usual:g}"
        return None


def checked(name: str, value: float | None) -> None:
    """Raise UsageError unless `value` is null or a finite number of at least 0."""
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise UsageError(f"beta.{name}={value}: must be a finite number of at least 0")


class Fixed(Beta):
    """The same beta at every step: 0.01 to 1 for most losses; larger holds the policy closer to the reference.

    null only for a loss without a beta, whose rewards are then plain log-ratios (beta 1).
    """

    def __init__(self, value: Strength | None) -> None:
        checked("value", value)
        self.fixed = value

    def value(self, step: int, d_B: Tensor | None = None) -> float:
        return 1.0 if self.fixed is None else self.fixed

    @property
    def given(self) -> tuple[float | None, ...]:
        return (self.fixed,)


@dataclass(frozen=True)
class Annealing:
    """The settings of an annealed beta: from `value` at step 0 to `to` at step `steps`, and `to` after it."""

    value: float | None
    to: float | None
    steps: int | None
    shape: Literal["linear", "cosine"]


class Annealed(Beta):
    """From `value` at step 0 to `to` at step `steps` (null: the run's last), straight or along half a cosine."""

    def __init__(
        self,
        value: Strength | None,
        to: Strength | None,
        steps: Annotated[int, Range(1, 10_000_000)] | None,
        shape: Literal["linear", "cosine"],
    ) -> None:
        checked("value", value)
        checked("to", to)
        if steps is not None and steps < 1:
            raise UsageError(f"beta.steps={steps}: must be at least 1, or null for all steps of the run")
        self.settings = Annealing(value, to, steps, shape)

    def value(self, step: int, d_B: Tensor | None = None) -> float:
        a = self.settings
        assert a.value is not None and a.to is not None and a.steps is not None, "over() comes first"
        progress = min(1.0, step / a.steps)
        if a.shape == "cosine":
            progress = 0.5 * (1 - math.cos(math.pi * progress))
        return a.value + (a.to - a.value) * progress

    @property
    def given(self) -> tuple[float | None, ...]:
        return (self.settings.value, self.settings.to)

    def over(self, steps: int) -> Beta:
        return Annealed(**vars(self.settings) | {"steps": self.settings.steps or max(1, steps)})


class Dynamic(Beta):
    """beta0 (1 + alpha (mean(M) - M0)), M = beta0 d of each pair of the batch, at least 1e-3; beta0 is `value`.

    beta-DPO, Wu et al. 2024 (arXiv:2407.08639), at the level of batches. M0 is the moving average of mean(M),
    M0 <- momentum M0 + (1 - momentum) mean(M), moved before it is used, as its authors do. Batches with larger
    margins than usual are held closer to the reference; alpha at least 0 (0 is fixed), usually 0.6.

    Evaluations have beta0, so that they share a scale and leave the state alone.
    """

    reads_margins: ClassVar[bool] = True

    def __init__(self, value: Strength | None, alpha: Strength, momentum: Part) -> None:
        checked("value", value)
        checked("alpha", alpha)
        if not 0 <= momentum < 1:
            raise UsageError(f"beta.momentum={momentum}: must be at least 0 and below 1")
        self.beta0, self.alpha, self.momentum, self.m0 = value, alpha, momentum, 0.0

    def value(self, step: int, d_B: Tensor | None = None) -> float:
        assert self.beta0 is not None, "checked against the loss"
        if d_B is None:
            return self.beta0
        mean = self.beta0 * float(d_B.double().mean())
        self.m0 = self.momentum * self.m0 + (1 - self.momentum) * mean
        return max(FLOOR, self.beta0 * (1 + self.alpha * (mean - self.m0)))

    @property
    def given(self) -> tuple[float | None, ...]:
        return (self.beta0,)

    def over(self, steps: int) -> Beta:
        return Dynamic(self.beta0, self.alpha, self.momentum)  # a run's state is its own

    def state_dict(self) -> dict[str, float]:
        return {"m0": self.m0}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.m0 = state["m0"]
