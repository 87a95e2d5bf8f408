"""Which questions some runs can answer: each notebook of analysis/ names one of these in its metadata."""

from __future__ import annotations

from collections.abc import Callable

from dpo.results.figures.length import DOSE
from dpo.results.frames import Runs


def beta_swept(runs: Runs) -> bool:
    """At least two values of beta that no other setting brought with it."""
    return "beta.value" in runs.done.axes()


def lengths_differ(runs: Runs) -> bool:
    """Evaluation pairs whose answers differ in length by different amounts, or a length bias put in on purpose."""
    return any("eval/length/slope" in run.last for run in runs.done)


def losses_vary(runs: Runs) -> bool:
    """At least two losses, or two settings of one."""
    return any(key.startswith("loss.") for key in runs.done.axes())


def arms_of_another_kind(runs: Runs) -> bool:
    """Arms that differ in something else than beta, the loss or the dose of a length bias."""
    return len(runs.done.arms()) > 1 and not (beta_swept(runs) or losses_vary(runs) or DOSE in runs.done.axes())


def has_margins(runs: Runs) -> bool:
    """Held-out pairs with margins that may be read as probabilities."""
    return any("eval/calibration/ece" in run.last for run in runs.done)


def has_answers(runs: Runs) -> bool:
    """Answers recorded side by side."""
    return any(len(run.compare()) for run in runs.done)


def several_finished(runs: Runs) -> bool:
    """Two finished runs or more; the card of a single one says what is to be said."""
    return len(runs.done) > 1


def any_finished(runs: Runs) -> bool:
    """One finished run."""
    return len(runs.done) > 0


FITS: dict[str, Callable[[Runs], bool]] = {
    rule.__name__: rule
    for rule in (
        beta_swept,
        lengths_differ,
        losses_vary,
        arms_of_another_kind,
        has_margins,
        has_answers,
        several_finished,
        any_finished,
    )
}
