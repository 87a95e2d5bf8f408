"""Agents that start at one instant (W&B agents, a Slurm array) and share files: nothing of anybody's is lost."""

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from dpo import rounds
from dpo.json_files import read_json
from dpo.launch import keep_record
from dpo.sweep import Job

FORK = multiprocessing.get_context("fork")
AGENTS = 4
TIMES = int(os.environ.get("TIMES", 3))
"""How often; `make agents` takes 50."""


def at_one_instant(work: list[Callable[[], None]]) -> None:
    """Each in a process of its own, all let go at the same moment."""
    gate = FORK.Barrier(len(work))

    def go(action: Callable[[], None]) -> None:
        gate.wait()
        action()

    processes = [FORK.Process(target=go, args=(action,)) for action in work]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def sweep(folder: Path, number: int) -> SimpleNamespace:
    """What `keep_record` reads of a sweep of one job."""
    job = Job(f"{number:08x}", f"seed{number}", (), {"seed": str(number)}, {})
    return SimpleNamespace(folder=folder, jobs=[job], name="beta", question="")


@pytest.mark.parametrize("time", range(TIMES))
def test_no_job_of_agents_at_one_instant_is_lost(time: int, tmp_path: Path) -> None:
    """sweep.json has the jobs of all of them."""
    folder = tmp_path / "beta"
    at_one_instant([lambda n=n: keep_record(sweep(folder, n)) for n in range(AGENTS)])
    assert sorted(job["id"] for job in read_json(folder / "sweep.json")["jobs"]) == [f"{n:08x}" for n in range(AGENTS)]
    shutil.rmtree(folder)


def test_rounds_of_commands_at_one_instant_are_not_lost(tmp_path: Path) -> None:
    """The longer list stays, whoever comes last."""
    path = tmp_path / "rounds.json"
    lists = [[{"round": n} for n in range(1, length + 1)] for length in (1, 2, 3, 4)]
    at_one_instant([lambda done=done: rounds.keep(path, done) for done in lists])
    assert read_json(path)["rounds"] == lists[-1]
