"""What a sweep would do: its jobs, what is done, and what the rest may cost. Runs nothing, writes nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo import terminal
from dpo.jobs import changes
from dpo.json_files import Damaged
from dpo.listing import ignored, look, say_remarks
from dpo.records import RunDir
from dpo.results.reading import read_config
from dpo.run_folders import find_runs, run_of, state
from dpo.status import clock
from dpo.sweep import Job, Sweep, read
from dpo.terminal import Sheet


def show_plan(name: str | None, overrides: Sequence[str], json: bool = False) -> Path:
    """Print every job with its state and cost; the sweep's folder. Raises UsageError as the sweep itself would."""
    from dpo.launch import check_folder

    begin = time.perf_counter()
    sweep = read(name, overrides)
    check_folder(sweep)
    took = time.perf_counter() - begin
    remarks: list[str] = []
    estimate = estimator(sweep.folder.parent, remarks)
    planned = [plan_of(sweep.folder, job, estimate, remarks) for job in sweep.jobs]
    if json:
        facts = {"sweep": sweep.name, "folder": str(sweep.folder), "question": sweep.question}
        terminal.as_json(facts | {"notices": sweep.notices, "jobs": [job.record() for job in planned]})
    else:
        show_jobs(sweep, planned, took)
    say_remarks(remarks)
    return sweep.folder


@dataclass(frozen=True)
class Planned:
    """A job with the state of its run, what changed since it was made, and what it may cost."""

    run: RunDir
    job: Job
    state: str
    changes: list[str]
    cost: Cost

    def record(self) -> dict[str, Any]:
        """The job for scripts; nothing for a cost that nothing tells."""
        known = self.cost.basis != "none"
        facts = {"run": self.run.path.name, "id": self.job.id, "state": self.state, "settings": self.job.settings}
        costs = {"seconds": self.cost.seconds if known else None, "bytes": self.cost.size if known else None}
        return facts | costs | {"estimate": self.cost.basis, "changes": self.changes}


def plan_of(folder: Path, job: Job, estimate: Callable[[dict[str, Any]], Cost], remarks: list[str]) -> Planned:
    """How a job stands; what of its run cannot be read, and its copies, go into `remarks`."""
    run, copies = run_of(folder, job.id, job.name)
    remarks += [ignored(copy, run.path) for copy in copies]
    try:
        run.status()
        changed = changes(run, job)
    except Damaged as damage:
        changed = []
        remarks.append(str(damage))
    return Planned(run, job, state(run), changed, estimate(job.plain))


def show_jobs(sweep: Sweep, planned: Sequence[Planned], took: float) -> None:
    """The question, a line per job, and what is to come."""
    for text in filter(None, (sweep.question, *sweep.notices)):
        terminal.result(text)
    table = Sheet(str(sweep.folder), ("run", "state", "time", "disk", "settings"), right=("time", "disk"))
    for one in planned:
        said = one.state + (f", made before {len(one.changes)} changes in code or data" if one.changes else "")
        known = one.cost.basis != "none"
        costs = (clock(one.cost.seconds), megabytes(one.cost.size)) if known else ("?", "?")
        table.add(one.run.path.name, said, *costs, " ".join(f"{key}={v}" for key, v in one.job.settings.items()))
    table.show()
    ends = [one.state for one in planned]
    counts = ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))
    terminal.result(f"{len(ends)} jobs: {counts}; all composed and typed in {took:.1f} s")
    left = [one.cost for one in planned if one.state != "done"]
    bases = {cost.basis for cost in left}
    total = f"{clock(sum(cost.seconds for cost in left))}, {megabytes(sum(cost.size for cost in left))}"
    if "none" in bases:
        terminal.result("time and disk: no finished run to estimate from")
    elif bases:
        rough = "roughly: from finished runs of other models, data or lengths" if "other" in bases else ""
        terminal.result(f"to come, one after the other: {total} ({rough or 'by finished runs like them'})")


def megabytes(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e6:.1f} MB"


@dataclass(frozen=True)
class Cost:
    """What a run is expected to take: seconds, bytes, and the runs that says so ("like it", "other", "none")."""

    seconds: float
    size: int
    basis: str


def estimator(root: Path, remarks: list[str]) -> Callable[[dict[str, Any]], Cost]:
    """A function from a job's settings to its Cost, by the finished runs below an output root.

    Runs of the same model, data, adapter, length and evaluation are like it; without any, every finished run counts.
    What cannot be read of them goes into `remarks`.
    """
    past: dict[str, list[tuple[float, int]]] = {}
    for run in find_runs(root) if root.is_dir() else []:
        if state(run) == "done" and run.config.exists():
            faults: list[str] = []
            plain, seen = read_config(run.config, faults), look(run, run.path.name)
            remarks += [*(f"{run.path}: {fault}" for fault in faults), *seen.faults]
            size = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
            if isinstance(plain.get("train"), dict):
                past.setdefault(shape(plain), []).append((seen.seconds, size))
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
