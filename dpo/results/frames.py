"""Run directories as pandas frames: one row per run, per step, per pair. Reads plain files: no trainer, no Hydra.

runs = load("outputs/beta")          # every run below a folder, whatever its state
runs.runs                            # a row per run: config.*, eval/*, start/eval/*, flag/*, state, ...
runs.steps                           # a row per (run, kind, step)
runs.pairs                           # a row per (run, pair id) of the last evaluation
load_run("outputs/runs/x").config    # one run
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from dpo.errors import UsageError
from dpo.interrupt import KILLED
from dpo.locks import held
from dpo.records import RunDir
from dpo.results.arms import Arm, arms, axes, varied
from dpo.results.one_run import Run as Run
from dpo.results.reading import OF_A_FINISHED_RUN, is_job, is_metric_row, natural, read_config, read_file, read_rows
from dpo.run_folders import find_runs

FILES = ("provenance", "summary", "audit")


@dataclass(frozen=True)
class Runs:
    """Runs of a folder, by name. `notes` say in words what was left out or could not be read; `pending` are the jobs of
    a sweep that have no directory yet, as (sweep, name, id)."""

    path: Path
    all: tuple[Run, ...]
    notes: tuple[str, ...] = ()
    pending: tuple[tuple[str, str, str], ...] = ()

    def __iter__(self) -> Iterator[Run]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, name: str) -> Run:
        """The run of this id or name."""
        for run in self.all:
            if name in (run.id, run.name):
                return run
        raise KeyError(name)

    def where(self, keep: Callable[[Run], bool]) -> Runs:
        """The runs that `keep` is true for."""
        return replace(self, all=tuple(run for run in self.all if keep(run)))

    @cached_property
    def done(self) -> Runs:
        """Finished policies: what tables and figures may count."""
        return self.where(lambda run: run.complete and run.kind == "policy")

    @cached_property
    def rewards(self) -> Runs:
        """Finished reward models."""
        return self.where(lambda run: run.complete and run.kind == "reward")

    @cached_property
    def unfinished(self) -> Runs:
        """Every other run."""
        return self.where(lambda run: not run.complete)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row per run: run, id, path, state, error, kind, sweep, group, seed, notes, step, flag/*, eval/* (last
        evaluation), start/eval/* (first), config.*; NaN where a run has no such value."""
        return pd.DataFrame([run.row() for run in self.all])

    @cached_property
    def steps(self) -> pd.DataFrame:
        """A row per (run, kind, step): run, id, state, group, seed, and what was logged."""
        return self._stack(lambda run: run.steps())

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """A row per (run, pair) of the last evaluation: run, run_id, state, group, seed, then `Run.pairs` (its `id` is
        the pair's)."""
        return self._stack(lambda run: run.pairs() if run.last else pd.DataFrame(), "run_id")

    @cached_property
    def samples(self) -> pd.DataFrame:
        """A row per recorded answer of each run."""
        return self._stack(lambda run: run.samples())

    def _stack(self, frame_of: Callable[[Run], pd.DataFrame], id_name: str = "id") -> pd.DataFrame:
        parts = []
        for run in self.all:
            frame = frame_of(run)
            if len(frame):
                facts = {"run": run.name, id_name: run.id, "state": run.state, "group": run.group, "seed": run.seed}
                parts.append(pd.concat([pd.DataFrame([facts] * len(frame), index=frame.index), frame], axis=1))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def varied(self) -> list[str]:
        """Dotted config keys whose values differ among the runs, without the seed and what cannot change a result."""
        return varied(self.all)

    def axes(self) -> list[str]:
        """Those of `varied` that are needed to tell the arms apart: what follows from a chosen class is left out."""
        return axes(self.all)

    def arms(self, *keys: str) -> list[Arm]:
        """Runs that differ in the seed alone, ordered by `keys` first and then by whatever else varies."""
        return arms(self.all, keys)


