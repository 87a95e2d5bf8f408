"""A sweep from its jobs to its table: what is there, what is missing, who runs it, what came of it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpo.disk import described, make_folder
from dpo.errors import UsageError
from dpo.inputs import refuse_changed
from dpo.interrupt import KILLED, cause, check
from dpo.jobs import LISTENERS, Worker, aside_if_damaged, changes, lock_of, place, report, set_aside
from dpo.json_files import Damaged, read_object, write_json
from dpo.lifeline import Lifeline, lifeline
from dpo.listing import say_remarks
from dpo.locks import PATIENCE, held, holder, lock_of_folder, locked, locked_now
from dpo.pictures import draw_missing
from dpo.progress import bar, say
from dpo.run_folders import state
from dpo.status import at_work, save_table, standing
from dpo.sweep import Job, Sweep, launch

TRIED = ("failed", "interrupted")
"""Runs in these states come last: what can finish finishes even where one of them kills its process each time."""


def run_sweep(sweep: Sweep, rerun_changed: bool = False) -> int:
    """Run what is missing of a sweep; 0 where every job is done in the end, else 1."""
    folder = sweep.folder
    check_folder(sweep)
    for job in sweep.jobs if not rerun_changed else ():
        run = place(folder, job)
        refuse_changed(run, job.plain, "be the answer" if state(run) == "done" else "go on", "give --rerun-changed, ")
    keep_record(sweep)
    for notice in sweep.notices:
        say(notice)
    for job in sweep.jobs:
        aside_if_damaged(place(folder, job))
    report_changes(sweep, rerun_changed)
    ends = [state(place(folder, job)) for job in sweep.jobs]
    todo = [number for number, end in enumerate(ends) if end != "done"]
    todo.sort(key=lambda number: TRIED.index(ends[number]) if ends[number] in TRIED else -1)
    for number in todo:
        job = sweep.jobs[number]
        with locked_now(lock_of(folder, job)) as mine:
            if mine and state(run := place(folder, job)) == "failed":
                run.set_status("pending")
    say(f"sweep {sweep.name}: {len(sweep.jobs)} jobs, {len(sweep.jobs) - len(todo)} done before, {len(todo)} to run")
    before = [place(folder, sweep.jobs[number]).path.name for number, end in enumerate(ends) if end == "done"]
    if before:
        say(f"done before: {few(before)}")
    for number in set(range(len(ends))) - set(todo):
        draw_missing(place(folder, sweep.jobs[number]))
        report(place(folder, sweep.jobs[number]), sweep.jobs[number])
    stopped: KeyboardInterrupt | None = None
    try:
        with at_work(folder), lifeline() as line, Watch(sweep, todo):
            run_all(sweep, todo, line)
    except KeyboardInterrupt as error:
        stopped = error
    settle(sweep, todo, cause(stopped) or KILLED if stopped else KILLED)
    say_remarks(save_table(folder))
    ends = [state(place(folder, job)) for job in sweep.jobs]
    say(", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends)) + f": {folder / 'table.csv'}")
    if stopped:
        raise stopped
    if set(ends) != {"done"}:
        say("the same command runs what is missing")
    return int(set(ends) != {"done"})


def settle(sweep: Sweep, todo: list[int], why: str) -> None:
    """Write down that jobs were interrupted whose process had no time to do so itself."""
    for job in (sweep.jobs[number] for number in todo):
        run = place(sweep.folder, job)
        with locked_now(lock_of(sweep.folder, job)) as nobody:
            if nobody and state(run) == "interrupted" and run.status()["state"] == "running":
                run.set_status("interrupted", cause=why)


def run_all(sweep: Sweep, todo: list[int], line: Lifeline) -> None:
    """Launch the jobs `todo`; those that another process is at are waited for, and taken over if it dies."""
    folder, stop = sweep.folder, sweep.rules.on_failure == "stop"

    def work(threads: int | None, here: bool) -> Worker:
        return Worker(folder, sweep.jobs, stop, threads, line if here else replace(line, folder=None))

    while todo:
        try:
            launch(sweep, folder, todo, work)
        except Exception as error:  # a worker process that was killed, or a cluster that refused
            check()
            say(f"the launcher stopped: {described(error).strip().splitlines()[0]}")
            return
        ends = {number: state(place(folder, sweep.jobs[number])) for number in todo}
        if stop and "failed" in ends.values():
            say("stopped after a failure, as sweep.on_failure=stop says")
            return
        left = [number for number, end in ends.items() if end not in ("done", "failed")]
        busy = [number for number in left if not free(folder, sweep.jobs[number])]
        if len(left) == len(todo) and not busy:
            return
        todo = left
        wait_for(folder, [sweep.jobs[number] for number in busy])


def wait_for(folder: Path, jobs: list[Job]) -> None:
    """Wait until no process is at one of these jobs, and say which ones are at them."""
    begin, said = time.monotonic(), ""
    while jobs and all(not free(folder, job) for job in jobs):
        whom = ", ".join(dict.fromkeys(str(holder(lock_of(folder, job)) or "another process") for job in jobs))
        if whom != said and time.monotonic() - begin > PATIENCE:
            say(f"waiting for {len(jobs)} runs that others are at: {whom}")
            said = whom
        time.sleep(0.5)


def free(folder: Path, job: Job) -> bool:
    """Whether no process works on this job."""
    return not held(lock_of(folder, job))


def check_folder(sweep: Sweep) -> None:
    """Raise UsageError where the sweep's folder would be inside of, or mixed with, something else."""
    root, folder = sweep.folder.parent, sweep.folder
    for inside in (root, *root.resolve().parents):
        for mark, what in (("sweep.json", "a sweep"), ("status.json", "a run")):
            if (inside / mark).is_file():
                raise UsageError(f"output_root={root}: {inside} is the folder of {what}; give a folder outside it")
    if (folder / "status.json").is_file():
        raise UsageError(f"output_root={root}: {folder} is the folder of a run; give another output_root")
    if (folder / "sweep.json").is_file():
        other = read_object(folder / "sweep.json").get("sweep", sweep.name)
        if other != sweep.name:
            raise UsageError(f"output_root={root}: {folder} holds the sweep {other}; give another output_root")
    elif folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UsageError(f"output_root={root}: {folder} is not empty and holds no sweep; give another output_root")


