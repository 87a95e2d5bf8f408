"""One job of a sweep, in whatever process a launcher starts it: found finished, copied, run, or failed and said so."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo.config import Config, parse
from dpo.disk import BUILDING, described, remove_unfinished, temporary
from dpo.interrupt import check
from dpo.json_files import Damaged
from dpo.lifeline import Lifeline
from dpo.locks import locked_now
from dpo.pictures import draw_missing
from dpo.progress import say
from dpo.provenance import differences
from dpo.records import RunDir
from dpo.run_folders import run_of, state
from dpo.streams import guard
from dpo.sweep import Job

if TYPE_CHECKING:
    from dpo.accumulate import Work

LISTENERS: list[Callable[[], None]] = []
"""Called in this process whenever a job of it has ended; a process that a launcher started has none."""


def place(folder: Path, job: Job) -> RunDir:
    """The directory of a job in a sweep's folder: that of its id where there is one, whatever it is called."""
    return run_of(folder, job.id, job.name)[0]


def lock_of(folder: Path, job: Job) -> Path:
    """Held while any process works on a job's id, for whichever sweep of the output root."""
    return folder.parent / ".locks" / job.id


def changes(run: RunDir, job: Job) -> list[str]:
    """What changed in code and data since this run was made; nothing for a run that has made no row yet."""
    if not run.metrics.exists() or not (run.path / "provenance.json").exists():
        return []
    return differences(run.read("provenance"), job.plain)


@dataclass(frozen=True)
class Worker:
    """What a launcher calls with `settings.job`, the number of a job. Plain data, so that it travels to other machines.

    `stop` leaves jobs alone once one has failed; `threads` is the number of CPU threads for runs that leave it open;
    `lifeline` ties the processes that a launcher starts to the one that started them.
    """

    folder: Path
    jobs: Sequence[Job]
    stop: bool
    threads: int | None
    lifeline: Lifeline | None = None

    def __call__(self, settings: Any) -> None:
        guard()
        job = self.jobs[settings.job]
        with self.lifeline.job() if self.lifeline else nullcontext(True) as tied:
            if not tied or self.stopped():
                return
            with locked_now(lock_of(self.folder, job)) as free:
                if free:
                    self.work(job)

    def work(self, job: Job) -> None:
        """Leave the job's directory done, failed or interrupted; only an interruption gets out."""
        from dpo.accumulate import drive

        drive(self.steps(job))

    def together(self, numbers: Sequence[int], at_once: int, bit_equal: bool) -> None:
        """The jobs `numbers`; those that differ in beta, loss, seed or lr alone are trained on one base.

        In one batch, but for those on a CPU with `bit_equal`: each then reads its own, as it would alone.
        """
        from dpo.shared import one_base
        from dpo.stacked import drive_together

        for stack in stacks([self.jobs[number] for number in numbers], at_once):
            if self.stopped():
                return
            with ExitStack() as held:
                mine = [job for job in stack if held.enter_context(locked_now(lock_of(self.folder, job)))]
                names = [job.name for job in mine]
                turns = len(mine) == 1 or (bit_equal and on_cpu(mine[0]))
                if len(mine) > 1:
                    how = "on one base, in turn" if turns else "in one batch"
                    say(f"hydra/launcher=stacked: {len(mine)} runs {how}: {', '.join(names)}")
                with one_base(() if turns else names) if len(mine) > 1 else nullcontext():
                    for job in mine if turns else ():
                        if not self.stopped():
                            self.work(job)
                    if not turns:
                        drive_together([self.steps(job) for job in mine])

    def stopped(self) -> bool:
        """Whether a failure stops the sweep; raises an interruption that came between two jobs."""
        check()
        return self.stop and any(place(self.folder, job).status()["state"] == "failed" for job in self.jobs)

    def steps(self, job: Job) -> Work[None]:
        """Leave the job's directory done, failed or interrupted, optimizer batch by optimizer batch."""
        import torch

        from dpo.run import attempt, execute
        from dpo.start import default_threads

        if self.threads:
            torch.set_num_threads(self.threads)
        default_threads()  # remembered before any run sets its own
        directory, config = place(self.folder, job), parse(job.plain)
        try:
            if directory.status()["state"] != "done" and not copied(config, directory, job):
                yield from attempt(config, directory, execute)
        except Exception as error:
            if directory.status()["state"] not in (
                "failed",
                "interrupted",
            ):  # wrong input leaves nothing behind: a sweep keeps a row of it
                directory.create()
                directory.set_status("failed", error=described(error), traceback=traceback.format_exc())
        finally:
            for listener in LISTENERS:
                listener()
            gc.collect()
            gc.freeze()  # what lives on (modules, shared weights) is not looked through again after each job
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def on_cpu(job: Job) -> bool:
    """Whether a job computes on a CPU."""
    import torch

    device = str(job.plain["train"]["device"])
    return not torch.cuda.is_available() if device == "auto" else not device.startswith("cuda")


