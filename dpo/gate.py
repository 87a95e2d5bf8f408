"""The start gate: before any step policy and reference are one model, and the first evaluation must show it."""

from __future__ import annotations

from dpo.logps import PairLogps
from dpo.losses.base import Loss
from dpo.metrics import FP32_TIE, PairRows, difference, log_ratios, margins

ROUNDING = {"fp32": FP32_TIE, "bf16": 2**-8}
"""How large log-ratios of equal models may be, relative to the sizes of the log-probs.

In bf16 its own resolution, which bounds the noise that runs measure: an adapter that changes nothing (seen: DoRA)
and weights of another dtype round in other places than a batch of another size does.
"""


class StartError(RuntimeError):
    """The first evaluation is not that of a policy that equals its reference."""


def reference_logps(rows: PairRows) -> PairLogps:
    """The reference's log-probs of the rows."""
    v = rows.values
    return PairLogps(v["chosen_ref_logp"], v["rejected_ref_logp"], v["chosen_tokens"], v["rejected_tokens"])


def check(rows: PairRows, loss: Loss, beta: float, precision: str, reference_is_start: bool) -> str:
    """A line that says so where `rows`, evaluated before the first step, are those of policy = reference.

    Raises StartError where they are not. Both answers' log-ratios must be rounding: the mean of |c| + |r|
    at most ROUNDING times the mean size of the log-probs. The loss must be `loss.at_reference` to 1e-5,
    relative where that is above 1, and to ten times what rounding did to the rewards, which no usual loss
    multiplies by more. A reference that differs on purpose gets the same facts as a note.
    """
    if rows.own_score:
        return "start gate: this loss reads no reference, so the first evaluation has no value it must show"
    c_B, r_B = log_ratios(rows)
    moved, scale = float((c_B.abs() + r_B.abs()).mean()), float(difference(rows)[1].mean())
    allowed = ROUNDING[precision] * scale
    mean, expected = float(rows.values["loss"].mean()), loss.at_reference(beta, reference_logps(rows))
    facts = f"mean margin {float(margins(rows).mean()):.3g} (at the reference 0), "
    facts += f"log-ratios of {moved:.3g} nats (rounding: up to {allowed:.2g})"
    slack = 0.0
    if expected is not None:
        facts = f"loss {mean:.6g} (at the reference {expected:.6g}), {facts}"
        slack = max(1.0, abs(expected)) * (1e-5 + 10 * beta * moved)
    if not reference_is_start:
        return f"note: the reference is not the policy's start: {facts}"
    if not (moved <= allowed and (expected is None or abs(mean - expected) <= slack)):
        raise StartError(f"the data pipeline or the reference is wrong: before the first step {facts}")
    return f"start gate passed: {facts}"