def keep_record(sweep: Sweep) -> None:
    """sweep.json: the question and a line per job, this grid's first and then what earlier grids had beyond it."""
    folder = sweep.folder
    make_folder(folder)
    jobs: list[dict[str, Any]] = [{"id": j.id, "name": j.name, "settings": j.settings} for j in sweep.jobs]
    ids = {job.id for job in sweep.jobs}
    path = folder / "sweep.json"
    with locked(lock_of_folder(folder), f"the list of jobs in {path}"):
        earlier = read_object(path).get("jobs", []) if path.exists() else []
        jobs += [job for job in earlier if job["id"] not in ids]
        write_json(path, {"sweep": sweep.name, "question": sweep.question, "jobs": jobs})


def report_changes(sweep: Sweep, rerun: bool) -> None:
    """Say which runs were made by other code or data than there is now; set them aside where that was asked for."""
    for job in sweep.jobs:
        run = place(sweep.folder, job)
        changed = changes(run, job)
        if not changed:
            continue
        with locked_now(lock_of(sweep.folder, job)) as mine:
            if rerun and mine and run.path.exists():
                say(f"{run.path.name}: {few(changed)}; set aside in {set_aside(run)}, and run again")
            else:
                say(f"{run.path.name} ({state(run)}) was made before: {few(changed)}; --rerun-changed runs it again")


def few(names: Sequence[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class Watch:
    """A bar over the whole sweep, and a line for each run as it ends, whichever process ran it."""

    def __init__(self, sweep: Sweep, todo: list[int], pause: float = 0.5) -> None:
        self.folder = sweep.folder
        self.open = {number: sweep.jobs[number] for number in todo}
        self.total = len(sweep.jobs)
        self.pause = pause
        self.over = threading.Event()
        self.one = threading.Lock()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        before = self.total - len(todo)
        hidden = not sys.stderr.isatty()  # a log file has the lines
        self.bar = bar(range(self.total), f"sweep {sweep.name}", "run", initial=before, disable=hidden)

    def __enter__(self) -> None:
        LISTENERS.append(self._look)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        LISTENERS.remove(self._look)
        self.thread.join()
        self._look()
        self.bar.close()

    def _watch(self) -> None:
        while not self.over.wait(self.pause):
            self._look()

    def _look(self) -> None:
        with self.one:
            for number, job in list(self.open.items()):
                run = place(self.folder, job)
                try:
                    status = run.status()
                except Damaged:
                    continue
                if status["state"] not in ("done", "failed"):
                    continue
                del self.open[number]
                self.bar.update()
                ended = f"[{self.total - len(self.open)}/{self.total}] {run.path.name}: {status['state']}: "
                traceback = f"{status.get('error')} (traceback in {run.path / 'status.json'})"
                say(ended + (standing(run) if status["state"] == "done" else traceback))
