"""What ties the processes of a launcher to the one that started them: they stop when it is told to, or dies.

The launching process holds a lock on a file while it lives. Each of its processes waits for that lock in a thread:
whoever gets it knows that the launcher has let go, and reads in the file why. The system frees it also after kill -9.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dpo.interrupt import STATE, Interrupted, handled, interrupt

GRACE = 8.0
"""Seconds in which workers may write down how they stand; `docker stop` leaves a process 10."""
OVER = "over"
"""What the file holds once the launcher has ended as it should."""
TOLD = signal.SIGURG
"""Sent by a worker to itself: it interrupts whatever the main thread waits for, and means nothing to anybody else."""

WATCHED: set[Path] = set()
"""Lifelines that a thread of this process waits at."""
IDLE = threading.Event()
"""Set while no job is at work in this worker."""


@dataclass(frozen=True)
class Lifeline:
    """Plain data that a launcher hands to its workers: `folder` holds the lock; None ties them to nobody (Slurm)."""

    host: str
    pid: int
    folder: Path | None

    @contextmanager
    def job(self) -> Iterator[bool]:
        """Around a job: whether it may begin. In a worker an interruption ends the job here and goes no further."""
        here = self.host == socket.gethostname()
        if here and self.pid == os.getpid():
            yield True
            return
        if STATE.received is not None:
            yield False
            return
        with suppress(Interrupted), handled(keep=True):
            if self.folder is None or not here:
                yield True
                return
            with working(self.folder) as tied:
                yield tied


@contextmanager
def working(folder: Path) -> Iterator[bool]:
    """Let the launcher see a job at work, and the job hear of the launcher's end; False where that was before."""
    try:
        handle = (folder / "working").open()
    except FileNotFoundError:
        yield False
        return
    with handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        IDLE.clear()
        try:
            if folder not in WATCHED:
                WATCHED.add(folder)
                told: list[Interrupted] = []
                signal.signal(TOLD, lambda *_: None if STATE.received else interrupt(told[0]))
                threading.Thread(target=watch, args=(folder, told), daemon=True).start()
            yield True
        finally:
            IDLE.set()


def watch(folder: Path, told: list[Interrupted]) -> None:
    """Wait for the launcher's end; unless its work is over, stop the job at hand and then this process."""
    text = ""
    with suppress(FileNotFoundError), (folder / "alive").open() as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        text = handle.read()
    if text == OVER:
        return
    if not text:
        shutil.rmtree(folder, ignore_errors=True)
    number, _, cause = text.partition(" ")
    told.append(Interrupted(cause or "its launcher was killed", int(number or signal.SIGKILL)))
    signal.pthread_kill(threading.main_thread().ident or 0, TOLD)
    IDLE.wait(GRACE)
    if text:
        time.sleep(GRACE)  # the launcher ends its workers in its own way, unless it is killed meanwhile
    os._exit(told[0].code)


@contextmanager
def lifeline() -> Iterator[Lifeline]:
    """Within it workers live; an interruption of this process reaches them first, and they have GRACE to end."""
    host, pid = socket.gethostname(), os.getpid()
    try:
        folder = Path(tempfile.mkdtemp(prefix="dpo-"))
    except OSError:
        yield Lifeline(host, pid, None)
        return
    with (folder / "alive").open("w") as alive, (folder / "working").open("w") as at_work:
        fcntl.flock(alive, fcntl.LOCK_EX)

        def let_go(text: str) -> None:
            alive.write(text)
            alive.flush()
            fcntl.flock(alive, fcntl.LOCK_UN)

        def tell(error: Interrupted) -> None:
            let_go(f"{error.code - 128} {error.cause}")
            end = time.monotonic() + GRACE
            while time.monotonic() < end:
                with suppress(OSError):
                    fcntl.flock(at_work, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                time.sleep(0.05)

        STATE.before.append(tell)
        try:
            yield Lifeline(host, pid, folder)
        finally:
            STATE.before.remove(tell)
            if STATE.received is None:
                let_go(OVER)
            shutil.rmtree(folder, ignore_errors=True)
