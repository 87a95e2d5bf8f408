"""How a sweep stands, read from its files alone: from another process or machine, while it runs or long after."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dpo import terminal
from dpo.listing import SEEN, Glance, Listing, listing, look, say_remarks, shown
from dpo.locks import lock_of_folder, locked
from dpo.records import RunDir, write_atomically
from dpo.streams import unread
from dpo.terminal import Sheet

LAUNCHERS = ".launchers"
"""A file of a sweep's folder, on which every launcher at work there holds a shared lock."""
TITLES = ("run", "state", "step", "loss", "margin", "accuracy", "pairs/s", "time left")


def row_of(run: Glance) -> dict[str, Any]:
    """A job's name, id, settings, state, error, and every scalar of its last evaluation."""
    last = {k: v for k, v in run.last.items() if not k.startswith("time/") and k != "kind"}
    row = {"run": run.name, "id": run.job.get("id", ""), "state": run.state, "error": terminal.line(run.error)}
    return row | run.job.get("settings", {}) | (last if run.state == "done" else {})


def save_table(folder: Path) -> list[str]:
    """Write table.csv of a sweep: a row per job, with an empty cell for what it does not have; remarks on its files."""
    with locked(lock_of_folder(folder), f"the table of {folder}"):  # or the older of two tables might come last
        found = listing(folder)
        table = [row_of(run) for run in found.runs]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in table for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        write_atomically(folder / "table.csv", text.getvalue())
    return found.remarks


def standing(run: RunDir) -> str:
    """Loss, margin, accuracy of the last evaluation, and how long the run took, in a line."""
    seen = look(run, run.path.name)
    if not seen.last:
        return "no evaluation yet"
    names = ("loss", "margin", "accuracy")
    values = [f"{SEEN[name].rsplit('/', 1)[-1]} {shown(seen.last, SEEN[name])}" for name in names]
    return "  ".join(values) + f"  ({clock(seen.seconds)})"


def clock(value: float) -> str:
    """Seconds for people: 45 s, 3 min 20 s, 2 h 05 min."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02} min"


def show_status(folder: Path, watch: bool, json: bool = False, pause: float = 2.0) -> None:
    """Print the table once, or keep it up to date until nothing is at work any more, or nobody reads it."""
    found = listing(folder, whole=json)
    if watch:
        found = watched(folder, found, pause)
    elif json:
        terminal.as_json({"directory": str(folder), "runs": [run.record() | pace(run) for run in found.runs]})
    else:
        sheet(folder, found).show()
    for run in found.runs if not json else ():
        if run.error:
            terminal.result((f"{run.name}: {terminal.line(run.error)}", "dim"))
    say_remarks(found.remarks)


def watched(folder: Path, found: Listing, pause: float) -> Listing:
    """Show the table anew until nothing is at work any more; elsewhere than in a terminal, once that is so."""
    if not terminal.is_terminal(sys.stdout):
        while not over(folder, found):
            time.sleep(pause)
            found = listing(folder, whole=False)
        sheet(folder, found).show()
        return found
    from rich.live import Live

    out = terminal.console(sys.stdout)
    with Live(sheet(folder, found).drawn(), console=out, auto_refresh=False) as live:
        while not over(folder, found) and not unread(sys.stdout):
            time.sleep(pause)
            found = listing(folder, whole=False)
            live.update(sheet(folder, found).drawn(), refresh=True)
    return found


def over(folder: Path, found: Listing) -> bool:
    """Whether nothing is at work: no run, and no launcher that would begin one."""
    sweeps = {folder, *(run.run.path.parent for run in found.runs if run.run)}
    return all(run.state != "running" for run in found.runs) and not any(map(busy, sweeps))


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Let others see that a launcher is at a sweep, also between two jobs."""
    with (folder / LAUNCHERS).open("a") as handle:
        with suppress(OSError):  # a file system without locks: its runs alone are seen
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield


def busy(folder: Path) -> bool:
    """Whether a launcher is at the sweep in this folder."""
    try:
        with (folder / LAUNCHERS).open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK
    return False


def sheet(folder: Path, found: Listing) -> Sheet:
    """A line per run: state, step, loss, margin, accuracy, speed, time left; the counts below."""
    left = sum(run.left for run in found.runs)
    foot = found.counts + (f"; {clock(left)} left in those that run" if left else "")
    if any(run.state in ("pending", "interrupted") for run in found.runs) and over(folder, found):
        foot += "; nothing is at work: the command that started it goes on"
    table = Sheet(str(folder), TITLES, right=TITLES[2:], foot=foot)
    for run in found.runs:
        newest = run.rows[-1] if run.rows else {}
        values = (shown(newest, SEEN[title]) for title in ("loss", "margin", "accuracy"))
        speed, wait = f"{run.speed:.0f}" if run.speed else "", clock(run.left) if run.left else ""
        table.add(run.name, run.state, run.step, *values, speed, wait)
    return table


def pace(run: Glance) -> dict[str, Any]:
    """What changes while a run trains, for scripts."""
    return {"pairs_per_second": run.speed or None, "seconds_left": run.left or None}
