"""Runs as lists show them: everything of a run that can be read, and a sentence for each file that cannot."""

from __future__ import annotations

import math
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpo import terminal
from dpo.errors import UsageError
from dpo.json_files import Damaged, read_object
from dpo.progress import say
from dpo.records import RunDir
from dpo.results.reading import OF_A_FINISHED_RUN, is_job, is_metric_row, read_file, read_rows
from dpo.run_folders import find_runs, reason, run_of, says_done, state
from dpo.terminal import Sheet

SEEN = {"loss": "loss", "margin": "rewards/margins", "accuracy": "rewards/accuracies", "displaced": "displacement"}
"""What lists show of an evaluation: a column's title and the metric."""
RECENT = 65536
"""Bytes at the end of metrics.jsonl that show how a run stands while it grows."""


@dataclass(frozen=True)
class Glance:
    """A run as far as its files can be read; `faults` name those that cannot, in sentences."""

    name: str
    run: RunDir | None
    state: str
    error: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    steps: int | None = None
    job: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def last(self) -> dict[str, Any]:
        """The last evaluation's row, {} where there is none."""
        return next((row for row in reversed(self.rows) if row["kind"] == "eval"), {})

    @property
    def seconds(self) -> float:
        """Seconds that the recorded steps and evaluations took."""
        return math.fsum(number(row, "time/step") + number(row, "time/evaluation") for row in self.rows)

    @property
    def speed(self) -> float:
        """Pairs per second over the last twenty steps, 0 before the first."""
        recent = [number(row, "time/pairs_per_second") for row in self.rows if row["kind"] == "train"][-20:]
        return statistics.mean(recent) if recent else 0.0

    @property
    def left(self) -> float:
        """Seconds that a running run's steps will still take, as its last twenty did."""
        recent = [row for row in self.rows if row["kind"] == "train"][-20:]
        if self.state != "running" or not recent or self.steps is None:
            return 0.0
        return (self.steps - number(recent[-1], "step")) * statistics.mean(number(row, "time/step") for row in recent)

    @property
    def step(self) -> str:
        """The last logged step, of how many."""
        if not self.rows:
            return ""
        return f"{self.rows[-1]['step']}/{self.steps}" if self.steps is not None else str(self.rows[-1]["step"])

    def record(self) -> dict[str, Any]:
        """The run for scripts."""
        facts = {"run": self.name, "id": self.job.get("id") or id_of(self.name), "state": self.state}
        facts |= {"path": str(self.run.path) if self.run else None, "error": self.error, "flags": self.flags}
        facts |= {"step": self.rows[-1]["step"] if self.rows else None, "steps": self.steps}
        facts |= {"seconds": self.seconds, "settings": self.job.get("settings", {}), "faults": self.faults}
        return facts | {"last": {k: v for k, v in self.last.items() if k.startswith("eval/")}}


def id_of(name: str) -> str:
    """The identity that ends a run directory's name, or nothing."""
    found = re.search(r"(?:^|-)([0-9a-f]{8})$", name)
    return found[1] if found else ""


def number(row: dict[str, Any], key: str) -> float:
    """A number of a row; 0 where it has none."""
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def shown(row: dict[str, Any], metric: str) -> str:
    """A metric of an evaluation or a step to four digits; nothing where there is none."""
    value = row.get(f"{row.get('kind')}/{metric}")
    return f"{value:.4f}" if isinstance(value, int | float) else ""


def look(run: RunDir, name: str, job: dict[str, Any] | None = None, whole: bool = True) -> Glance:
    """What can be read of a run; of the rows all, or the last ones alone."""
    faults: list[str] = []
    try:
        run.status()
    except Damaged as damage:
        faults.append(f"status.json {damage.what}")
    said = state(run)
    rows, broken = read_rows(run.metrics, is_metric_row, None if whole else RECENT)
    summary, made = (read_file(run.path / f"{part}.json", faults) or {} for part in ("summary", "provenance"))
    flags, steps = summary.get("flags"), made.get("steps")
    if rows and not (run.path / "status.json").exists():
        faults.append("status.json is missing")
    if said == "done":
        faults += [f"{part} is missing" for part in OF_A_FINISHED_RUN if not (run.path / part).exists()]
        faults += broken
    else:
        faults += [fault for fault in broken if "was cut off" not in fault]  # its next row is being written
    return Glance(
        name,
        run,
        said,
        reason(run),
        rows,
        [flag for flag, up in flags.items() if up] if isinstance(flags, dict) and said == "done" else [],
        steps if isinstance(steps, int) else None,
        job or {},
        [f"{run.path}: {fault}" for fault in faults],
    )


