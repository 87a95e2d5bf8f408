"""Run directories as pandas frames: one row per run, per step, per pair. Reads plain files: no trainer, no Hydra.

runs = load("outputs/beta")          # every run below a folder, whatever its state
runs.runs                            # a row per run: config.*, eval/*, start/eval/*, flag/*, state, ...
runs.steps                           # a row per (run, kind, step)
runs.pairs                           # a row per (run, pair id) of the last evaluation
load_run("outputs/runs/x").config    # one run
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from dpo.config import identity
from dpo.errors import UsageError, first_line
from dpo.records import RunDir, find_runs
from dpo.results import measures
from dpo.results.arms import Arm, arms, axes, varied
from dpo.results.reading import (
    flatten,
    is_comparison,
    is_json_object,
    is_metric_row,
    is_sample,
    natural,
    read_config,
    read_file,
    read_rows,
)

FILES = ("provenance", "summary", "audit")


@dataclass(frozen=True)
class Run:
    """One run directory, read. `rows` are the rows of metrics.jsonl, `notes` what could not be read, in words."""

    path: Path
    status: dict[str, Any]
    config: dict[str, Any]
    provenance: dict[str, Any]
    summary: dict[str, Any]
    audit: dict[str, Any]
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @cached_property
    def id(self) -> str:
        """The identity that ends the directory's name; of a renamed directory, computed from its configuration."""
        found = re.search(r"(?:^|-)([0-9a-f]{8})$", self.name)
        return found[1] if found else identity(self.config)

    @property
    def state(self) -> str:
        """pending, running, done or failed, as status.json says; unreadable where it cannot be read."""
        return str(self.status.get("state", "unreadable"))

    @property
    def error(self) -> str:
        """What a failed run failed with, in a line."""
        return str(self.status.get("error", ""))

    @property
    def kind(self) -> str:
        """policy, or reward for a reward model."""
        return str(self.provenance.get("kind", "policy"))

    @property
    def complete(self) -> bool:
        """Whether the run is done, with a configuration and evaluations that could be read."""
        return self.state == "done" and bool(self.config) and bool(self.last)

    @property
    def seed(self) -> Any:
        """The run's seed; None where its configuration could not be read."""
        return self.config.get("seed")

    @property
    def sweep(self) -> str:
        """The folder that the run lies in."""
        return self.path.parent.name

    @cached_property
    def group(self) -> str:
        """Hash of every setting that can change a result but the seed: equal for the seeds of one arm."""
        return identity(self.config | {"seed": None})

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The configuration with dotted keys; lists as JSON text."""
        return dict(flatten(self.config))

    @property
    def own_score(self) -> bool:
        """Whether rewards are a score of the policy's own (a loss without a reference) or of a reward model."""
        return self.kind == "reward" or bool(self.provenance.get("loss", {}).get("own_score", measures.guess(self)))

    def steps(self) -> pd.DataFrame:
        """A row per optimizer step and per evaluation, as logged: kind, step, and the keys of docs/metrics.md."""
        return pd.DataFrame([{"kind": row["kind"], "step": row["step"]} | row for row in self.rows])

    def evaluations(self) -> pd.DataFrame:
        """The evaluation rows alone, in order."""
        return pd.DataFrame(self._evaluations)

    @cached_property
    def _evaluations(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["kind"] == "eval"]

    @property
    def first(self) -> dict[str, Any]:
        """The first evaluation's row, {} where there is none."""
        return self._evaluations[0] if self._evaluations else {}

    @property
    def last(self) -> dict[str, Any]:
        """The last evaluation's row, {} where there is none."""
        return self._evaluations[-1] if self._evaluations else {}

    def pairs(self, step: int | None = None) -> pd.DataFrame:
        """A row per evaluation pair at `step`, by default at the last evaluation, with the columns of `measures.add`.

        Raises UsageError for a step without a table. Each table is read once; change a copy, not what this returns.
        """
        directory = RunDir(self.path)
        logged = {row["step"]: row for row in self._evaluations}
        steps = [k for k in directory.saved_steps() if k in logged]
        step = steps[-1] if step is None and steps else step
        if step not in steps:
            there = ", ".join(map(str, steps)) or "none"
            raise UsageError(f"{self.path}: no table of pairs at step {step}; there are: {there}")
        if step not in self._tables:
            start = read_pairs(directory, steps[0]) if steps[0] == 0 else None
            tie = logged[step].get("eval/tie", 1e-6)
            self._tables[step] = measures.add(read_pairs(directory, step), tie, self.own_score, start)
        return self._tables[step]

    @cached_property
    def _tables(self) -> dict[int, pd.DataFrame]:
        return {}

    def samples(self) -> pd.DataFrame:
        """This run's answers: step, decoding, prompt, completion, tokens, ended; is_json; `draw` counts those
        of one prompt. Read once, like `pairs`."""
        return self._samples

    @cached_property
    def _samples(self) -> pd.DataFrame:
        frame = pd.DataFrame(read_rows(RunDir(self.path).samples, is_sample)[0])
        if len(frame):
            frame["draw"] = frame.groupby(["step", "decoding", "prompt"]).cumcount()
            frame["is_json"] = [is_json_object(text) for text in frame["completion"]]
        return frame

    def compare(self) -> pd.DataFrame:
        """Base, SFT and DPO answers to the same prompts."""
        return pd.DataFrame(read_rows(RunDir(self.path).compare, is_comparison)[0])

    def row(self) -> dict[str, Any]:
        """The run as a row of `Runs.runs`."""
        facts: dict[str, Any] = {
            "run": self.name,
            "id": self.id,
            "path": str(self.path),
            "state": self.state,
            "error": self.error,
        }
        facts |= {"kind": self.kind, "sweep": self.sweep, "group": self.group, "seed": self.seed}
        facts |= {"notes": "; ".join(self.notes), "step": self.last.get("step")}
        facts |= {f"flag/{name}": value for name, value in self.summary.get("flags", {}).items()}
        facts |= {k: v for k, v in self.last.items() if k.startswith("eval/")}
        facts |= {f"start/{k}": v for k, v in self.first.items() if k.startswith("eval/")}
        return facts | {f"config.{key}": value for key, value in self.flat.items()}


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


