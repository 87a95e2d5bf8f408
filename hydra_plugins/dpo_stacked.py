"""Hydra's launcher of stacked sweeps: hydra/launcher=stacked. (Hydra takes plugins from this package only.)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.plugins.launcher import Launcher


class StackedLauncher(Launcher):
    """Trains jobs that differ in beta, loss, seed or learning rate alone on one base, `at_once` of them in one batch.

    Their adapters must be LoRA without dropout; every other job runs by itself. With `bit_equal` those on a CPU take
    turns instead, since a joint batch rounds in other places than a run alone.
    """

    def __init__(self, at_once: int, bit_equal: bool) -> None:
        self.at_once, self.bit_equal = at_once, bit_equal

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """What Hydra hands over; the task function is a `dpo.jobs.Worker`."""
        self.worker = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        """Run all jobs, given as ["+job=<number>"]; their results are their directories."""
        numbers = [int(overrides[0].partition("=")[2]) for overrides in job_overrides]
        self.worker.together(numbers, self.at_once, self.bit_equal)
        return []
