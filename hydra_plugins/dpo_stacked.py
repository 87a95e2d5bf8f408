"""Hydra's launcher of stacked sweeps: hydra/launcher=stacked. (Hydra takes plugins from this package only.)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.plugins.launcher import Launcher


class StackedLauncher(Launcher):
    """Trains jobs that differ in beta, loss, seed or learning rate alone in one batch, `at_once` of them.

    Their adapters must be LoRA without dropout; every other job runs by itself.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """What Hydra hands over; the task function is a `dpo.jobs.Worker`."""
        self.worker = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        """Run all jobs, given as ["+job=<number>"]; their results are their directories."""
        numbers = [int(overrides[0].partition("=")[2]) for overrides in job_overrides]
        self.worker.together(numbers, self.at_once)
        return []
