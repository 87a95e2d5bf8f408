"""Each side of a case in a process of its own, and what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cases import BETAS, Case
from bench.material import model_folder

CACHE = Path(os.environ.get("DPO_CACHE", "outputs/cache"))


def timed(module: str, arguments: list[str], threads: int | None = None) -> dict[str, Any]:
    """Run a side's process; what it wrote, and its wall-clock seconds from start to exit as `process`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        environment = os.environ | {
            "HF_DATASETS_CACHE": folder,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "WANDB_MODE": "disabled",
        }
        environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        given = [a.replace("OUT", str(out)).replace("CACHE", f"{folder}/cache") for a in arguments]
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", module, *given], env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - begin
        if done.returncode:
            raise RuntimeError(f"{module} {given[0]} failed:\n{done.stderr[-3000:]}")
        return json.loads(out.read_text()) | {"process": seconds}


def theirs(case: Case, settings: dict[str, Any], threads: int | None = None) -> dict[str, Any]:
    """TRL's side: one process per beta."""
    model = str(model_folder(case, CACHE))
    betas = BETAS[: case.betas] if case.betas > 1 else (0.1,)
    runs = [timed("bench.theirs", [case.name, model, "OUT", json.dumps(settings), str(b)], threads) for b in betas]
    return joined(runs)


def ours(case: Case, cache: str = "CACHE", settings: Sequence[str] = ()) -> dict[str, Any]:
    """Our side: one process, also for a sweep; with an empty cache of its own unless one is given."""
    return timed("bench.ours", [case.name, str(model_folder(case, CACHE)), cache, "OUT", *settings])


def joined(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One result of the processes of a sweep."""
    return runs[0] | {
        "losses": [x for run in runs for x in run["losses"]],
        "process": sum(run["process"] for run in runs),
        "peak_mb": max(run["peak_mb"] for run in runs),
    }


def peaks() -> dict[str, Any]:
    """GFLOP/s of this machine's matrix products now; those of its GPU, with its name, under `gpu` if it has one."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peak.json"
        subprocess.run([sys.executable, "-m", "bench.machine", str(out)], check=True)
        return json.loads(out.read_text())
