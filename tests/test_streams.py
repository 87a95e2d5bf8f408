"""A stream that is lost costs nothing but what was printed: no exception, no wrong file, no last words at the exit."""

import errno
import fcntl
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dpo.streams import Stream, guard

ROOT = Path(__file__).parents[1]


def broken_pipe() -> int:
    """`| head` that has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def closed_terminal() -> int:
    """A terminal whose window was closed."""
    master, slave = pty.openpty()
    os.close(master)
    return slave


def full_disk() -> int:
    """A log file on a disk without room."""
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize(
    ("opened", "why", "gone"),
    [(broken_pipe, errno.EPIPE, True), (closed_terminal, errno.EIO, True), (full_disk, errno.ENOSPC, False)],
)
def test_what_a_stream_does_not_take_is_dropped(opened: Callable[[], int], why: int, gone: bool) -> None:
    """And where nobody will read again, the descriptor leads nowhere, for whoever writes to it past Python."""
    number = opened()
    stream = Stream(number, "w")
    for _ in range(3):
        assert stream.write(b"x" * 100_000) == 100_000
    assert stream.lost is not None and stream.lost.errno == why
    assert (os.path.realpath(f"/proc/self/fd/{number}") == os.devnull) == gone
    stream.close()


def test_a_descriptor_that_another_program_made_non_blocking_is_waited_for() -> None:
    """Every byte arrives, in order."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETFL, fcntl.fcntl(writer, fcntl.F_GETFL) | os.O_NONBLOCK)
    got: list[bytes] = []

    def read() -> None:
        while part := os.read(reader, 65536):
            got.append(part)

    thread = threading.Thread(target=read)
    stream = Stream(writer, "w")
    threading.Timer(0.05, thread.start).start()
    sent = bytes(range(256)) * 2000
    assert stream.write(sent) == len(sent)
    stream.close()
    thread.join()
    os.close(reader)
    assert b"".join(got) == sent and stream.lost is None


PRINTS = """
import sys, warnings, logging
sys.path.insert(0, sys.argv[1])
from dpo.streams import guard
guard()
with open(sys.argv[2], "w") as file:
    file.write(str(file.fileno()))
    for stream in (sys.stdout, sys.stderr):
        for _ in range(3):
            print("x" * 100_000, file=stream)
            stream.flush()
    warnings.warn("y"); logging.error("z")
    print("left in the buffer")
"""


@pytest.mark.parametrize("shell", ["{} 2>&1 | :", "{} >&- 2>&-", "{} <&- >&- 2>&-", "{} >/dev/full", "{} -u 2>&1 | :"])
def test_a_process_prints_on_to_its_end_whatever_became_of_its_streams(shell: str, tmp_path: Path) -> None:
    """Exit code 0, no word of the interpreter's, and no file takes the place of a closed stream."""
    python, unbuffered = f"'{sys.executable}'", " -u" if " -u" in shell else ""
    command = f"{python}{unbuffered} -c \"$CODE\" '{ROOT}' '{tmp_path / 'file'}'; echo $? >'{tmp_path / 'code'}'"
    line = shell.replace(" -u", "").format("{ " + command + "; }")
    ran = subprocess.run(["bash", "-c", line], env=os.environ | {"CODE": PRINTS}, capture_output=True, text=True)
    assert (tmp_path / "code").read_text() == "0\n" and "Exception ignored" not in ran.stderr
    assert int((tmp_path / "file").read_text()) > 2


def test_streams_that_others_put_in_place_are_left_alone(capsys) -> None:
    """A test's, a notebook's."""
    before = sys.stdout, sys.stderr
    guard()
    assert (sys.stdout, sys.stderr) == before