def near(path: str | Path) -> Path:
    """A folder by its relative path: in the working directory, else in the nearest folder above it that has it.

    A notebook is opened in the folder it lies in, and the runs that it names lie in a folder above. An absolute path,
    and one that is nowhere to be found, is returned as it is.
    """
    folder, here = Path(path).expanduser(), Path.cwd()
    if folder.is_absolute():
        return folder
    return next((above / folder for above in (here, *here.parents) if (above / folder).exists()), folder)


def load_run(path: str | Path) -> Run:
    """One run directory; UsageError where it is none. Files that cannot be read, or are not there, become notes."""
    folder = Path(path)
    directory = RunDir(folder)
    if not os.path.lexists(folder / "status.json") and not directory.config.is_file():
        raise UsageError(f"{folder}: not a run directory (no status.json and no run.yaml there)")
    notes: list[str] = []
    status = read_file(folder / "status.json", notes) or {}
    if not notes and "state" not in status:
        notes.append("status.json names no state" if (folder / "status.json").exists() else "status.json is missing")
    if status.get("state") == "done":
        notes += [f"{name} is missing" for name in OF_A_FINISHED_RUN if not os.path.lexists(folder / name)]
    made, summary, audit = (read_file(folder / f"{name}.json", notes) or {} for name in FILES)
    rows, faults = read_rows(directory.metrics, is_metric_row)
    config = read_config(directory.config, notes)
    if status.get("state") == "running" and not held(directory.lock):
        status = {"state": "interrupted", "cause": KILLED}
    if status.get("state") == "done" and (odd := not_finite(rows)):
        status = {"state": "failed", "error": odd}
    return Run(folder, status, config, made, summary, audit, tuple(rows), said=tuple(dict.fromkeys((*notes, *faults))))


def not_finite(rows: Iterable[Mapping[str, Any]]) -> str:
    """What no evaluation may hold, in a line; empty where all is well. Such a run cannot be done: its weights broke."""
    for row in rows:
        for name, value in row.items() if row["kind"] == "eval" else ():
            if value is None or (isinstance(value, float) and not math.isfinite(value)):
                return f"step {row['step']}: {name} is {value}"
    return ""


def load(path: str | Path) -> Runs:
    """Every run at or below a folder, in whatever state, by name; a run that lies there twice counts once.

    Raises UsageError where there is no such folder, or nothing in it.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such directory, seen from {Path.cwd()}")
    found = [load_run(directory.path) for directory in find_runs(folder)]
    kept: dict[str, Run] = {}
    notes = []
    for run in sorted(found, key=lambda run: (run.state != "done", str(run.path))):
        if run.id in kept:
            notes.append(f"{run.path}: the same run as {kept[run.id].path}, counted once")
        else:
            kept[run.id] = run
    finished = [run for run in kept.values() if run.state == "done"]
    for what, without in (
        ("pairs", [run for run in finished if not RunDir(run.path).saved_steps()]),
        ("provenance", [run for run in finished if not run.provenance]),
    ):
        if len(without) < len(finished):
            kept |= {run.id: replace(run, lost=what) for run in without}
    pending = tuple(jobs_without_run(folder, kept, notes))
    if not kept and not pending:
        raise UsageError(f"{folder}: no runs here; `dpo sweep` or `dpo train` makes some")
    notes += [f"{run.name}: {note}" for run in kept.values() for note in run.notes]
    if pending:
        notes.append(f"{len(pending)} jobs have not begun: {', '.join(name for _, name, _ in pending)}")
    return Runs(folder, tuple(sorted(kept.values(), key=lambda run: natural(str(run.path)))), tuple(notes), pending)


def jobs_without_run(folder: Path, kept: Mapping[str, Run], notes: list[str]) -> Iterator[tuple[str, str, str]]:
    """(sweep, name, id) of every job that a sweep.json at or below the folder lists and that has no directory."""
    for path in sorted(folder.rglob("sweep.json")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        for job in (read_file(path, notes) or {}).get("jobs", []):
            if is_job(job) and job["id"] not in kept:
                yield path.parent.name, job["name"], job["id"]
