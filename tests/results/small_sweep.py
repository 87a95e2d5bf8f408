"""Real small runs for notebooks and pages: trained here, in seconds, by the runner itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpo.config import load
from dpo.records import RunDir
from dpo.run import run
from tests.conftest import SMALL

NASTY = '<script>document.title = \'owned\'</script> **bold** `x` | <img src="http://example.org/x" onerror="alert(1)">'
"""A completion that tries everything."""


def write_pairs(path: Path, count: int) -> Path:
    """Pairs whose answers differ in length either way, a file of them."""
    rows = [
        {"id": f"{path.stem}-{i}", "prompt": f"Say {path.stem} {i}", "chosen": "yes" * (1 + i % 3)}
        | {"rejected": "no" * (1 + i * 7 % 5)}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


OFFLINE = """
import socket
for name in ("connect", "bind", "connect_ex"):
    def guarded(self, address, kept=getattr(socket.socket, name)):
        if self.family != socket.AF_UNIX:
            raise OSError(f"no network here: {address}")
        return kept(self, address)
    setattr(socket.socket, name, guarded)
"""
"""A sitecustomize for kernels: a socket that is not a file of this machine is an error."""


def without_network(site: Path, patch: pytest.MonkeyPatch) -> None:
    """Kernels that start while `patch` holds cannot open a network socket."""
    site.mkdir()
    (site / "sitecustomize.py").write_text(OFFLINE)
    patch.setenv("PYTHONPATH", str(site))


def train(root: Path, cache: Path, *overrides: str) -> RunDir:
    """One finished small run below `root`."""
    return run(load([*SMALL, f"cache_root={cache}", f"output_root={root}", *overrides]))[0]


def beta_sweep(root: Path, cache: Path) -> Path:
    """runs/ below `root`: two betas, two seeds, one of whose answers is NASTY; a failed run; a sweep.json."""
    folder = root / "runs"
    files = [write_pairs(root / f"{name}.jsonl", count) for name, count in (("train", 24), ("eval", 15))]
    data = ["dataset=files", f"dataset.path={files[0]}", f"dataset.eval_path={files[1]}"]
    made = [train(root, cache, *data, f"beta.value={beta}", f"seed={seed}") for beta in (0.1, 0.5) for seed in (0, 1)]
    for i, directory in enumerate(made):
        rows = list(directory.rows(directory.compare))
        rows[0] |= {"prompt": NASTY} | ({"dpo": NASTY} if i == 0 else {})
        directory.compare.write_text("".join(json.dumps(row) + "\n" for row in rows))
    broken = train(root, cache, *data, "beta.value=0.5", "seed=2")
    broken.set_status("failed", error=f"FloatingPointError: {NASTY}", traceback="...")
    jobs = [{"id": r.path.name[-8:], "name": r.path.name[:-9], "settings": {}} for r in (*made, broken)]
    text = "Does <b>beta</b> matter? Budget: 5 runs."
    (folder / "sweep.json").write_text(json.dumps({"sweep": "runs", "question": text, "jobs": jobs}))
    return folder
