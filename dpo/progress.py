"""Progress bars and lines for people, on stderr; quiet enough for a log file."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from dpo import terminal


class Remarks:
    """stderr as it is at each moment, through the terminal's door: it never fails for its reader or its encoding."""

    @property
    def encoding(self) -> str:
        """What tqdm chooses its blocks by."""
        return getattr(sys.stderr, "encoding", None) or "utf-8"

    def write(self, text: str) -> None:
        """What tqdm draws: its own control characters, around titles that are clean."""
        terminal.write(sys.stderr, text)

    def flush(self) -> None:
        """Every write is flushed."""

    def isatty(self) -> bool:
        """Whether a person looks at it."""
        return terminal.is_terminal(sys.stderr)

    def fileno(self) -> int:
        """For the width of the terminal."""
        return sys.stderr.fileno()


REMARKS = Remarks()
tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a worker that is killed leaves behind


def bar(items: Iterable[Any] | None, title: str, unit: str, **options: Any) -> Any:
    """A progress bar: live in a terminal, a line every ten seconds elsewhere; without items, moved by its update()."""
    pause = 0.1 if REMARKS.isatty() else 10
    return tqdm(items, desc=terminal.line(title), unit=unit, mininterval=pause, leave=False, file=REMARKS, **options)


def say(text: str) -> None:
    """A line above any bar."""
    tqdm.write(terminal.line(text), file=REMARKS)


@functools.cache
def remark(text: str) -> None:
    """A note, said once in a process."""
    say(f"note: {text}")
