"""What a sweep would do: its jobs, what is done, and what the rest may cost. Runs nothing, writes nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from dpo.console import console, state
from dpo.jobs import changes, place
from dpo.records import find_runs
from dpo.status import clock, seconds
from dpo.sweep import read


def show_plan(name: str | None, overrides: Sequence[str]) -> Path:
    """Print every job with its state and cost; the sweep's folder. Raises UsageError as the sweep itself would."""
    from dpo.launch import check_folder

    begin = time.perf_counter()
    sweep = read(name, overrides)
    check_folder(sweep)
    took = time.perf_counter() - begin
    out, estimate = console(), estimator(sweep.folder.parent)
    if sweep.question:
        out.print(sweep.question)
    for notice in sweep.notices:
        out.print(notice)
    table = Table(title=str(sweep.folder), title_justify="left")
    for title in ("run", "state", "time", "disk", "settings"):
        table.add_column(title, justify="right" if title in ("time", "disk") else "left", overflow="fold")
    bases: set[str] = set()
    left, disk = 0.0, 0
    for job in sweep.jobs:
        run = place(sweep.folder, job)
        said, cost = state(run), estimate(job.plain)
        if changed := changes(run, job):
            said += f", made before {len(changed)} changes in code or data"
        if state(run) != "done":
            left, disk, bases = left + cost.seconds, disk + cost.size, bases | {cost.basis}
        shown = (clock(cost.seconds), megabytes(cost.size)) if cost.basis != "none" else ("?", "?")
        table.add_row(run.path.name, said, *shown, " ".join(f"{key}={value}" for key, value in job.settings.items()))
    out.print(table)
    ends = [state(place(sweep.folder, job)) for job in sweep.jobs]
    counts = ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))
    out.print(f"{len(ends)} jobs: {counts}; all composed and typed in {took:.1f} s")
    if bases:
        total = f"to come, one after the other: {clock(left)}, {megabytes(disk)}"
        if "none" in bases:
            out.print("time and disk: no finished run to estimate from")
        elif "other" in bases:
            out.print(f"{total} (roughly: from finished runs of other models, data or lengths)")
        else:
            out.print(f"{total} (by finished runs like them)")
    return sweep.folder


def megabytes(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e6:.1f} MB"


@dataclass(frozen=True)
class Cost:
    """What a run is expected to take: seconds, bytes, and the runs that says so ("like it", "other", "none")."""

    seconds: float
    size: int
    basis: str


def estimator(root: Path) -> Callable[[dict[str, Any]], Cost]:
    """A function from a job's settings to its Cost, by the finished runs below an output root.

    Runs of the same model, data, adapter, length and evaluation are like it; without any, every finished run counts.
    """
    import yaml

    past: dict[str, list[tuple[float, int]]] = {}
    for run in find_runs(root) if root.is_dir() else []:
        if state(run) == "done" and run.config.exists():
            plain = yaml.safe_load(run.config.read_text(encoding="utf-8"))
            size = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
            past.setdefault(shape(plain), []).append((seconds(run), size))
    everything = [cost for costs in past.values() for cost in costs]

    def estimate(plain: dict[str, Any]) -> Cost:
        costs = past.get(shape(plain), [])
        basis = "like it" if costs else "other" if everything else "none"
        costs = costs or everything or [(0.0, 0)]
        return Cost(statistics.median(c[0] for c in costs), int(statistics.median(c[1] for c in costs)), basis)

    return estimate


def shape(plain: dict[str, Any]) -> str:
    """What a run's cost depends on, as text."""
    train = {k: v for k, v in plain["train"].items() if k not in ("print_every", "checkpoint_every")}
    return repr([plain.get(name) for name in ("model", "dataset", "perturb", "adapter", "evaluate")] + [train])
