"""How a sweep stands, read from its files alone: from another process or machine, while it runs or long after."""

from __future__ import annotations

import csv
import io
import statistics
import time
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from dpo.console import console, state
from dpo.errors import UsageError
from dpo.records import RunDir, find_runs, read_json, write_atomically

SEEN = ("loss", "rewards/margins", "rewards/accuracies")


def listed(folder: Path) -> list[tuple[str, RunDir | None, dict[str, Any]]]:
    """(name, run or None, what sweep.json says of it) for every job of a sweep, or every run below another folder."""
    if not (folder / "sweep.json").is_file():
        return [(str(run.path.relative_to(folder)), run, {}) for run in find_runs(folder)]
    rows: list[tuple[str, RunDir | None, dict[str, Any]]] = []
    for job in read_json(folder / "sweep.json")["jobs"]:
        found = sorted(folder.glob(f"*-{job['id']}"))
        run = RunDir(found[0]) if found else None
        rows.append((run.path.name if run else f"{job['name']}-{job['id']}", run, job))
    return rows


def rows(folder: Path) -> list[dict[str, Any]]:
    """A row per job: its name, id, settings, state, error, and every scalar of its last evaluation."""
    out = []
    for name, run, job in listed(folder):
        status = run.status() if run else {"state": "pending"}
        last = {}
        if run and status["state"] == "done":
            last = {k: v for k, v in run.read("summary")["last"].items() if not k.startswith("time/") and k != "kind"}
        said = state(run) if run else "pending"
        row = {"run": name, "id": job.get("id", ""), "state": said, "error": status.get("error", "")}
        out.append(row | job.get("settings", {}) | last)
    return out


def save_table(folder: Path) -> None:
    """table.csv of a sweep: `rows`, with an empty cell for what a row does not have."""
    table = rows(folder)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in table for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_atomically(folder / "table.csv", text.getvalue())


def standing(run: RunDir) -> str:
    """Loss, margin, accuracy of the last evaluation, and how long the run took, in a line."""
    evaluations = [row for row in run.rows(run.metrics) if row["kind"] == "eval"]
    if not evaluations:
        return "no evaluation yet"
    values = [f"{key.rsplit('/', 1)[-1]} {evaluations[-1][f'eval/{key}']:.4f}" for key in SEEN]
    return "  ".join(values) + f"  ({clock(seconds(run))})"


def seconds(run: RunDir) -> float:
    """Seconds that a run's recorded steps and evaluations took."""
    return float(sum(row.get("time/step", 0) + row.get("time/evaluation", 0) for row in run.rows(run.metrics)))


def clock(value: float) -> str:
    """Seconds for people: 45 s, 3 min 20 s, 2 h 05 min."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02} min"


def show_status(folder: Path, watch: bool, pause: float = 2.0) -> None:
    """Print the table once, or keep it up to date until every run is done or failed."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such directory")
    if not listed(folder):
        raise UsageError(f"{folder}: no runs here; `dpo sweep` or `dpo train` makes some")
    if not watch:
        console().print(status_table(folder)[0])
        return
    table, over = status_table(folder)
    with Live(table, console=console(), auto_refresh=False) as live:
        while not over:
            time.sleep(pause)
            table, over = status_table(folder)
            live.update(table, refresh=True)


def status_table(folder: Path) -> tuple[Table, bool]:
    """A line per run: state, step, loss, margin, accuracy, speed, time left; and whether all have ended."""
    found = listed(folder)
    table = Table(title=str(folder), title_justify="left")
    for title in ("run", "state", "step", "loss", "margin", "accuracy", "pairs/s", "time left"):
        table.add_column(title, justify="left" if title in ("run", "state") else "right", overflow="fold")
    ends, left = [], 0.0
    for name, run, _ in found:
        ends.append(state(run) if run else "pending")
        cells, remaining = live_cells(run, ends[-1]) if run else ([""] * 6, 0.0)
        left += remaining
        table.add_row(name, ends[-1], *cells)
        if run and ends[-1] == "failed":
            table.add_row("", f"[dim]{run.status()['error']}[/dim]")
    counts = ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))
    table.caption = counts + (f"; {clock(left)} left in those that run" if left else "")
    return table, all(end in ("done", "failed") for end in ends)


def live_cells(run: RunDir, said: str) -> tuple[list[str], float]:
    """(step, loss, margin, accuracy, pairs/s, time left) of a run as text, and the seconds left."""
    recent = run.last_rows(run.metrics)
    if not recent:
        return [""] * 6, 0.0
    last = recent[-1]
    facts = run.read("provenance") if (run.path / "provenance.json").exists() else {}
    values = [f"{last[key]:.4f}" if (key := f"{last['kind']}/{name}") in last else "" for name in SEEN]
    steps = [row for row in recent if row["kind"] == "train"][-20:]
    speed = statistics.mean(row["time/pairs_per_second"] for row in steps) if steps else 0.0
    remaining = 0.0
    if said == "running" and steps and "steps" in facts:
        remaining = (facts["steps"] - last["step"]) * statistics.mean(row["time/step"] for row in steps)
    step = f"{last['step']}/{facts['steps']}" if "steps" in facts else str(last["step"])
    return [step, *values, f"{speed:.0f}" if speed else "", clock(remaining) if remaining else ""], remaining