def stacks(jobs: Sequence[Job], at_once: int) -> list[list[Job]]:
    """Jobs on one frozen base that differ in beta, loss, seed or lr alone, up to `at_once`; others singly."""
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        plain = {k: v for k, v in job.plain.items() if k not in ("seed", "beta", "loss", "optim")}
        optim = {k: v for k, v in job.plain["optim"].items() if k != "lr"}
        adapter = job.plain["adapter"]
        plain_lora = adapter["_target_"].endswith(".Lora") and not adapter["dropout"] and not adapter["dora"]
        alike.setdefault(repr((plain, optim)) if plain_lora else job.id, []).append(job)
    return [group[i : i + at_once] for group in alike.values() for i in range(0, len(group), at_once)]


def twin(directory: RunDir, job: Job) -> RunDir | None:
    """The same run, finished by the same code and data, in another folder of the output root."""
    root = directory.path.parents[1]
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for path in sorted(folder.glob(f"*-{job.id}")):
            other = RunDir(path)
            if path != directory.path and state(other) == "done" and not changes(other, job):
                return other
    return None


def copied(config: Config, directory: RunDir, job: Job) -> bool:
    """Whether the run was finished under another name already: its files are then linked (or copied) from there."""
    remove_unfinished(directory.path)
    other = twin(directory, job) if directory.path.parents[1].is_dir() else None
    if other is None:
        return False

    def left_out(folder: str, names: list[str]) -> set[str]:
        own = {"tracker.json", "status.json"}
        return {name for name in names if name.startswith(".") or name in own} if Path(folder) == other.path else set()

    unfinished = temporary(directory.path, BUILDING)
    shutil.copytree(other.path, unfinished, copy_function=link, ignore=left_out)
    RunDir(unfinished).set_status("pending")
    if not directory.discard():
        set_aside(directory)
    os.replace(unfinished, directory.path)
    mirror(config, directory)
    draw_missing(directory)
    source = other.path.relative_to(directory.path.parents[1])
    directory.set_status("done", copied_from=str(source))
    say(f"{directory.path.name}: the same run as {source}, finished there; linked, not repeated")
    return True


def link(source: str, target: str) -> None:
    """A hard link, or a copy where the file system has none; finished files are replaced, never written in place."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def mirror(config: Config, directory: RunDir) -> None:
    """Send a finished run's rows to a tracker run of this sweep's own."""
    from dpo.run import make_tracker
    from dpo.tracking.shown import entries

    tracker = make_tracker(config, directory)
    tracker.replay(entries(directory, list(directory.rows(directory.metrics))))
    tracker.finish(directory.read("summary")["last"], "done")


def report(directory: RunDir, job: Job) -> None:
    """Send a finished run to the run that a W&B agent was given for it, which would stay empty: it is not repeated."""
    from dpo.tracking.wandb import given_id

    if job.plain["tracker"]["mode"] == "online" and given_id():
        say(f"{directory.path.name}: finished before; its rows are sent to the agent's run")
        mirror(parse(job.plain), directory)


def aside_if_damaged(run: RunDir) -> None:
    """Set a run aside whose status.json does not say how it stands, so that it is run again and nothing is lost."""
    try:
        run.status()
    except Damaged as damage:
        say(f"{run.path.name}: status.json {damage.what}; set aside in {set_aside(run)}, and run again")


def set_aside(directory: RunDir) -> Path:
    """Move a run out of the way without losing it; where it is now."""
    aside = directory.path.parent / ".superseded"
    aside.mkdir(exist_ok=True)
    targets = (aside / f"{directory.path.name}.{number}" for number in itertools.count(1))
    target = next(target for target in targets if not target.exists())
    os.replace(directory.path, target)
    return target
