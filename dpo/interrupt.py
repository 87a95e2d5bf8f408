"""What a signal means: the work stops where it stands, its files say so and why, and the same command goes on.

SIGINT (Ctrl-C), SIGTERM (kill, Slurm, docker stop) and SIGHUP (a terminal that closed) raise `Interrupted` in the main
thread; a second one ends the process at once. A signal that was ignored when the process began (nohup) stays ignored.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
"""The signals that stop work, as people call them."""
WARNINGS = {signal.SIGUSR1: "SIGUSR1", signal.SIGUSR2: "SIGUSR2"}
"""Signals with which a cluster's launcher tells a job that its time ends; what follows is the launcher's own affair."""
KILLED = "killed"
"""The cause of a run that stopped without a word: SIGKILL, the out-of-memory killer, a power cut."""
AT_ONCE = 0.5
"""Seconds within which further signals count as the first one: `timeout` and process groups send it twice."""


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread by a signal; `cause` is what people call it, `code` the conventional exit code."""

    def __init__(self, cause: str, number: int) -> None:
        super().__init__(cause)
        self.cause = cause
        self.code = 128 + number


class State:
    """The first interruption of this process, when it came, and whether the main thread is at work."""

    def __init__(self) -> None:
        self.taken = False
        """Whether the handlers are in place."""
        self.depth = 0
        """Within how many `handled` the main thread is: outside of them a signal is only remembered."""
        self.deferred = 0
        self.received: Interrupted | None = None
        self.since = 0.0
        self.warned: str | None = None
        self.before: list[Callable[[Interrupted], None]] = []
        """Called with an interruption before it is raised, such as by a launcher that tells its workers."""


STATE = State()


@contextmanager
def handled(keep: bool = False) -> Iterator[None]:
    """Within it the signals raise `Interrupted`; afterwards they mean what they meant before.

    With `keep` they are remembered also afterwards: a worker that is idle between two jobs then begins no other. In
    any thread but the main one nothing changes, since only that one is told of signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {} if STATE.taken else take()
    STATE.taken = True
    STATE.depth += 1
    try:
        yield
    finally:
        STATE.depth -= 1
        if STATE.depth == 0 and not keep:
            for number, handler in before.items():
                signal.signal(number, handler)
            STATE.taken, STATE.received = False, None


def take() -> dict[int, Any]:
    """Handle the signals that nobody else handles or ignores; the handlers there were, by signal."""
    before: dict[int, Any] = {}
    for number in (*NAMES, *WARNINGS):
        handler = signal.getsignal(number)
        if number in NAMES and handler in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, on_signal)
        elif number in WARNINGS and callable(handler):
            signal.signal(number, warned(handler))
        else:
            continue
        before[number] = handler
    return before


def on_signal(number: int, _: FrameType | None) -> None:
    """Remember and raise the first signal; let a later one do what it does to any process."""
    interrupt(Interrupted(NAMES[signal.Signals(number)], number))


def warned(handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], None]:
    """A handler that leaves everything to the one that there was, and remembers the signal if that one raises."""

    def on_warning(number: int, frame: FrameType | None) -> None:
        STATE.warned = f"{WARNINGS[signal.Signals(number)]}, the end of its time"
        handler(number, frame)
        STATE.warned = None

    return on_warning


def interrupt(error: Interrupted) -> None:
    """Stop the main thread's work (called in it)."""
    if STATE.received is not None:
        if time.monotonic() - STATE.since > AT_ONCE:
            number = error.code - 128
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        return
    STATE.received, STATE.since = error, time.monotonic()
    for tell in STATE.before:
        tell(error)
    if STATE.depth and not STATE.deferred:
        raise error


@contextmanager
def deferred() -> Iterator[None]:
    """Within it a first signal is only remembered: what ends a finished run is short. `check` raises it later."""
    STATE.deferred += 1
    try:
        yield
    finally:
        STATE.deferred -= 1


def check() -> None:
    """Raise the interruption that came, where something swallowed it or nobody was at work then."""
    if STATE.received is not None:
        raise STATE.received


def came() -> bool:
    """Whether this process was interrupted, whatever libraries made of it since."""
    return STATE.received is not None


def exit_code() -> int:
    """The conventional exit code of what interrupted this process: 130 for Ctrl-C."""
    return STATE.received.code if STATE.received else 128 + signal.SIGINT


def cause(error: BaseException) -> str | None:
    """Why work stopped with this error, where somebody wanted it to; None for a failure of its own."""
    if STATE.received is not None:  # whatever a library made of it on the way
        return STATE.received.cause
    if STATE.warned is not None:
        return STATE.warned
    if isinstance(error, Interrupted):
        return error.cause
    if isinstance(error, KeyboardInterrupt):
        return "Ctrl-C"
    if isinstance(error, SystemExit | GeneratorExit):
        return "its process ended it"
    return None
