"""The one door to the disk: temporary names, whole files or none, what a killed writer left, and what went wrong.

A file is written under a name of its own, synced, and renamed. Its writer holds a lock on it meanwhile, so whatever
carries such a name and no lock belongs to a process that died, on whichever host or in whichever container.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from dpo.errors import UsageError

FILE = ".unfinished"
"""The end of a temporary file's name, which is locked while its writer lives."""
BUILDING = ".building"
"""The end of what a library writes by itself (file or folder): only who holds the lock of its target removes it."""
DAY = 86400.0
"""Seconds after which a temporary file is dead on a file system that cannot lock."""
PLACES: dict[str, Path] = {}
"""Where this command reads and writes, by the setting or option that says so."""
TIDIED: set[Path] = set()
"""Folders that this process looked through for what dead ones left."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
WRONG_PLACE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENOENT,
    errno.EEXIST,
}
"""Errors of a path that was given: wrong usage. All others are failures of the machine."""
MANY_FILES = {errno.EMFILE, errno.ENFILE}
OTHER = {errno.EIO, errno.ESTALE, errno.EBUSY, errno.ENODEV, errno.ENXIO, errno.ETXTBSY, errno.ENOTEMPTY}
OF_FILES = NO_ROOM | WRONG_PLACE | MANY_FILES | OTHER


class FileError(OSError):
    """What went wrong with a path, in a sentence with the path, what was done with it, and the key to change."""

    action = "write"

    def __str__(self) -> str:
        return sentence(self)


def sentence(error: OSError) -> str:
    """An error of the file system for people: the path, what could not be done, why, and what to change."""
    path = error.filename2 or error.filename
    action = getattr(error, "action", "write" if error.errno in NO_ROOM | {errno.EROFS} else "open")
    what = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else "a file"
    return f"cannot {action} {what}: {error.strerror or error.args[-1]}; {advice(error, what)}"


def advice(error: OSError, path: str) -> str:
    """What to do about an error of the file system."""
    key = deciding(path)
    if error.errno in MANY_FILES:
        return "raise the limit of open files (ulimit -n)"
    if error.errno in NO_ROOM:
        return f"free space there, or give another {key}"
    if error.errno == errno.ENAMETOOLONG:
        return f"give a shorter {key}"
    if error.errno == errno.ENOENT:
        return f"was it moved or removed? it is decided by {key}"
    return f"give another {key}, or mend what is there"


def deciding(path: str) -> str:
    """The setting or option that decides where `path` lies, with its value; all that could for a path of none."""
    known = {key: str(place) for key, place in PLACES.items()} | {"TMPDIR": os.environ.get("TMPDIR", "/tmp")}
    full = os.path.abspath(path)

    def holds(place: str) -> bool:
        return os.path.join(os.path.abspath(place), "") in os.path.join(full, "")

    found = [key for key, place in known.items() if holds(place)]
    if found:
        key = max(found, key=lambda key: len(os.path.abspath(known[key])))
        return f"{key} (now {known[key]})"
    return " or ".join(PLACES) or "path"


def is_of_files(error: BaseException) -> bool:
    """Whether an error is the file system's (and not a connection's, say)."""
    return isinstance(error, FileError) or (
        isinstance(error, OSError)
        and not isinstance(error, (ConnectionError, TimeoutError))
        and error.errno in OF_FILES
    )


def described(error: BaseException) -> str:
    """An error in a line: a sentence for the file system's, else its type and what it says."""
    if isinstance(error, OSError) and is_of_files(error):
        return sentence(error)
    return f"{type(error).__name__}: {error}"


def is_wrong_place(error: BaseException) -> bool:
    """Whether another path would do: wrong usage, and not a failure of the machine."""
    return isinstance(error, OSError) and is_of_files(error) and error.errno in WRONG_PLACE


