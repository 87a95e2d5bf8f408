"""What jobs of one process share, and that sharing changes nothing and keeps nothing that grows."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dpo import shared
from dpo.reproduce import rows as rows_without_time
from dpo.run import run

from .conftest import SMALL


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins as a process does."""
    monkeypatch.setattr(shared, "KEPT", {})


def test_a_value_is_made_once_and_the_oldest_is_let_go() -> None:
    """At most two are kept, the one used last longest."""
    made = []
    for key in "abacab":
        shared.remember("kind", key, lambda key=key: made.append(key), at_most=2)
    assert made == ["a", "b", "c", "b"]


def test_a_model_is_loaded_once_and_each_job_trains_its_own_copy() -> None:
    """Changing one copy changes neither the master nor the next copy; tied weights stay tied."""
    loads = []

    def load() -> torch.nn.Module:
        loads.append(1)
        model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)})
        model["b"].weight = model["a"].weight
        return model

    first = shared.own_copy("x", load)
    with torch.no_grad():
        first["a"].weight.zero_()
    second = shared.own_copy("x", load)
    assert len(loads) == 1 and second["a"].weight.abs().sum() > 0 and second["a"].weight is second["b"].weight


def test_a_large_model_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded again, and the caller gets it itself."""
    monkeypatch.setattr(shared, "MODEL_BYTES", 10)
    loads = [torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)]
    given = list(loads)
    assert shared.own_copy("x", lambda: loads.pop(0)) is given[0]
    assert shared.own_copy("x", lambda: loads.pop(0)) is given[1]


def test_a_second_job_loads_no_model(small, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its rows are those of a process of its own."""
    import dpo.start

    alone = rows_without_time(run(small("seed=3"))[0])
    monkeypatch.setattr(shared, "KEPT", {})
    run(small("seed=2"))

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("paid twice")

    monkeypatch.setattr(dpo.start, "load_model", forbidden)
    again = run(small("seed=3", f"output_root={small().output_root}/again"))[0]
    assert rows_without_time(again) == alone


MEMORY = """
import sys
from dpo.jobs import Worker
from dpo.sweep import read
sweep = read(None, sys.argv[1:])
worker = Worker(sweep.folder, sweep.jobs, False, None)
for job in sweep.jobs:
    worker.work(job)
    print(int(open('/proc/self/statm').read().split()[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_at_job_ten_is_that_of_job_one(cache: Path, tmp_path: Path) -> None:
    """Resident pages of the process within 10 %."""
    arguments = [*SMALL, "adapter=lora_qv", f"cache_root={cache}", f"output_root={tmp_path}", "seed=range(0,10)"]
    code = [sys.executable, "-c", MEMORY, *arguments]
    done = subprocess.run(code, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    pages = [int(line) for line in done.stdout.split()]
    assert len(pages) == 10 and pages[9] <= 1.1 * pages[0]