def load_run(path: str | Path) -> Run:
    """One run directory; UsageError where it is none. Files that cannot be read become notes."""
    folder = Path(path)
    directory = RunDir(folder)
    if not (folder / "status.json").is_file() and not directory.config.is_file():
        raise UsageError(f"{folder}: not a run directory (no status.json and no run.yaml there)")
    notes: list[str] = []
    status = read_file(folder / "status.json", notes) or {}
    values = {name: read_file(folder / f"{name}.json", notes) or {} for name in FILES}
    rows, faults = read_rows(directory.metrics, is_metric_row)
    config = read_config(directory.config, notes)
    return Run(folder, status, config, **values, rows=tuple(rows), notes=(*notes, *faults))


def load(path: str | Path) -> Runs:
    """Every run at or below a folder, in whatever state, by name; a run that lies there twice counts once.

    Raises UsageError where there is no such folder, or nothing in it.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such directory")
    found = [load_run(directory.path) for directory in find_runs(folder)]
    kept: dict[str, Run] = {}
    notes = []
    for run in sorted(found, key=lambda run: (run.state != "done", str(run.path))):
        if run.id in kept:
            notes.append(f"{run.path}: the same run as {kept[run.id].path}, counted once")
        else:
            kept[run.id] = run
    pending = tuple(jobs_without_run(folder, kept))
    if not kept and not pending:
        raise UsageError(f"{folder}: no runs here; `dpo sweep` or `dpo train` makes some")
    notes += [f"{run.name}: {note}" for run in kept.values() for note in run.notes]
    if pending:
        notes.append(f"{len(pending)} jobs have not begun: {', '.join(name for _, name, _ in pending)}")
    return Runs(folder, tuple(sorted(kept.values(), key=lambda run: natural(str(run.path)))), tuple(notes), pending)


def jobs_without_run(folder: Path, kept: Mapping[str, Run]) -> Iterator[tuple[str, str, str]]:
    """(sweep, name, id) of every job that a sweep.json at or below the folder lists and that has no directory."""
    for path in sorted(folder.rglob("sweep.json")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        said: list[str] = []
        for job in (read_file(path, said) or {}).get("jobs", []):
            if job["id"] not in kept:
                yield path.parent.name, job["name"], job["id"]


def read_pairs(directory: RunDir, step: int) -> pd.DataFrame:
    """A per-pair table; UsageError where its file is broken."""
    try:
        frame: pd.DataFrame = directory.pair_frame(step)
    except (OSError, ValueError) as error:
        raise UsageError(f"{directory.pairs(step)}: cannot be read ({first_line(error)})") from error
    return frame