@contextmanager
def failing(action: str, path: Path) -> Iterator[None]:
    """Within it, whatever the file system refuses becomes a FileError that says what was done with which path.

    Libraries that write by themselves (safetensors, tokenizers, torch) raise errors of their own; their system's
    number is read from the message.
    """
    try:
        yield
    except (FileError, UsageError):
        raise
    except OSError as error:
        if not is_of_files(error) or (error.filename is not None and not belongs(str(error.filename), path)):
            raise
        raise file_error(action, path, error.errno or errno.EIO) from error
    except Exception as error:
        number = re.search(r"os error (\d+)|code: (\d+)", str(error))
        if number is None:
            raise
        raise file_error(action, path, int(number[1] or number[2])) from error


def belongs(name: str, path: Path) -> bool:
    """Whether a file is `path`, lies in it, or is what is being written for it."""
    return name.startswith(str(path)) or any(part.endswith((FILE, BUILDING)) for part in Path(name).parts)


def file_error(action: str, path: Path, number: int) -> FileError:
    """The FileError of a system's error number."""
    error = FileError(number, os.strerror(number), str(path))
    error.action = action
    return error


def make_folder(path: Path) -> None:
    """The folder and those above it; raises UsageError where there can be none, FileError where the disk fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        wrong = file_error("make the folder", Path(error.filename or path), error.errno or errno.EIO)
        raise (UsageError(str(wrong)) if is_wrong_place(error) else wrong) from error


def temporary(path: Path, end: str = FILE) -> Path:
    """A name beside `path` that no other process, container or host uses."""
    start = path.name.encode()[:120].decode(errors="ignore")
    host = re.sub(r"\W", "-", socket.gethostname(), flags=re.ASCII)[:24]
    return path.with_name(f".{start}.{host}-{os.getpid()}-{secrets.token_hex(6)}{end}")


def write_atomically(path: Path, content: str | bytes) -> None:
    """The whole content or nothing: a temporary file beside `path`, synced, renamed, and the folder synced.

    Half of a character, as in a path that is not UTF-8, becomes the escape that JSON has for it. Raises FileError;
    nothing of it is left then.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    tidy_once(path.parent)
    with failing("write", path), claimed(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        os.replace(file.name, path)
        sync_folder(path.parent)


@contextmanager
def claimed(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file for `path`, locked so that no other process takes it for a dead one's; gone if the block fails.

    An error names `path`, since nobody knows the temporary file.
    """
    file = None
    while file is None:
        file = opened(temporary(path))
    try:
        yield file
    except BaseException:
        Path(file.name).unlink(missing_ok=True)
        raise
    finally:
        with suppress(OSError):  # what a full disk did not take at the flush, it does not take here
            file.close()


def opened(path: Path) -> IO[bytes] | None:
    """The new file, locked; None where another process took it for a dead one's before the lock was there."""
    file = path.open("xb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kept = path.exists()
    except BlockingIOError:
        kept = False
    except OSError:  # a file system that cannot lock: age alone decides there
        kept = True
    if not kept:
        file.close()
        return None
    return file


def tidy_once(folder: Path) -> None:
    """Remove from a folder, at its first use by this process, the temporary files of processes that died."""
    if folder not in TIDIED:
        TIDIED.add(folder)
        tidy(folder)


def tidy(folder: Path) -> None:
    """Remove the temporary files in a folder whose writers are dead: nobody holds their lock."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(FILE) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    remove_if_dead(Path(entry.path))


def remove_if_dead(path: Path) -> None:
    """Remove a temporary file that nobody holds; where locks do not work, one that is a day old."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:
            if time.time() - path.stat().st_mtime < DAY:
                return
        path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """A file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what dead processes were building for `path`; for the holder of its lock, which they would hold."""
    start = f".{path.name.encode()[:120].decode(errors='ignore')}."
    with suppress(FileNotFoundError):
        for name in os.listdir(path.parent):
            if name.startswith(start) and name.endswith(BUILDING):
                remove(path.with_name(name))


def sync(path: Path) -> None:
    """A file, or a folder with everything in it, on the disk itself."""
    if path.is_dir():
        for inside in path.iterdir():
            sync(inside)
        sync_folder(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """The names in a folder on the disk itself, where its file system can do that."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        with suppress(OSError):  # some network file systems sync no folder
            os.fsync(handle)
    finally:
        os.close(handle)
