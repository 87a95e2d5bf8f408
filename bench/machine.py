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


def peak(dtype: str, device: str = "cpu") -> float:
    """GFLOP/s of the fastest of several large matrix products."""
    import torch

    best, scale = 0.0, 1 if device == "cpu" else 4
    for shape in ((2048, 2048, 2048), (1024, 4096, 1024), (512, 4096, 4096)):
        m, k, n = (scale * side for side in shape)
        a, b = (torch.randn(*size, device=device).to(getattr(torch, dtype)) for size in ((m, k), (k, n)))
        for _ in range(6):
            begin = time.perf_counter()
            a @ b
            if device != "cpu":
                torch.cuda.synchronize()
            best = max(best, 2e-9 * m * k * n / (time.perf_counter() - begin))
    return best


def peaks(device: str) -> dict[str, float]:
    """The peak in both precisions."""
    return {name: peak(name, device) for name in ("float32", "bfloat16")}


def main(out: str) -> None:
    """Write the peaks of the CPU and, where there is one, of the GPU with its model's name."""
    import torch

    found: dict[str, Any] = dict(peaks("cpu"))
    if torch.cuda.is_available():
        found["gpu"] = {"name": torch.cuda.get_device_name(), **peaks("cuda")}
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
