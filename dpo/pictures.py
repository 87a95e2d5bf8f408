"""A run's picture, drawn before the run is called done, and again where a finished run has lost it."""

from __future__ import annotations

from dpo.progress import say
from dpo.records import RunDir


def draw(run: RunDir) -> None:
    """The reward curves; a picture that fails is no reason to call a run failed."""
    from dpo.results.figures import save_reward_curves

    try:
        save_reward_curves(run)
    except Exception as error:
        say(f"{run.path.name}: no curves ({error}); the same command draws them")


def draw_missing(run: RunDir) -> None:
    """The reward curves of a finished run that has none."""
    if not run.curves.exists():
        draw(run)
