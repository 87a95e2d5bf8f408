"""What a timed process says about itself, as one JSON file."""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path
from typing import Any


def since_start() -> float:
    """Seconds since this process was started, interpreter and imports included."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    started = ticks / os.sysconf("SC_CLK_TCK")
    return float(Path("/proc/uptime").read_text().split()[0]) - started


class Stopwatch:
    """Ends of steps and their losses, which are told run by run whatever order the steps of several runs ended in."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.by_run: dict[int, list[float]] = {}
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.first_step = 0.0

    @property
    def losses(self) -> list[float]:
        """All of the first run, then all of the next."""
        return [loss for _, losses in sorted(self.by_run.items()) for loss in losses]

    def step(self) -> None:
        """A step has ended; a GPU has done what it was given."""
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()
        if not self.ends:
            self.first_step = since_start()
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def loss(self, value: float, run: int = 0) -> None:
        """What a step of the run of this number lost."""
        self.by_run.setdefault(run, []).append(value)

    def write(self, path: Path, **more: Any) -> None:
        """Seconds between steps and to the first, peak memory in MB (the process's, or the GPU's), total seconds."""
        seconds = [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]
        cpu = [b - a for a, b in zip(self.cpu, self.cpu[1:], strict=False)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if self.device != "cpu":
            import torch

            peak = torch.cuda.max_memory_allocated() / 2**20
        result = {
            "step_seconds": seconds,
            "cpu_seconds": cpu,
            "first_step": self.first_step,
            "peak_mb": peak,
            "total": since_start(),
        }
        path.write_text(json.dumps(result | {"losses": self.losses} | more))
