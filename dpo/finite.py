"""Only finite numbers are results: weights, losses or metrics that are not end a run, by name, before they are kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def check_values(values: Mapping[str, float], step: int, kind: str) -> None:
    """Raise FloatingPointError for the first of a row's values that is NaN or infinite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{kind}/{name} is {value} at step {step}; {advice(step)}")


@torch.no_grad()
def check_weights(named: Iterable[tuple[str, Tensor]], step: int) -> None:
    """Raise FloatingPointError for the first trained weight that holds a NaN or an infinity.

    One pass over them and one number for each to the CPU: for evaluations and checkpoints, not for every step.
    """
    if name := broken((name, p) for name, p in named if p.requires_grad):
        raise FloatingPointError(f"the weight {name} is no longer finite at step {step}; {advice(step)}")


@torch.no_grad()
def broken(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinity, or None."""
    names, ends = [], []
    for name, tensor in named:
        if tensor.numel():
            names.append(name)
            ends.append(torch.stack(tensor.aminmax()).double())  # forty times faster on a CPU than isfinite or a norm
    finite = torch.stack(ends).cpu().isfinite().all(1) if ends else torch.ones(0, dtype=torch.bool)
    return None if bool(finite.all()) else names[int(finite.logical_not().nonzero()[0])]


def advice(step: int) -> str:
    """What to change."""
    if step == 0:
        return "nothing is trained yet: the weights it starts from (model, sft.lr) or train.precision are wrong"
    return "lower optim.lr, or set optim.max_grad_norm and optim.warmup_fraction"
