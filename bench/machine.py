"""What the numbers were measured on: the machine in general terms, versions, and its matrix-product peak."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets")


def facts() -> dict[str, Any]:
    """CPU model, cores, memory, system; never a host's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": model, "cores": os.cpu_count(), "memory_gb": round(gigabytes, 1), "system": platform.system()}


def versions() -> dict[str, str]:
    """Python and what both sides are made of."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def peak(dtype: str) -> float:
    """GFLOP/s of the fastest of several large matrix products."""
    import torch

    best = 0.0
    for m, k, n in ((2048, 2048, 2048), (1024, 4096, 1024), (512, 4096, 4096)):
        a, b = torch.randn(m, k).to(getattr(torch, dtype)), torch.randn(k, n).to(getattr(torch, dtype))
        for _ in range(6):
            begin = time.perf_counter()
            a @ b
            best = max(best, 2e-9 * m * k * n / (time.perf_counter() - begin))
    return best


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps({name: peak(name) for name in ("float32", "bfloat16")}))
