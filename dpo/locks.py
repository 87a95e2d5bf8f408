"""Locks between processes, hosts and containers: the system's own, or where a file system has none, with a heartbeat.

A lock file says who holds it. The system frees its lock when the holder dies. On a file system without flock (Lustre,
some NFS and FUSE mounts) a holder touches a file every few seconds instead, and one that stopped is dead.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from dpo.disk import file_error, is_wrong_place, make_folder
from dpo.errors import UsageError
from dpo.progress import say

PAUSE = 0.2
"""Seconds between two looks at a lock that another process holds."""
PATIENCE = 1.0
"""Seconds of waiting after which it is said."""
BEAT = 5.0
"""Seconds between two heartbeats of a soft lock."""
DEAD = 60.0
"""Seconds without a heartbeat after which the holder of a soft lock is dead."""
NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""What flock fails with where a file system has no locks."""
FREE = "free"
"""What the file of a soft lock says once it was given back."""
BEATS: dict[Path, tuple[float, float]] = {}
"""The last heartbeat seen of each soft lock, and when by our own clock: clocks of hosts differ."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: host, process, since when (UTC), and what tells the process from another of the same number."""

    host: str
    pid: int
    since: str
    space: str

    @staticmethod
    def me() -> Holder:
        """This process, from now on."""
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return Holder(socket.gethostname(), os.getpid(), now, space())

    @staticmethod
    def read(text: str) -> Holder | None:
        """What a lock file says; None where it says nothing that we know."""
        try:
            return Holder(**json.loads(text))
        except (ValueError, TypeError):
            return None

    @property
    def dead(self) -> bool:
        """Whether the process is known to be gone: it was one of this very machine and container."""
        if self.space != space():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"


def space() -> str:
    """What tells process numbers of this boot and container from those of others, as far as the system says."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} ?"


@contextmanager
def locked(path: Path, work: str = "") -> Iterator[None]:
    """Hold an exclusive lock on `path` (a file beside the thing); it is free again when its owner dies.

    Waits for another holder, and says for whom. `work` is what the lock is held for. Raises UsageError where the
    file cannot be there.
    """
    begin, said = time.monotonic(), ""
    while True:
        with locked_now(path) as taken:
            if taken:
                yield
                return
        waited = time.monotonic() - begin
        whom = str(holder(path) or said or "another process")  # it may be giving the lock back at this moment
        if waited > PATIENCE and whom != said:
            say(f"waiting for {whom}, which is at {work or thing_of(path)} and holds {path}")
            said = whom
        time.sleep(PAUSE / 10 if waited < PATIENCE else PAUSE)


def lock_of_folder(folder: Path) -> Path:
    """Held while a file that several commands share (sweep.json, table.csv, rounds.json) is read, changed, written."""
    return folder / ".lock"


def thing_of(path: Path) -> str:
    """What a lock file stands for."""
    return str(path.parent) if path.name == ".lock" else path.name.removeprefix(".").removesuffix(".lock")


@contextmanager
def locked_now(path: Path) -> Iterator[bool]:
    """Like `locked`, without waiting: gives whether the lock was free, and holds it if so."""
    make_folder(path.parent)
    with lock_file(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise file_error("lock", path, error.errno or errno.EIO) from error
        else:
            sign(file)
            yield True
            return
    with soft_lock(path) as taken:
        yield taken


def lock_file(path: Path) -> IO[str]:
    """The file open for locking, made if it is not there; somebody else's file may be locked by who may read it."""
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+", encoding="utf-8")
    except PermissionError as error:
        with suppress(OSError):
            return path.open(encoding="utf-8")
        raise refused(path, error) from error
    except OSError as error:
        raise refused(path, error) from error


def refused(path: Path, error: OSError) -> Exception:
    """The error of a lock file that can be neither made nor opened: wrong usage where another place would do."""
    wrong = file_error("lock", path, error.errno or errno.EIO)
    if not is_wrong_place(error):
        return wrong
    owner = f" (it belongs to user {path.stat().st_uid})" if path.exists() else ""
    return UsageError(f"{wrong}{owner}")


def sign(file: IO[str]) -> None:
    """Write into a lock file who holds it; a full disk or somebody else's file leaves it unsaid."""
    with suppress(OSError):
        file.truncate(0)
        file.write(json.dumps(asdict(Holder.me())))
        file.flush()


def holder(path: Path) -> Holder | None:
    """Who holds a lock, as far as its file says; None for a lock that nobody holds or signed."""
    kept = last(path)
    try:
        return Holder.read((kept or path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def held(path: Path) -> bool:
    """Whether a process holds the lock; only looks, and makes no file."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in NO_FLOCK:
            return True
        kept = last(path)
        return kept is not None and not free(kept)
    return False


# A soft lock is the highest of the files <lock>.1, <lock>.2, ...: whoever makes the next one holds it, and exactly one
# process can make a file that is not there. It is free once its holder wrote so, or died.


@contextmanager
def soft_lock(path: Path) -> Iterator[bool]:
    """`locked_now` for a file system without flock."""
    before = last(path)
    if before is not None and not free(before):
        yield False
        return
    mine = path.with_name(f"{path.name}.{number_of(before) + 1 if before else 1}")
    try:
        with mine.open("x", encoding="utf-8") as file:
            file.write(json.dumps(asdict(Holder.me())))
    except FileExistsError:
        yield False
        return
    if last(path) != mine:  # somebody went on from a later one
        mine.unlink(missing_ok=True)
        yield False
        return
    for older in soft_files(path):
        if number_of(older) < number_of(mine):
            older.unlink(missing_ok=True)
    over = threading.Event()
    beating = threading.Thread(target=beat, args=(mine, over), daemon=True)
    beating.start()
    try:
        yield True
    finally:
        over.set()
        beating.join()
        with suppress(OSError):
            mine.write_text(FREE, encoding="utf-8")


def beat(path: Path, over: threading.Event) -> None:
    """Touch the file of a soft lock until it is given back."""
    while not over.wait(BEAT):
        with suppress(OSError):
            os.utime(path)


def last(path: Path) -> Path | None:
    """The file that is a soft lock now."""
    return max(soft_files(path), key=number_of, default=None)


def soft_files(path: Path) -> list[Path]:
    """The files of a soft lock: those of earlier holders, and the one that counts."""
    with suppress(FileNotFoundError):
        names = (name for name in os.listdir(path.parent) if name.startswith(f"{path.name}."))
        return [kept for name in names if number_of(kept := path.with_name(name))]
    return []


def number_of(path: Path) -> int:
    """The number at the end of a soft lock's file; 0 for other files."""
    end = path.name.rsplit(".", 1)[-1]
    return int(end) if end.isascii() and end.isdigit() else 0


def free(kept: Path) -> bool:
    """Whether nobody holds a soft lock: given back, its process is gone, or no heartbeat for DEAD seconds."""
    try:
        text, touched = kept.read_text(encoding="utf-8"), kept.stat().st_mtime
    except FileNotFoundError:
        return False  # somebody goes on from it at this moment
    if text == FREE:
        return True
    owner = Holder.read(text)
    if owner is not None and owner.dead:
        return True
    now = time.monotonic()
    beat_at, seen = BEATS.get(kept, (touched, now))
    BEATS[kept] = (touched, seen if beat_at == touched else now)
    return now - BEATS[kept][1] > DEAD
