"""Small sweeps for tests, in this process or in one of their own that can be killed or made to fail."""

import os
import signal
from pathlib import Path

from dpo.records import RunDir

from .conftest import SMALL
from .processes import ROOT, Python

SETTINGS = [*SMALL, "train.batch_size=4", "adapter=lora_qv", "adapter.dropout=0.1"]
"""Runs of a second in which seed and beta change every row."""

PLANTED = """
import math, os, signal, sys
import torch
import dpo.loop
from dpo.__main__ import main
honest, faults = dpo.loop.optimizer_step, dict(item.split('=') for item in sys.argv[1].split(',') if item)
def step(trainee, optimizer, parameters, indices, number, *rest):
    fault = faults.get(str(trainee.seed)) if number == 4 else None
    if fault == 'raise': raise RuntimeError('planted')
    if fault == 'kill': os.kill(os.getpid(), signal.SIGKILL)
    if fault == 'memory': torch.empty(1 << 60, dtype=torch.uint8)
    values = yield from honest(trainee, optimizer, parameters, indices, number, *rest)
    return values | {'loss': math.nan} if fault == 'nan' else values
dpo.loop.optimizer_step = step
sys.exit(main(sys.argv[2:]))
"""
"""The dpo command with faults at step 4 of the runs with given seeds: "1=raise,2=nan,3=kill,4=memory"."""


def command(cache: Path, root: Path, *overrides: str) -> list[str]:
    """`dpo train -m` with the small settings."""
    return ["train", "-m", *SETTINGS, f"cache_root={cache}", f"output_root={root}", *overrides]


def start(arguments: list[str], faults: str = "") -> Python:
    """The command in a process of its own."""
    return Python(PLANTED, faults, *arguments, env=os.environ | {"PYTHONPATH": str(ROOT)})


def finish(arguments: list[str], faults: str = "") -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command."""
    process = start(arguments, faults)
    out, err = process.communicate()
    return process.returncode, out, err


def kill(process: Python) -> None:
    """SIGKILL, and wait until it is gone."""
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def states(folder: Path) -> dict[int, str]:
    """The state of each run of a sweep by its seed."""
    import yaml

    from dpo.run_folders import state

    runs = [RunDir(path.parent) for path in folder.glob("*/status.json")]
    return {yaml.safe_load(run.config.read_text())["seed"]: state(run) for run in runs if run.config.exists()}