@dataclass(frozen=True)
class Listing:
    """The runs of a folder, and what has to be said of it: damaged files and copies, a sentence each."""

    runs: list[Glance]
    remarks: list[str]

    @property
    def counts(self) -> str:
        """How many are in which state."""
        ends = [run.state for run in self.runs]
        return ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))


def listing(folder: Path, whole: bool = True) -> Listing:
    """Every job of a sweep, or every run at or below another folder. Raises UsageError where there is neither."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such directory")
    record = folder / "sweep.json"
    runs, remarks = jobs_of(record, whole) if os.path.lexists(record) else ([], [])
    if not runs:
        found, remarks_of_copies = without_copies(find_runs(folder))
        runs = [look(run, str(run.path.relative_to(folder)), whole=whole) for run in found]
        remarks += remarks_of_copies
    if not runs:
        raise UsageError("; ".join([f"{folder}: no runs here", *remarks, "`dpo sweep` or `dpo train` makes some"]))
    return Listing(runs, [*remarks, *(fault for run in runs for fault in run.faults)])


def jobs_of(record: Path, whole: bool) -> tuple[list[Glance], list[str]]:
    """(a look at every job that a sweep.json lists, remarks); no job where the file cannot be read."""
    folder = record.parent
    try:
        entries = read_object(record).get("jobs")
    except (Damaged, FileNotFoundError) as error:
        what = error.what if isinstance(error, Damaged) else "is a broken link"
        return [], [f"{record}: {what}; shown are the runs that lie there"]
    runs, remarks = [], []
    for place, job in enumerate(entries if isinstance(entries, list) else [], 1):
        if not is_job(job):
            remarks.append(f"{record}: job {place} is damaged and left out")
            continue
        run, copies = run_of(folder, job["id"], job["name"])
        remarks += [ignored(copy, run.path) for copy in copies]
        there = run.path.is_dir()
        runs.append(look(run, run.path.name, job, whole) if there else Glance(run.path.name, None, "pending", job=job))
    if whole:
        ids = {run.job["id"]: run for run in runs}
        nested = [run.path for run in find_runs(folder) if run.path.parent != folder]
        remarks += [ignored(path, folder / ids[i].name) for path in nested if (i := id_of(path.name)) in ids]
    return runs, remarks


def without_copies(runs: list[RunDir]) -> tuple[list[RunDir], list[str]]:
    """(runs, remarks on copies): of directories of one id beside or inside one another, the finished one counts."""
    inside = {run.path: {*run.path.parents} for run in runs}
    kept: dict[Any, RunDir] = {}
    remarks = []
    for run in sorted(runs, key=lambda run: (not says_done(run.path), len(run.path.parts), run.path)):
        outer = [path for path in inside if path in inside[run.path]]
        place = min(outer, key=lambda path: len(path.parts)).parent if outer else run.path.parent
        first = kept.setdefault((place, id_of(run.path.name) or run.path), run)
        if first is not run:
            remarks.append(ignored(run.path, first.path))
    return sorted(kept.values(), key=lambda run: run.path), remarks


def ignored(copy: Path, run: Path) -> str:
    """The sentence for a copy that does not count."""
    return f"{copy}: has the id of {run.name}, which counts in its place; ignored"


def say_remarks(remarks: Sequence[str]) -> None:
    """Remarks on stderr, a line each."""
    for remark in remarks:
        say(f"note: {remark}")


def list_runs(root: Path, json: bool = False) -> None:
    """A line for each run below `root`: state, steps, and its last evaluation; or all of them as JSON."""
    found = listing(root)
    if json:
        terminal.as_json({"directory": str(root), "runs": [run.record() for run in found.runs]})
    else:
        sheet = Sheet("", ("run", "state", "step", *SEEN, "flags"), right=("step", *SEEN))
        for run in found.runs:
            numbers = (shown(run.last, metric) for metric in SEEN.values())
            sheet.add(run.name, run.state, run.last.get("step", ""), *numbers, " ".join(run.flags))
        sheet.show()
    say_remarks(found.remarks)
