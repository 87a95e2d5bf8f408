"""Folders of runs: which runs lie there, which of them counts, and how each stands."""

from __future__ import annotations

import os
from pathlib import Path

from dpo.interrupt import KILLED
from dpo.json_files import Damaged
from dpo.locks import held
from dpo.records import RunDir


def state(run: RunDir) -> str:
    """status.json's state; "interrupted" where it says running and no process holds the run's lock, "unreadable" where
    it cannot be read."""
    try:
        said = str(run.status()["state"])
    except Damaged:
        return "unreadable"
    return "interrupted" if said == "running" and not held(run.lock) else said


def reason(run: RunDir) -> str:
    """Why a run is not done: the error it failed with, or what interrupted it; empty for any other state."""
    said = state(run)
    if said == "interrupted":
        return str(run.status().get("cause", KILLED))
    return str(run.status().get("error", "")) if said == "failed" else ""


def find_runs(root: Path) -> list[RunDir]:
    """Every run directory at or below `root`, by name: it has a status.json, or has lost it and has run.yaml and rows.

    What a folder with a leading dot holds was set aside or is being copied, and does not count.
    """
    found = []
    for folder, inside, files in os.walk(root):
        names = {*inside, *files}
        if "status.json" in names or {"run.yaml", "metrics.jsonl"} <= names:
            found.append(RunDir(Path(folder)))
        inside[:] = [name for name in inside if not name.startswith(".") and name not in ("checkpoint", "pairs")]
    return sorted(found, key=lambda run: run.path)


def run_of(folder: Path, run_id: str, name: str) -> tuple[RunDir, list[Path]]:
    """(the directory of a job in a sweep's folder, copies of it that do not count).

    A directory is a job's by the id that ends its name, whatever stands before it. Of several the finished one counts,
    then the one that is called as the job is; of none, the job's is still to be made.
    """
    own = folder / f"{name or 'run'}-{run_id}"
    found = sorted(path for path in folder.glob(f"*-{run_id}") if path.is_dir() and not path.name.startswith("."))
    if len(found) > 1:
        found.sort(key=lambda path: (not says_done(path), path != own))
    return RunDir(found[0] if found else own), found[1:]


def says_done(path: Path) -> bool:
    """Whether a run directory's status.json can be read and says done."""
    try:
        return RunDir(path).status()["state"] == "done"
    except Damaged:
        return False
