"""What is printed may be lost without harm: a reader that has gone (head, a dead tee, a closed ssh) ends no work."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any

GONE = {errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF, errno.ECONNRESET, errno.ESHUTDOWN}
"""Errors after which nobody will ever read again; others, such as a full disk, may pass."""


class Stream(io.FileIO):
    """A descriptor that people read: what it does not take is dropped, so that no print, bar or log call ever raises.

    Once its reader has gone, the descriptor leads to /dev/null, for children and for libraries in C as well.
    """

    lost: OSError | None = None
    """Why something written here did not arrive."""

    def write(self, data: Any) -> int:
        """Write all of it, or as much as can be; its length in either case."""
        view = memoryview(data).cast("B")
        at = 0
        while at < len(view):
            try:
                written = super().write(view[at:])
            except OSError as error:
                self.lost = error
                if error.errno in GONE:
                    discard(self.fileno())
                break
            if written is None:  # a descriptor that another program made non-blocking, and that is full
                select.select([], [self.fileno()], [], 1.0)
            else:
                at += written
        return len(view)


def discard(number: int) -> None:
    """Let a descriptor lead to /dev/null from now on."""
    null = os.open(os.devnull, os.O_RDWR)
    if null == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(null, number)
        os.close(null)


def guard() -> None:
    """Make this process's standard streams `Stream`s; those that were closed before it started lead to /dev/null.

    Otherwise the next file that is opened would be number 2, and every message would be written into it. Streams that
    somebody else has put in their place (a notebook's, a test's) are left alone.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            discard(number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        if old is None or ours(old, number):
            new = guarded(old, number, name)
            setattr(sys, name, new)
            setattr(sys, f"__{name}__", new)


def ours(stream: Any, number: int) -> bool:
    """Whether it is the interpreter's own stream on this descriptor, not guarded yet."""
    if not isinstance(stream, io.TextIOWrapper) or stream.closed:
        return False
    raw = getattr(stream.buffer, "raw", stream.buffer)
    return isinstance(raw, io.FileIO) and not isinstance(raw, Stream) and raw.fileno() == number


def guarded(old: io.TextIOWrapper | None, number: int, name: str) -> io.TextIOWrapper:
    """The same stream over a `Stream`."""
    raw = Stream(number, "w", closefd=False)
    raw.name = f"<{name}>"
    if old is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", newline="\n")
    try:
        old.flush()
    except OSError as error:
        raw.lost = error
    below: Any = raw if old.write_through else io.BufferedWriter(raw)
    new = io.TextIOWrapper(below, old.encoding, old.errors, "\n", old.line_buffering, old.write_through)
    return new


def lost(stream: Any) -> OSError | None:
    """Why something printed to sys.stdout or sys.stderr did not arrive; None where all of it did."""
    with suppress(OSError, ValueError):
        stream.flush()
    buffer = getattr(stream, "buffer", None)
    return getattr(getattr(buffer, "raw", buffer), "lost", None)


def unread(stream: Any) -> bool:
    """Whether nobody reads the stream any more."""
    error = lost(stream)
    return error is not None and error.errno in GONE
